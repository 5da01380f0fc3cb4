// The page of conversations. An answer under way goes on while another page is looked at.

import { info } from "./api.js";
import { complete } from "./completion.js";
import { composer, offer } from "./composer.js";
import * as store from "./conversations.js";
import { fault, tell } from "./dialogs.js";
import { button, el, icon, say } from "./dom.js";
import { showPassage } from "./evidence.js";
import { ago, t } from "./language.js";
import { turn } from "./turn.js";

export const keys = [
  ["Enter", "keys.send"],
  ["Shift+Enter", "keys.line"],
  ["/", "keys.prompt"],
  ["n", "keys.new"],
  ["e", "keys.edit"],
];

let current = null;
let offered = null;
let view = null;
const underWay = new Map(); // conversation id → AbortController

/** Draws the page; returns what takes it away. */
export function mount(main, beside) {
  current ??= store.all()[0] ?? store.begin();
  const log = el("div", {
    class: "log",
    role: "log",
    "aria-live": "off",
    tabindex: 0,
    "aria-label": t("conversation"),
  });
  const panel = el("aside", { class: "panel", hidden: true });
  const form = composer({
    send,
    stop,
    changed: () => {
      store.keep(current);
      refresh();
    },
  });
  const opener = button(t("conversations"), () => openList(!beside.classList.contains("open")), {
    symbol: "menu",
    kind: "quiet",
    "aria-expanded": "false",
  });
  const head = el("div", { class: "phone-head" }, opener, button(t("new"), startNew, { bare: true, symbol: "plus" }));
  const title = el("h1", { class: "unseen" }, t("nav.chat"));
  beside.setAttribute("role", "region");
  beside.setAttribute("aria-label", t("conversations"));
  const column = el(
    "div",
    { class: "column" },
    title,
    head,
    log,
    el("div", { class: "foot" }, form.node, el("p", { class: "hint" }, t("mistakes"))),
  );
  main.append(column, panel);
  view = { log, panel, form, beside, opener, turns: new Map() };
  drawAll();
  meet();
  if (matchMedia("(hover: hover)").matches) form.area.focus();
  return () => {
    view = null;
  };
}

/** Learns what the server offers; the choice falls back where what was chosen is gone. */
async function meet() {
  try {
    offered = offer(await info({ fresh: true }));
    if (!offered.models.includes(current.settings.model)) current.settings.model = offered.fallback;
    if (!offered.collections.includes(current.settings.collection)) current.settings.collection = null;
    refresh();
    if (!current.messages.length) drawAll();
  } catch (error) {
    view?.log.replaceChildren(
      fault(error, () => {
        drawAll();
        meet();
      }),
    );
  }
}

/** A key that the page knows. */
export function press(event) {
  if (event.key === "n") startNew();
  else if (event.key === "/") view.form.area.focus();
  else if (event.key === "e") [...view.log.querySelectorAll(".button.edit")].at(-1)?.click();
  else if (event.key === "Escape" && view.beside.classList.contains("open")) openList(false);
  else if (event.key === "Escape" && !view.panel.hidden) view.panel.close();
  else if (event.key === "Escape") stop();
  else return;
  event.preventDefault();
}

function refresh() {
  view?.form.refresh(current.settings, offered, underWay.has(current.id));
}

function drawAll() {
  if (!view) return;
  view.turns.clear();
  view.log.replaceChildren(...current.messages.map((message, at) => makeTurn(message, at)));
  if (!current.messages.length) view.log.append(welcome());
  view.panel.hidden = true;
  view.panel.parentElement.classList.remove("with-panel");
  drawList();
  refresh();
  view.log.scrollTop = view.log.scrollHeight;
}

function makeTurn(message, at) {
  const made = turn(message, {
    edit: (text) => rewind(at, text),
    again: () => rewind(at - 1, current.messages[at - 1].content),
    redraw: () => view.turns.get(message).update(),
    open: (passage) => showPassage(view.panel, message.evidence.collection ?? current.settings.collection, passage),
    grounded: Boolean(current.settings.collection),
  });
  view.turns.set(message, made);
  return made.node;
}

/** Nothing was said yet: what can be done here. */
function welcome() {
  const documents = current.settings.collection;
  const starts = documents ? ["start.documents.1", "start.documents.2"] : ["start.1", "start.2", "start.3"];
  return el(
    "div",
    { class: "welcome" },
    el("h2", null, documents ? t("welcome.documents", { name: documents }) : t("welcome")),
    el("p", { class: "soft" }, t(documents ? "welcome.documents.hint" : "welcome.hint")),
    el(
      "div",
      { class: "starts" },
      starts.map((key) => button(t(key), () => send(t(key)), { kind: "start" })),
    ),
  );
}

/** The list of conversations, which a phone shows only when asked. */
function openList(open) {
  view.beside.classList.toggle("open", open);
  view.opener.setAttribute("aria-expanded", String(open));
}

function drawList() {
  if (!view) return;
  const rows = store.all().map((one) =>
    el(
      "li",
      { "aria-current": one.id === current.id ? "true" : null },
      el(
        "button",
        { type: "button", class: "name", title: ago(one.changed / 1000), onclick: () => show(one) },
        one.title || t("untitled"),
      ),
      button(t("delete"), () => discard(one), { bare: true, symbol: "trash" }),
    ),
  );
  view.beside.replaceChildren(
    button(t("new"), startNew, { symbol: "plus", kind: "new" }),
    el("ul", { class: "conversations", "aria-label": t("conversations") }, rows),
  );
}

function show(one) {
  // The object that an answer is being written into, not a second copy of it.
  current = underWay.get(one.id)?.conversation ?? one;
  openList(false);
  meet();
  drawAll();
}

function startNew() {
  current = store.begin();
  openList(false);
  drawAll();
  meet();
  view.form.area.focus();
}

/** Begins a conversation with a collection of documents. */
export function openWith(collection) {
  current = store.begin();
  current.settings.collection = collection;
  location.hash = "#/chat";
}

function discard(one) {
  underWay.get(one.id)?.abort();
  store.remove(one.id);
  if (one.id === current.id) current = store.all()[0] ?? store.begin();
  drawAll();
  tell(t("deleted", { name: one.title }), () => {
    store.keep(one);
    drawList();
  });
}

/** Takes the conversation back to a message of the user, and asks that anew. */
function rewind(at, text) {
  underWay.get(current.id)?.abort();
  current.messages.length = at;
  drawAll();
  send(text);
}

function stop() {
  underWay.get(current.id)?.abort();
}

async function send(text) {
  if (underWay.has(current.id)) stop();
  const conversation = current;
  const message = { role: "assistant", content: "", busy: true };
  conversation.messages.push({ role: "user", content: text });
  const asked = [...conversation.messages];
  conversation.messages.push(message);
  const control = Object.assign(new AbortController(), { conversation });
  underWay.set(conversation.id, control);
  keepAll(conversation);
  if (asked.length === 1) view.log.replaceChildren();
  view.log.append(...asked.slice(-1).map((one) => makeTurn(one, asked.length - 1)), makeTurn(message, asked.length));
  view.log.scrollTop = view.log.scrollHeight;
  drawList();
  refresh();
  const reader = sentenceReader();
  await complete(
    conversation.settings,
    asked,
    message,
    () => {
      redraw(message);
      reader(message);
    },
    control.signal,
  );
  if (underWay.get(conversation.id) === control) underWay.delete(conversation.id);
  keepAll(conversation);
  refresh();
}

function keepAll(conversation) {
  const wanted =
    conversation.messages.length === 0 ||
    underWay.has(conversation.id) ||
    store.all().some(({ id }) => id === conversation.id);
  if (wanted && !store.keep(conversation)) tell(t("full"));
}

/** Draws a message anew where it is shown; keeps to the end of the log unless the reader has scrolled away. */
function redraw(message) {
  const made = view?.turns.get(message);
  if (!made) return;
  const { log } = view;
  const following = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  made.update();
  if (following)
    requestAnimationFrame(() => {
      log.scrollTop = log.scrollHeight;
    });
}

/** Says each sentence once, when it has ended: a screen reader would otherwise hear the answer again at each word. */
function sentenceReader() {
  let at = 0;
  return (message) => {
    const rest = message.content.slice(at);
    const end = message.busy
      ? Math.max(...[". ", "! ", "? ", "\n", "。", "！", "？"].map((mark) => rest.lastIndexOf(mark))) + 1
      : rest.length;
    if (end <= 0) return;
    say(rest.slice(0, end));
    at += end;
  };
}
