// One message of a conversation as it is shown: what was said, what it rests on, and what can be done with it.

import { pace } from "./completion.js";
import { fault } from "./dialogs.js";
import { button, el, icon, sends, textarea } from "./dom.js";
import { evidence, marker } from "./evidence.js";
import { number, t } from "./language.js";
import { copyText, render } from "./markdown.js";

/**
 * The element of a message and a function that draws it anew. `acts`: edit(text), again(), redraw(), open(passage);
 * while `blind()`, nothing is shown but the words.
 */
export function turn(message, acts) {
  const node = el("article", { class: `turn ${message.role}`, "aria-label": t(`role.${message.role}`) });
  let waiting = false;
  const draw = () => {
    waiting = false;
    node.replaceChildren(...(message.role === "user" ? question(message, acts, node) : answer(message, acts)));
  };
  draw();
  return {
    node,
    update() {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(draw);
    },
  };
}

function question(message, acts, node) {
  const copied = copying(() => message.content);
  return [
    el("div", { class: "bubble" }, message.content),
    el(
      "div",
      { class: "acts" },
      copied,
      button(t("edit"), () => node.replaceChildren(editor(message, acts)), {
        bare: true,
        symbol: "edit",
        kind: "edit",
      }),
    ),
  ];
}

/** Changes what was asked; what came after it goes, and the answer is made anew. */
function editor(message, acts) {
  const area = textarea({ value: message.content, "aria-label": t("edit"), autofocus: true });
  const send = () => area.value.trim() && acts.edit(area.value.trim());
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      acts.redraw();
    }
    if (sends(event)) {
      event.preventDefault();
      send();
    }
  });
  requestAnimationFrame(() => area.focus());
  return el(
    "div",
    { class: "editor" },
    area,
    el("p", { class: "hint" }, t("edit.hint")),
    el("div", { class: "actions" }, button(t("cancel"), acts.redraw), button(t("edit.send"), send, { kind: "main" })),
  );
}

function answer(message, acts) {
  const cited = new Map((message.evidence?.citations ?? []).map((one) => [Number(one.marker ?? one.number), one]));
  const cite = (n) => (!acts.blind?.() && cited.has(n) ? marker(n, cited.get(n), acts.open) : null);
  const body = message.content ? el("div", { class: "prose" }, render(message.content, cite)) : null;
  const refused = message.evidence?.refused;
  return [
    message.busy && !message.content && working(acts.grounded),
    refused
      ? el("div", { class: "refusal" }, icon("alert"), el("div", null, el("strong", null, t("refused")), body))
      : body,
    message.busy ? null : ending(message, acts),
    !acts.blind?.() && message.evidence && evidence(message.evidence, acts.open),
    message.busy || acts.blind?.() ? null : doings(message, acts),
  ].filter(Boolean);
}

function working(grounded) {
  return el(
    "p",
    { class: "working" },
    el("span", { class: "dots", "aria-hidden": "true" }, el("i"), el("i"), el("i")),
    t(grounded ? "working.grounded" : "working"),
  );
}

/** How it ended, where that is not the usual way. */
function ending(message, acts) {
  if (message.error) return fault({ message: message.error }, acts.again);
  if (message.stopped) return el("p", { class: "soft small" }, t("stopped"));
  if (message.finish === "length") return el("p", { class: "soft small" }, t("cut"));
  if (!message.content) return el("p", { class: "soft small" }, t("silent"));
  return null;
}

function doings(message, acts) {
  const told = pace(message);
  const words = told && [
    t("tokens", { n: number(told.tokens) }),
    told.rate
      ? t("rate", { n: number(told.rate) })
      : told.seconds > 0.1 && t("seconds", { n: number(told.seconds, 1) }),
  ];
  return el(
    "div",
    { class: "acts" },
    message.content && copying(() => message.content),
    message.error ? null : button(t("again"), acts.again, { bare: true, symbol: "again" }),
    told && el("span", { class: "soft small" }, words.filter(Boolean).join(" · ")),
  );
}

/** A button that copies, and shows that it did. */
function copying(text) {
  const show = (symbol, words) => {
    node.replaceChildren(icon(symbol));
    node.setAttribute("aria-label", words);
  };
  const node = button(
    t("copy"),
    async () => {
      await copyText(text());
      show("check", t("copied"));
      setTimeout(() => show("copy", t("copy")), 2000);
    },
    { bare: true, symbol: "copy" },
  );
  return node;
}
