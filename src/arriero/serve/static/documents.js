// The page of collections: make one, drop files on it, see what it holds, delete.

import { call } from "./api.js";
import { openWith } from "./chat.js";
import { askLine, confirmLoss, fault, tell } from "./dialogs.js";
import { button, el, icon, say } from "./dom.js";
import { ago, bytes, count, t } from "./language.js";
import { load, save } from "./storage.js";
import { add, clear, filesOf, finished, retry, uploadsOf, watchUploads } from "./uploads.js";

const FILTER_FROM = 8;
const REFRESH_MS = 300;

export const keys = [
  ["n", "keys.collection"],
  ["u", "keys.upload"],
];

let collections = [];
let chosen = load("collection");
let view = null;

/** Draws the page; returns what takes it away. */
export function mount(main) {
  const sheet = el("div", { class: "sheet" });
  view = { sheet, list: el("div"), uploads: el("div", { class: "uploads" }) };
  sheet.append(
    el("h1", null, t("nav.documents")),
    el("p", { class: "lead" }, t("documents.lead")),
    el("p", { class: "soft" }, t("loading")),
  );
  main.append(sheet);
  watchUploads((done) => {
    drawUploads();
    if (!done) return;
    say(`${done.name}: ${t(`upload.${done.state}`)}`);
    view.due ??= setTimeout(refresh, REFRESH_MS);
  });
  refresh();
  return () => {
    view = null;
    watchUploads(() => {});
  };
}

/** A key that the page knows. */
export function press(event) {
  if (event.key === "n") makeCollection();
  else if (event.key === "u") view.sheet.querySelector("input[type=file]")?.click();
  else return;
  event.preventDefault();
}

const pathOf = (...parts) => ["api/collections", ...parts.map(encodeURIComponent)].join("/");

/** Asks for what there is, and draws it. */
async function refresh() {
  if (view) view.due = null;
  try {
    collections = await call("api/collections");
    if (!collections.some(({ name }) => name === chosen)) chosen = collections[0]?.name ?? null;
    draw();
  } catch (error) {
    view?.sheet.lastChild.replaceWith(fault(error, refresh));
  }
}

function draw() {
  if (!view) return;
  const head = [el("h1", null, t("nav.documents")), el("p", { class: "lead" }, t("documents.lead"))];
  if (!collections.length) {
    view.sheet.replaceChildren(...head, emptiness());
    return;
  }
  const tabs = collections.map((one) =>
    el(
      "button",
      {
        type: "button",
        class: "pill",
        "aria-pressed": String(one.name === chosen),
        onclick: () => choose(one.name),
      },
      el("span", null, one.name),
      el("span", { class: "soft small" }, one.error ?? count("documents.count", one.documents)),
    ),
  );
  view.sheet.replaceChildren(
    ...head,
    el(
      "div",
      { class: "pills", role: "group", "aria-label": t("collections") },
      tabs,
      button(t("collection.new"), makeCollection, { symbol: "plus", kind: "quiet" }),
    ),
    dropZone(),
    view.uploads,
    view.list,
  );
  drawUploads();
  drawDocuments();
}

function choose(name) {
  chosen = name;
  save("collection", name);
  view.list.replaceChildren();
  draw();
}

/** The first step, where there is nothing yet. */
function emptiness() {
  return el(
    "div",
    { class: "empty" },
    icon("documents"),
    el("h2", null, t("documents.empty")),
    el("p", { class: "soft" }, t("documents.empty.hint")),
    button(t("collection.first"), makeCollection, { kind: "main", symbol: "plus" }),
  );
}

async function makeCollection() {
  const name = await askLine(t("collection.new"), t("collection.name"), {
    hint: t("collection.name.hint"),
    action: t("collection.make"),
  });
  if (!name) return;
  try {
    await call("api/collections", { json: { name } });
    chosen = name;
    save("collection", name);
    await refresh();
  } catch (error) {
    view?.sheet.append(fault(error, makeCollection));
  }
}

/** Where files are dropped or chosen. */
function dropZone() {
  const input = el("input", {
    type: "file",
    multiple: true,
    class: "unseen",
    "aria-label": t("upload.choose"),
    onchange: () => {
      add(chosen, [...input.files]);
      input.value = "";
    },
  });
  const zone = el(
    "label",
    { class: "drop" },
    input,
    icon("upload"),
    el("strong", null, t("upload.drop", { name: chosen })),
    el("span", { class: "soft small" }, t("upload.kinds")),
  );
  const over = (event) => {
    event.preventDefault();
    zone.classList.add("over");
  };
  zone.addEventListener("dragenter", over);
  zone.addEventListener("dragover", over);
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    const into = chosen;
    filesOf(event.dataTransfer).then((files) => add(into, files));
  });
  return zone;
}

/** Draws once a frame, however many files tell of progress. */
function drawUploads() {
  if (!view || view.waiting) return;
  view.waiting = true;
  requestAnimationFrame(() => {
    if (!view) return;
    view.waiting = false;
    drawFiles();
  });
}

function drawFiles() {
  const files = uploadsOf(chosen);
  const rows = files.map((one) => {
    const bar = el("i", { class: "bar" });
    bar.style.width = `${(one.state === "waiting" ? 0 : one.share) * 100}%`;
    return el(
      "li",
      { class: one.state },
      el(
        "div",
        { class: "name" },
        el("strong", null, one.name),
        el("span", { class: "soft small" }, t(`upload.${one.state}`)),
      ),
      finished(one) ? null : el("span", { class: "track", "aria-hidden": "true" }, bar),
      one.error && fault({ message: one.error }, () => retry(one)),
    );
  });
  view.uploads.replaceChildren(
    ...(rows.length ? [el("ul", null, rows)] : []),
    ...(files.some(finished) ? [button(t("upload.clear"), () => clear(chosen), { kind: "link" })] : []),
  );
}

async function drawDocuments() {
  const name = chosen;
  let held = [];
  try {
    held = await call(`${pathOf(name)}/documents`);
  } catch (error) {
    view?.list.replaceChildren(fault(error, drawDocuments));
    return;
  }
  if (!view || name !== chosen) return;
  const list = el(
    "ul",
    { class: "documents" },
    held.map((one) => row(name, one)),
  );
  const search = el("input", {
    type: "search",
    placeholder: t("documents.filter"),
    "aria-label": t("documents.filter"),
    oninput: () =>
      [...list.children].forEach((item, at) => {
        item.hidden = !held[at].name.toLowerCase().includes(search.value.trim().toLowerCase());
      }),
  });
  view.list.replaceChildren(
    el(
      "div",
      { class: "bar-head" },
      el("h2", null, name),
      el(
        "div",
        { class: "actions" },
        button(t("delete.named", { name }), () => dropCollection(name), { bare: true, symbol: "trash" }),
        held.length ? button(t("documents.ask"), () => openWith(name), { kind: "main", symbol: "chat" }) : null,
      ),
    ),
    ...(held.length >= FILTER_FROM ? [search] : []),
    held.length ? list : el("p", { class: "soft" }, t("collection.empty")),
  );
}

function row(collection, one) {
  const facts = [
    one.pages && count("documents.pages", one.pages),
    count("documents.passages", one.passages),
    one.bytes !== null && one.bytes !== undefined && bytes(one.bytes),
    one.added && ago(one.added),
  ];
  return el(
    "li",
    null,
    icon("documents"),
    el(
      "div",
      null,
      el("strong", null, one.name),
      el("span", { class: "soft small" }, facts.filter(Boolean).join(" · ")),
    ),
    button(t("delete.named", { name: one.name }), () => dropDocument(collection, one.name), {
      bare: true,
      symbol: "trash",
    }),
  );
}

async function dropDocument(collection, name) {
  if (!(await confirmLoss(t("delete.document"), t("delete.document.hint", { name }), t("delete")))) return;
  await drop(pathOf(collection, "documents", name), name);
}

async function dropCollection(name) {
  if (!(await confirmLoss(t("delete.collection"), t("delete.collection.hint", { name }), t("delete")))) return;
  await drop(pathOf(name), name);
}

async function drop(path, name) {
  try {
    await call(path, { method: "DELETE" });
    tell(t("deleted", { name }));
    await refresh();
  } catch (error) {
    view?.list.prepend(fault(error, () => drop(path, name)));
  }
}
