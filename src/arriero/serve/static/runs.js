// The page of training runs: which there are, their curves as they grow, and their reports.

import { call, request } from "./api.js";
import { chart, short, smooth } from "./chart.js";
import { fault, openDialog } from "./dialogs.js";
import { button, el, field, icon, select } from "./dom.js";
import { ago, number, t } from "./language.js";
import { load, save } from "./storage.js";

const POLL_MS = 3000;
const SMOOTH_FROM = 30;
/** So many lines at once, and there are more to be had. */
const PORTION = 1000;
/** What steps count by, and what tells nothing as a curve. */
const NO_CURVE = new Set(["step", "time", "seconds", "tokens", "skipped", "finished"]);

export const keys = [
  ["l", "keys.log"],
  ["← · →", "keys.point"],
];

let view = null;
let runs = [];
let chosen = load("run");
/** Of the run that is shown: its lines so far and where the next begin. */
let held = { name: null, steps: [], validations: [], next: 0 };
let metric = "loss";
let log = load("log-scale", false);

/** Draws the page; returns what takes it away. */
export function mount(main) {
  const drawing = chart();
  view = {
    body: el("div"),
    list: el("ul", { class: "runs", "aria-label": t("nav.runs") }),
    detail: el("section"),
    drawing,
  };
  main.append(
    el("div", { class: "sheet" }, el("h1", null, t("nav.runs")), el("p", { class: "lead" }, t("runs.lead")), view.body),
  );
  view.body.append(el("p", { class: "soft" }, t("loading")));
  held = { name: null, steps: [], validations: [], next: 0 };
  begin();
  return () => {
    clearTimeout(view.timer);
    drawing.close();
    view = null;
  };
}

/** A key that the page knows. */
export function press(event) {
  if (event.key !== "l") return;
  view.detail.querySelector("input[type=checkbox]")?.click();
  event.preventDefault();
}

async function begin() {
  try {
    runs = await call("api/runs");
  } catch (error) {
    view?.body.replaceChildren(fault(error, begin));
    return;
  }
  if (!view) return;
  if (!runs.length) {
    view.body.replaceChildren(
      el(
        "div",
        { class: "empty" },
        icon("runs"),
        el("h2", null, t("runs.none")),
        el("p", { class: "soft" }, t("runs.none.hint")),
        el("code", null, "arriero sft runs/mine --data examples.jsonl"),
      ),
    );
    view.timer = setTimeout(begin, pause());
    return;
  }
  view.body.replaceChildren(el("div", { class: "with-list" }, view.list, view.detail));
  if (!runs.some(({ name }) => name === chosen)) chosen = runs[0].name;
  show(chosen);
}

function show(name) {
  chosen = name;
  save("run", name);
  drawList();
  if (held.name !== name) held = { name, steps: [], validations: [], next: 0 };
  view.detail.replaceChildren(el("p", { class: "soft" }, t("loading")));
  view.drawn = null;
  follow();
}

function drawList() {
  view.list.replaceChildren(
    ...runs.map((run) =>
      el(
        "li",
        null,
        el(
          "button",
          {
            type: "button",
            "aria-pressed": String(run.name === chosen),
            onclick: () => show(run.name),
          },
          el("strong", null, run.name),
          el(
            "span",
            { class: "soft small" },
            [
              run.kind,
              t(`run.${run.state}`),
              run.steps && t("run.steps", { step: number(run.step), steps: number(run.steps) }),
              run.loss !== null && run.loss !== undefined && t("run.loss", { loss: short(run.loss) }),
              run.updated && ago(run.updated),
            ]
              .filter(Boolean)
              .join(" · "),
          ),
          run.steps ? el("progress", { value: run.step, max: run.steps, "aria-hidden": "true" }) : null,
        ),
      ),
    ),
  );
}

function pause() {
  return document.hidden ? POLL_MS * 5 : POLL_MS;
}

/** Asks for the lines that are new and for the list, and again after a while. */
async function follow() {
  clearTimeout(view?.timer);
  const { name } = held;
  let more = false;
  try {
    const { rows, next, restarted } = await call(`api/runs/${encodeURIComponent(name)}/metrics?after=${held.next}`);
    if (!view || held.name !== name) return;
    if (restarted) Object.assign(held, { steps: [], validations: [] });
    held.next = next;
    more = rows.length >= PORTION;
    for (const row of rows) {
      if (row.kind === "step") held.steps.push(row);
      else if (row.kind === "validation") held.validations.push(row);
    }
    drawDetail(rows.length > 0);
    if (!more) runs = await call("api/runs");
    if (!view || held.name !== name) return;
    drawState();
  } catch (error) {
    view?.detail.prepend(fault(error, () => show(name)));
    return;
  }
  view.timer = setTimeout(follow, more ? 0 : pause());
}

/** The states in the list, without taking the focus from it. */
function drawState() {
  if (!view.list.contains(document.activeElement)) drawList();
}

function metricsOf({ steps, validations }) {
  const names = new Set(["loss"]);
  for (const row of [steps.at(-1), validations.at(-1)]) {
    for (const [name, value] of Object.entries(row ?? {}))
      if (typeof value === "number" && !NO_CURVE.has(name)) names.add(name);
  }
  return [...names];
}

function drawDetail(fresh) {
  if (!view.drawn) drawFrame();
  if (fresh || !view.plotted) drawCurves();
}

function drawFrame() {
  const names = metricsOf(held);
  if (!names.includes(metric)) metric = "loss";
  view.legend = el("ul", { class: "legend" });
  const picker = select(
    names.map((name) => [name, name]),
    metric,
    (name) => {
      metric = name;
      drawCurves();
    },
  );
  const scale = el("input", {
    type: "checkbox",
    checked: log,
    onchange: () => {
      log = scale.checked;
      save("log-scale", log);
      drawCurves();
    },
  });
  view.detail.replaceChildren(
    el(
      "div",
      { class: "bar-head" },
      el("h2", null, chosen),
      button(t("report"), () => showReport(chosen), { symbol: "documents" }),
    ),
    el("div", { class: "line" }, field(t("metric"), picker), el("label", { class: "check" }, scale, t("keys.log"))),
    el("figure", { class: "card" }, view.legend, view.drawing.node),
  );
  view.drawn = chosen;
}

/** The curves of the metric: each step, smoothed where there are many, and the validations. */
function drawCurves() {
  const of = (rows) => rows.filter((row) => Number.isFinite(row[metric])).map((row) => [row.step, row[metric]]);
  const steps = of(held.steps);
  const many = steps.length >= SMOOTH_FROM;
  const curves = [
    { label: t("curve.steps"), kind: many ? "faint" : "main", points: steps },
    { label: t("curve.smooth"), kind: "main", points: many ? smooth(steps) : [] },
    { label: t("curve.validation"), kind: "other", points: of(held.validations) },
  ].filter(({ points }) => points.length);
  view.plotted = true;
  view.legend.replaceChildren(
    ...curves.map(({ label, kind, points }) =>
      el("li", { class: kind }, el("i"), `${label} ${short(points.at(-1)[1])}`),
    ),
  );
  if (!curves.length) view.legend.replaceChildren(el("li", { class: "soft" }, t("run.waiting")));
  view.drawing.draw({ curves, log, name: t("step"), unit: t("step") });
}

/** The report in a frame that shares nothing with this page; its text is handed over, since a frame sends no token. */
async function showReport(name) {
  let html;
  try {
    html = await (await request(`api/runs/${encodeURIComponent(name)}/report`)).text();
  } catch (error) {
    view?.detail.prepend(fault(error, () => showReport(name)));
    return;
  }
  const frame = el("iframe", {
    sandbox: "allow-scripts",
    src: "static/report-frame.html",
    title: t("report.of", { name }),
  });
  const hand = (event) => {
    if (event.source === frame.contentWindow && event.data === "ready")
      frame.contentWindow.postMessage({ report: html }, "*");
  };
  addEventListener("message", hand);
  await openDialog(t("report.of", { name }), () => [frame], { wide: true });
  removeEventListener("message", hand);
}
