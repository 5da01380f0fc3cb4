// Two models answer one prompt side by side; their names are hidden until the vote.

import { call, info } from "./api.js";
import { complete } from "./completion.js";
import { openSettings, pickTwo } from "./composer.js";
import { DEFAULTS } from "./conversations.js";
import { fault, openDialog } from "./dialogs.js";
import { button, el, icon, sends, textarea } from "./dom.js";
import { place } from "./evidence.js";
import { number, t } from "./language.js";
import { load, save } from "./storage.js";
import { turn } from "./turn.js";

const VOTES = ["left", "right", "tie", "bad"];

export const keys = [
  ["1 · 2 · 3 · 4", "keys.vote"],
  ["/", "keys.prompt"],
];

let view = null;
let offered = [];
let keeping = false;
/** The prompt under vote: {prompt, sides: [{model, message}], voted}. */
let round = null;
let control = null;
const settings = { ...DEFAULTS, ...load("settings", {}), collection: null, system: "" };
let picked = load("compare.models", []);

/** Draws the page; returns what takes it away. */
export function mount(main) {
  const sheet = el("div", { class: "sheet compare-sheet" });
  view = { sheet, setting: el("div", { class: "line" }), duel: el("div"), tally: el("div") };
  sheet.append(el("h1", null, t("nav.compare")), el("p", { class: "lead" }, t("compare.lead")));
  main.append(sheet);
  begin();
  return () => {
    view = null;
  };
}

/** A key that the page knows. */
export function press(event) {
  const vote = VOTES[Number(event.key) - 1];
  if (vote && ripe()) cast(vote);
  else if (event.key === "/") view.sheet.querySelector("textarea")?.focus();
  else if (event.key === "Escape") control?.abort();
  else return;
  event.preventDefault();
}

async function begin() {
  try {
    const told = await info({ fresh: true });
    offered = told.models.map(({ id }) => id);
    keeping = told.features.preferences;
  } catch (error) {
    view?.sheet.append(
      fault(error, () => {
        view.sheet.lastChild.remove();
        begin();
      }),
    );
    return;
  }
  if (!view) return;
  if (offered.length < 2) {
    view.sheet.append(
      el(
        "div",
        { class: "empty" },
        icon("compare"),
        el("h2", null, t("compare.one")),
        el("p", { class: "soft" }, t("compare.one.hint")),
        el("code", null, "arriero serve --model one --model other"),
      ),
    );
    return;
  }
  picked = [0, 1].map((at) => (offered.includes(picked[at]) ? picked[at] : offered[at]));
  view.sheet.append(view.setting, asking(), view.duel, view.tally);
  drawSetting();
  drawDuel();
  drawTally();
}

function drawSetting() {
  const [first, second] = pickTwo(offered, picked, "compare.models", drawTally);
  view.setting.replaceChildren(
    first,
    el("span", { class: "soft" }, t("versus")),
    second,
    button(t("settings"), () => openSettings(settings, () => {}), { bare: true, symbol: "sliders" }),
  );
}

function asking() {
  const area = textarea({ placeholder: t("compare.prompt"), "aria-label": t("compare.prompt") });
  const go = (event) => {
    event.preventDefault();
    const prompt = area.value.trim();
    if (!prompt) return area.focus();
    area.value = "";
    area.grow();
    area.blur(); // so that the keys vote
    return ask(prompt);
  };
  area.addEventListener("keydown", (event) => {
    if (sends(event)) go(event);
  });
  return el(
    "form",
    { class: "composer", onsubmit: go },
    area,
    el(
      "div",
      { class: "row" },
      el("div", { class: "pickers" }),
      el("button", { type: "submit", class: "button main round", "aria-label": t("send") }, icon("send")),
    ),
  );
}

/** Asks both; which model is left and which right is drawn by lot. */
async function ask(prompt) {
  control?.abort();
  const own = (control = new AbortController());
  const models = crypto.getRandomValues(new Uint8Array(1))[0] % 2 ? [...picked] : picked.toReversed();
  const sides = models.map((model) => ({ model, message: { role: "assistant", content: "", busy: true } }));
  round = { prompt, sides, voted: null };
  drawDuel();
  const asked = [{ role: "user", content: prompt }];
  await Promise.all(
    sides.map((side) => {
      const collection = side.model.startsWith("arriero:") ? side.model.slice("arriero:".length) : null;
      const model = collection ? null : side.model;
      return complete({ ...settings, model, collection }, asked, side.message, () => side.drawn?.update(), own.signal);
    }),
  );
  if (control === own) drawVotes();
}

const ripe = () =>
  round && !round.voted && round.sides.every(({ message }) => !message.busy && message.content && !message.error);

function drawDuel() {
  if (!view || !round) return;
  const again = () => ask(round.prompt);
  const columns = round.sides.map((side, at) => {
    side.drawn = turn(side.message, { again, open: showSource, blind: () => !round.voted });
    return el(
      "section",
      { class: "answer", "aria-label": t(at ? "right" : "left") },
      el("h2", { "data-side": at }, t(at ? "right" : "left")),
      side.drawn.node,
    );
  });
  view.votes = el("div", { class: "votes", role: "group", "aria-label": t("vote") });
  view.duel.replaceChildren(
    el("div", { class: "bubble asked" }, round.prompt),
    el("div", { class: "two" }, columns),
    view.votes,
  );
  drawVotes();
}

/** A passage of an answer from documents, once the vote is cast. */
function showSource(passage) {
  openDialog(place(passage), () => el("p", { class: "words" }, passage.text ?? passage.quote));
}

function drawVotes() {
  if (!view || !round) return;
  if (round.voted) {
    reveal();
    return;
  }
  const busy = round.sides.some(({ message }) => message.busy);
  view.votes.replaceChildren(
    ...(busy
      ? [button(t("stop"), () => control?.abort(), { symbol: "stop" })]
      : VOTES.map((vote, at) =>
          el(
            "button",
            { type: "button", class: "button", disabled: !ripe(), onclick: () => cast(vote) },
            el("span", null, t(`vote.${vote}`)),
            el("kbd", null, String(at + 1)),
          ),
        )),
  );
}

/** Counts a vote, tells the names, and keeps it as a preference where the server keeps them. */
async function cast(vote) {
  round.voted = vote;
  const [left, right] = round.sides.map(({ model }) => model);
  const tally = load("tally", []);
  tally.push({ left, right, vote });
  save("tally", tally);
  for (const { drawn } of round.sides) drawn.update();
  drawVotes();
  drawTally();
  if (!keeping || vote === "bad") return;
  try {
    await keepVote(round, vote);
  } catch (error) {
    view?.votes.after(fault(error));
  }
}

/** A tie is "negligibly better", which is also the word for the unsure. */
async function keepVote({ prompt, sides }, vote) {
  const responses = sides.map(({ model, message }) => ({ text: message.content, model }));
  const messages = [{ role: "user", content: prompt }];
  const pair = await call("api/preferences/pairs", {
    json: { messages, responses, kind: "helpfulness", source: "compare" },
  });
  const json = {
    pair: pair.id,
    order: [1, 2],
    choice: vote === "right" ? 2 : 1,
    degree: vote === "tie" ? "negligibly better" : "better",
    annotator: load("annotator") ?? "compare",
  };
  await call("api/preferences/judgements", { json });
}

function reveal() {
  for (const node of view.duel.querySelectorAll("[data-side]")) {
    const at = Number(node.dataset.side);
    const won = round.voted === (at ? "right" : "left");
    node.replaceChildren(round.sides[at].model, won ? el("span", { class: "won" }, icon("check"), t("won")) : "");
  }
  view.votes.replaceChildren(
    el("p", { role: "status" }, t(`voted.${round.voted}`)),
    button(t("compare.again"), () => view.sheet.querySelector("textarea").focus(), { kind: "main" }),
  );
}

/** Wins of each pair of models in this browser. */
function drawTally() {
  if (!view) return;
  const pairs = new Map();
  for (const { left, right, vote } of load("tally", [])) {
    const [one, other] = [left, right].toSorted();
    const key = `${one}\n${other}`;
    const row = pairs.get(key) ?? { one, other, wins: 0, losses: 0, ties: 0, bad: 0 };
    const winner = { left, right }[vote];
    if (!winner) row[vote === "tie" ? "ties" : "bad"] += 1;
    else row[winner === one ? "wins" : "losses"] += 1;
    pairs.set(key, row);
  }
  if (!pairs.size) return view.tally.replaceChildren();
  const rows = [...pairs.values()].map((row) =>
    el(
      "li",
      null,
      el(
        "div",
        { class: "names" },
        el("span", null, `${row.one} · ${number(row.wins)}`),
        el("span", null, `${number(row.losses)} · ${row.other}`),
      ),
      split(row),
      el("span", { class: "soft small" }, t("tally.rest", { ties: number(row.ties), bad: number(row.bad) })),
    ),
  );
  return view.tally.replaceChildren(
    el(
      "div",
      { class: "card tally" },
      el(
        "div",
        { class: "bar-head" },
        el("h2", null, t("tally")),
        button(
          t("tally.clear"),
          () => {
            save("tally", []);
            drawTally();
          },
          { kind: "quiet" },
        ),
      ),
      el("ul", null, rows),
    ),
  );
}

function split({ wins, losses, ties, bad }) {
  const total = Math.max(wins + losses + ties + bad, 1);
  const part = (kind, share) => {
    const node = el("i", { class: kind });
    node.style.width = `${(share / total) * 100}%`;
    return node;
  };
  return el(
    "div",
    { class: "split", "aria-hidden": "true" },
    part("one", wins),
    part("tie", ties + bad),
    part("other", losses),
  );
}
