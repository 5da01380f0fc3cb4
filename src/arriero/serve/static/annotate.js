// Llama 2's protocol (arXiv 2307.09288, section 3.2.1): two answers in random order, which is better, by how much, and
// which of them are safe. The words of degree and safety are those of align/preferences.py.

import { call, info } from "./api.js";
import { pickTwo } from "./composer.js";
import { askLine, fault } from "./dialogs.js";
import { button, el, icon, sends, textarea } from "./dom.js";
import { count, number, percent, t } from "./language.js";
import { render } from "./markdown.js";
import { load, save } from "./storage.js";

const DEGREES = ["significantly better", "better", "slightly better", "negligibly better"];
const SAFETIES = ["chosen safe", "both safe", "both unsafe", "chosen unsafe"];
const SAFETY_KEYS = ["q", "w", "e", "r"];
/** Keys 1–8: from "A is significantly better" to "B is significantly better". */
const CHOICES = [...DEGREES.map((degree) => [1, degree]), ...DEGREES.toReversed().map((degree) => [2, degree])];

export const keys = [
  ["1 · … · 8", "keys.choose"],
  [SAFETY_KEYS.join(" · "), "keys.safety"],
  ["Enter", "keys.next"],
];

let view = null;
let pair = null;
let verdict = {};
let offered = [];

/** Draws the page; returns what takes it away. */
export function mount(main) {
  const sheet = el("div", { class: "sheet" });
  view = { sheet, facts: el("div", { class: "facts" }), desk: el("div") };
  sheet.append(el("div", { class: "bar-head" }, el("h1", null, t("nav.annotate")), view.facts), view.desk);
  main.append(sheet);
  begin();
  return () => {
    view = null;
  };
}

/** A key that the page knows. */
export function press(event) {
  if (!pair || view.desk.querySelector("[data-choice]") === null) return;
  const choice = CHOICES[Number(event.key) - 1];
  const safety = SAFETIES[SAFETY_KEYS.indexOf(event.key)];
  if (choice) choose(choice);
  else if (safety) chooseSafety(safety);
  else if (event.key === "Enter" && !event.target.closest("button:not([aria-pressed=true]), summary")) judge();
  else return;
  event.preventDefault();
}

async function begin() {
  view.desk.replaceChildren(el("p", { class: "soft" }, t("loading")));
  try {
    const told = await info();
    offered = told.models.filter(({ kind }) => kind !== "collection").map(({ id }) => id);
    if (!told.features.preferences) view.desk.replaceChildren(disabled());
    else if (load("annotator")) await next();
    else view.desk.replaceChildren(introduction());
  } catch (error) {
    view?.desk.replaceChildren(fault(error, begin));
  }
}

function disabled() {
  return el(
    "div",
    { class: "empty" },
    icon("annotate"),
    el("h2", null, t("annotate.off")),
    el("p", { class: "soft" }, t("annotate.off.hint")),
    el("code", null, "arriero serve --preferences preferences.db"),
  );
}

/** Before the first pair: what is asked, and of whom. */
function introduction() {
  const name = el("input", { required: true, maxlength: 100, autocomplete: "nickname", "aria-label": t("annotator") });
  const start = (event) => {
    event.preventDefault();
    if (!name.value.trim()) return name.focus();
    save("annotator", name.value.trim());
    return begin();
  };
  return el(
    "form",
    { class: "empty", onsubmit: start },
    icon("annotate"),
    el("h2", null, t("annotate.intro")),
    el("p", { class: "soft" }, t("annotate.intro.hint")),
    el(
      "div",
      { class: "line" },
      el("label", { class: "field" }, el("span", { class: "label" }, t("annotator")), name),
      el("button", { type: "submit", class: "button main" }, t("annotate.start")),
    ),
  );
}

async function next() {
  const annotator = load("annotator");
  const [told, stats] = await Promise.all([
    call(`api/preferences/next?annotator=${encodeURIComponent(annotator)}`),
    call("api/preferences/stats"),
  ]);
  if (!view) return;
  drawFacts(told.progress, stats);
  show(told.pair);
}

function drawFacts({ judged, total }, { agreement, annotators }) {
  const people = Object.keys(annotators ?? {}).length;
  view.facts.replaceChildren(
    button(load("annotator"), rename, { kind: "quiet", symbol: "edit", title: t("annotator.change") }),
    el(
      "label",
      { class: "progress" },
      el("progress", { value: judged, max: Math.max(total, 1) }),
      el("span", null, t("annotate.progress", { judged: number(judged), total: number(total) })),
    ),
    el(
      "span",
      { title: t("agreement.title") },
      agreement === null || agreement === undefined
        ? count("annotators", people)
        : t("agreement", { share: percent(agreement) }),
    ),
  );
}

async function rename() {
  const name = await askLine(t("annotator.change"), t("annotator"), { value: load("annotator"), action: t("done") });
  if (!name) return;
  save("annotator", name);
  begin();
}

/** Two answers and the choice between them; without a pair, the place to write a prompt. */
function show(fresh) {
  pair = fresh;
  verdict = {};
  view.desk.replaceChildren(...(pair ? judging() : [el("p", { class: "lead" }, t("annotate.none"))]), writing());
}

function judging() {
  const answers = pair.order.map((which, at) =>
    el(
      "article",
      { class: "answer", "aria-label": t("answer", { name: "AB"[at] }) },
      el("h2", null, t("answer", { name: "AB"[at] })),
      el("div", { class: "prose" }, render(pair.responses[which - 1])),
    ),
  );
  const side = (which) =>
    el(
      "fieldset",
      { class: "choices" },
      el("legend", null, t("better", { name: "AB"[which - 1] })),
      CHOICES.map(
        ([choice, degree], at) =>
          choice === which &&
          el(
            "button",
            {
              type: "button",
              class: "button",
              "data-choice": at,
              "aria-pressed": "false",
              onclick: () => choose(CHOICES[at]),
            },
            el("span", null, t(`degree.${degree}`)),
            el("kbd", null, String(at + 1)),
          ),
      ),
    );
  const safety = el(
    "fieldset",
    { class: "choices safety" },
    el("legend", null, t("safety")),
    SAFETIES.map((word, at) =>
      el(
        "button",
        {
          type: "button",
          class: "button",
          "data-safety": word,
          "aria-pressed": "false",
          onclick: () => chooseSafety(word),
        },
        el("span", null, t(`safety.${word}`)),
        el("kbd", null, SAFETY_KEYS[at]),
      ),
    ),
  );
  const go = el(
    "div",
    { class: "actions" },
    el(
      "button",
      { type: "button", class: "button main", id: "next", disabled: true, onclick: judge },
      el("span", null, t("annotate.next")),
      el("kbd", null, "Enter"),
    ),
  );
  return [
    el("p", { class: "soft" }, t(`kind.${pair.kind}`)),
    el(
      "div",
      { class: "dialogue" },
      pair.messages.map(({ role, content }) =>
        el(
          "div",
          { class: `said ${role}` },
          el("span", { class: "soft small" }, t(`said.${role}`)),
          el("div", { class: "words" }, content),
        ),
      ),
    ),
    el("div", { class: "two" }, answers),
    el("div", { class: "two" }, side(1), side(2)),
    safety,
    go,
  ];
}

function choose([choice, degree]) {
  Object.assign(verdict, { choice, degree });
  mark("choice", (node) => CHOICES[node.dataset.choice][0] === choice && CHOICES[node.dataset.choice][1] === degree);
}

function chooseSafety(safety) {
  verdict.safety = safety;
  mark("safety", (node) => node.dataset.safety === safety);
}

/** Shows which of some buttons is chosen. */
function mark(kind, chosen) {
  for (const node of view.desk.querySelectorAll(`[data-${kind}]`))
    node.setAttribute("aria-pressed", String(chosen(node)));
  view.desk.querySelector("#next").disabled = !(verdict.choice && verdict.safety);
}

async function judge() {
  if (!(verdict.choice && verdict.safety) || verdict.sending) return;
  verdict.sending = true;
  const { choice, degree, safety } = verdict;
  const json = { pair: pair.id, order: pair.order, choice, degree, safety, annotator: load("annotator") };
  try {
    await call("api/preferences/judgements", { json });
    await next();
    document.getElementById("main")?.scrollTo({ top: 0 });
  } catch (error) {
    verdict.sending = false;
    view?.desk.querySelector("#next").before(fault(error));
  }
}

/** A prompt of the annotator's own, answered twice. */
function writing() {
  const area = textarea({
    rows: 2,
    placeholder: t("write.placeholder"),
    "aria-label": t("write"),
    onkeydown: (event) => {
      if (sends(event) && !send.disabled) ask(event);
    },
  });
  const models = load("annotate.models", []).filter((name) => offered.includes(name));
  const picked = [models[0] ?? offered[0], models[1] ?? offered[1] ?? offered[0]];
  const troubles = el("div");
  const ask = async (event) => {
    event?.preventDefault();
    const content = area.value.trim();
    if (!content) return area.focus();
    send.disabled = true;
    troubles.replaceChildren(el("p", { class: "working", role: "status" }, t("write.working")));
    try {
      const json = { messages: [{ role: "user", content }], models: picked, kind: "helpfulness", source: "annotate" };
      return show(shuffled(await call("api/preferences/pairs", { json })));
    } catch (error) {
      send.disabled = false;
      return troubles.replaceChildren(fault(error, ask));
    }
  };
  const send = el("button", { type: "submit", class: "button" }, t("write.go"));
  const form = el(
    "form",
    { class: "write", onsubmit: ask },
    area,
    el("div", { class: "line" }, offered.length > 1 ? pickTwo(offered, picked, "annotate.models") : null, send),
    troubles,
  );
  return el("details", { class: "card", open: !pair }, el("summary", null, t("write")), form);
}

/** The pair in an order that tells nothing, where the server has not drawn one. */
function shuffled(fresh) {
  fresh.order ??= crypto.getRandomValues(new Uint8Array(1))[0] % 2 ? [1, 2] : [2, 1];
  return fresh;
}
