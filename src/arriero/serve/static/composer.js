// Where a prompt is written: the text, which model answers and from which documents, and the settings.

import { usual } from "./completion.js";
import { openDialog } from "./dialogs.js";
import { button, el, field, icon, select, sends, textarea } from "./dom.js";
import { t } from "./language.js";
import { save } from "./storage.js";

/** What `/api/info` offers, as lists: models (adapters among them) and collections by their bare names. */
export function offer(told) {
  const named = (kinds) => told.models.filter(({ kind }) => kinds.includes(kind)).map(({ id }) => id);
  return {
    models: named(["model", "adapter"]),
    collections: named(["collection"]).map((id) => id.replace(/^arriero:/, "")),
    fallback: told.default,
  };
}

/** The form; `acts`: send(text), stop(), changed(). `refresh` shows settings and whether an answer is under way. */
export function composer(acts) {
  const area = textarea({ "aria-label": t("prompt"), placeholder: t("prompt"), id: "prompt", enterkeyhint: "send" });
  const pickers = el("div", { class: "pickers" });
  const go = el("button", { type: "submit", class: "button main round" });
  const submit = (event) => {
    event?.preventDefault();
    if (go.dataset.does === "stop") return acts.stop();
    const text = area.value.trim();
    if (!text) return area.focus();
    area.value = "";
    area.grow();
    return acts.send(text);
  };
  area.addEventListener("keydown", (event) => {
    if (!sends(event)) return;
    event.preventDefault();
    if (go.dataset.does !== "stop") submit();
  });
  const node = el("form", { class: "composer", onsubmit: submit }, area, el("div", { class: "row" }, pickers, go));
  const refresh = (settings, offered, busy) => {
    go.dataset.does = busy ? "stop" : "send";
    go.setAttribute("aria-label", t(busy ? "stop" : "send"));
    go.title = t(busy ? "stop" : "send");
    go.replaceChildren(icon(busy ? "stop" : "send"));
    pickers.replaceChildren(...pick(settings, offered, acts.changed));
  };
  return { node, area, refresh };
}

function pick(settings, offered, changed) {
  if (!offered) return [];
  const set = (name) => (value) => {
    settings[name] = value || null;
    changed();
  };
  const documents = [["", t("documents.none")], ...offered.collections.map((name) => [name, name])];
  return [
    select(
      offered.models.map((id) => [id, id]),
      settings.model,
      set("model"),
      { "aria-label": t("model"), title: t("model") },
    ),
    offered.collections.length
      ? select(documents, settings.collection ?? "", set("collection"), {
          "aria-label": t("documents.from"),
          title: t("documents.from"),
        })
      : el(
          "a",
          { class: "button quiet", href: "#/documents" },
          icon("documents"),
          el("span", null, t("documents.add")),
        ),
    button(t("settings"), () => openSettings(settings, changed), {
      bare: true,
      symbol: "sliders",
      kind: settings.system && !settings.collection ? "set" : "",
    }),
  ];
}

/** Where two models are chosen: `picked` is changed in place, and kept in the browser under `name`. */
export function pickTwo(offered, picked, name, changed = () => {}) {
  const pick = (at) =>
    select(
      offered.map((id) => [id, id]),
      picked[at],
      (id) => {
        picked[at] = id;
        save(name, picked);
        changed();
      },
      { "aria-label": t("write.model", { n: at + 1 }) },
    );
  return [pick(0), pick(1)];
}

const NUMBERS = [
  ["temperature", { min: 0, max: 2, step: 0.05 }],
  ["top_p", { min: 0.01, max: 1, step: 0.01 }],
  ["max_tokens", { min: 1, max: 1_000_000, step: 1 }],
  ["seed", { min: 0, max: 2 ** 31 - 1, step: 1 }],
  ["k", { min: 1, max: 50, step: 1 }],
];

/** The system prompt and how an answer is sampled; an empty field leaves it to the server. */
export async function openSettings(settings, changed, { system = true } = {}) {
  const unset = await usual(settings).catch(() => ({}));
  await openDialog(t("settings"), (close) => {
    const prompt =
      system &&
      !settings.collection &&
      textarea({
        value: settings.system,
        rows: 3,
        placeholder: t("system.placeholder"),
        oninput: (event) => {
          settings.system = event.target.value;
        },
      });
    const numbers = NUMBERS.filter(([name]) => name !== "k" || settings.collection).map(([name, limits]) => {
      const read = ({ target }) => {
        if (target.value === "") settings[name] = null;
        else if (target.checkValidity()) settings[name] = Number(target.value);
      };
      const input = el("input", {
        type: "number",
        inputmode: "decimal",
        value: settings[name] ?? "",
        placeholder: unset[name] ?? t("set.auto"),
        ...limits,
        oninput: read,
        name,
      });
      return field(t(`set.${name}`), input, t(`set.${name}.hint`));
    });
    const done = (event) => {
      event.preventDefault();
      if (event.target.reportValidity()) close();
    };
    return el(
      "form",
      { class: "settings", novalidate: true, onsubmit: done },
      prompt && field(t("system"), prompt),
      el("div", { class: "grid" }, numbers),
      el("div", { class: "actions" }, el("button", { class: "button main", type: "submit" }, t("done"))),
    );
  });
  changed();
}
