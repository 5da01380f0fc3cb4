// The frame around the pages: navigation, theme, language, and the keys that work everywhere.

import * as annotate from "./annotate.js";
import { info } from "./api.js";
import * as chat from "./chat.js";
import * as compare from "./compare.js";
import { openDialog } from "./dialogs.js";
import * as documents from "./documents.js";
import { button, el, icon } from "./dom.js";
import { language, switchLanguage, t } from "./language.js";
import * as runs from "./runs.js";
import { load, plain, save } from "./storage.js";

const PAGES = { chat, documents, annotate, compare, runs };
const KEYS = { c: "chat", d: "documents", a: "annotate", m: "compare", r: "runs" };
let leave = () => {};
let shown = null;
let going = false;

/** The page that the address names. */
function pageOf() {
  const name = location.hash.replace(/^#\/?/, "").split("/")[0];
  return name in PAGES ? name : "chat";
}

/** Draws everything for the address. */
function draw() {
  leave();
  const name = pageOf();
  const main = el("main", { id: "main", tabindex: -1, class: `on-${name}` });
  const beside = el("div", { class: "beside" });
  const frame = el("div", { class: "frame" }, side(name, beside), main);
  document.getElementById("app").replaceChildren(frame);
  document.getElementById("skip").textContent = t("skip");
  document.title = `${t(`nav.${name}`)} · arriero`;
  leave = PAGES[name].mount(main, beside) ?? (() => {});
  if (shown !== null && shown !== name) main.focus({ preventScroll: true });
  shown = name;
}

function side(current, beside) {
  const links = Object.keys(PAGES).map((name) =>
    el(
      "a",
      {
        href: `#/${name}`,
        "aria-current": name === current ? "page" : null,
        title: t(`nav.${name}.title`),
      },
      icon(name),
      el("span", null, t(`nav.${name}`)),
    ),
  );
  return el(
    "div",
    { class: "side" },
    el(
      "header",
      { class: "brand" },
      el("a", { href: "#/chat", "aria-label": "arriero" }, el("img", { src: "static/icon.svg", alt: "" }), "arriero"),
    ),
    el("nav", { "aria-label": t("nav") }, links),
    beside,
    el(
      "div",
      { class: "tools" },
      button(t("theme"), switchTheme, { bare: true, symbol: "theme" }),
      button(
        t("language"),
        () => {
          switchLanguage();
          draw();
        },
        { bare: true, symbol: "language", lang: language() === "en" ? "zh" : "en" },
      ),
      button(t("help"), showHelp, { bare: true, symbol: "help" }),
    ),
  );
}

function switchTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  const next = now === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  plain.save("theme", next);
}

function showHelp() {
  const page = pageOf();
  const rows = [
    ...(PAGES[page].keys ?? []),
    ["g c · g d · g a · g m · g r", "keys.go"],
    ["Esc", "keys.escape"],
    ["?", "keys.help"],
  ];
  const list = rows.map(([keys, words]) =>
    el(
      "div",
      null,
      el(
        "dt",
        null,
        keys.split(" · ").flatMap((key, at) => [at ? " " : "", el("kbd", null, key)]),
      ),
      el("dd", null, t(words)),
    ),
  );
  const single = el("input", {
    type: "checkbox",
    checked: load("single-keys", true),
    onchange: (event) => save("single-keys", event.target.checked),
  });
  const version = el("span", null);
  info().then(
    (told) => {
      version.textContent = ` · arriero ${told.version}`;
    },
    () => {},
  );
  openDialog(t("help.title"), () => [
    el("p", null, t(`help.${page}`)),
    el("dl", { class: "keys" }, list),
    el("label", { class: "check" }, single, t("keys.single")),
    el("p", { class: "soft" }, t("help.api"), " ", el("code", null, new URL("v1", document.baseURI).href), version),
  ]);
}

/** Keys that work everywhere; those of a page come after them. */
function press(event) {
  if (event.defaultPrevented || event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.querySelector("dialog[open]")) return;
  const writing = event.target.closest?.("input:not([type=radio]):not([type=checkbox]), textarea, select");
  if (writing && event.key !== "Escape") return;
  if (!load("single-keys", true) && event.key.length === 1) return;
  if (going && event.key in KEYS) location.hash = `#/${KEYS[event.key]}`;
  else if (event.key === "?") showHelp();
  else if (event.key !== "g" || going) {
    PAGES[pageOf()].press?.(event);
    return;
  }
  event.preventDefault();
  going = event.key === "g" && !going;
  if (going)
    setTimeout(() => {
      going = false;
    }, 1500);
}

/** A file that misses its place is not opened instead of the page. */
function keepPage(event) {
  if (event.dataTransfer?.types.includes("Files")) event.preventDefault();
}

addEventListener("hashchange", draw);
addEventListener("dragover", keepPage);
addEventListener("drop", keepPage);
document.addEventListener("keydown", press);
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("main").focus();
});
draw();
