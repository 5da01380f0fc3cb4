// Things that open above the page: dialogs, and a line at the bottom with a way back.

import { button, el, field } from "./dom.js";
import { t } from "./language.js";

/** Opens a modal dialog (Esc closes it, the focus goes back); resolves to what `close` was called with, or null. */
export function openDialog(title, makeBody, { wide = false } = {}) {
  return new Promise((resolve) => {
    let result = null;
    const close = (value = null) => {
      result = value;
      dialog.close();
    };
    const dialog = el(
      "dialog",
      { class: wide ? "wide" : "", "aria-labelledby": "dialog-title" },
      el(
        "div",
        { class: "head" },
        el("h2", { id: "dialog-title" }, title),
        button(t("close"), () => close(), { bare: true, symbol: "close" }),
      ),
    );
    dialog.append(...[makeBody(close)].flat());
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(result);
    });
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) close();
    });
    document.body.append(dialog);
    dialog.showModal();
    dialog.querySelector("[autofocus]")?.focus();
  });
}

/** Whether the user wants what cannot be taken back. */
export async function confirmLoss(title, words, action) {
  return Boolean(
    await openDialog(title, (close) => [
      el("p", null, words),
      el(
        "div",
        { class: "actions" },
        button(t("cancel"), () => close(), { autofocus: true }),
        button(action, () => close(true), { kind: "alarm" }),
      ),
    ]),
  );
}

/** One line of text, or null. */
export function askLine(title, label, { hint = null, value = "", action, type = "text" } = {}) {
  return openDialog(title, (close) => {
    const input = el("input", { type, value, required: true, autofocus: true, autocomplete: "off", maxlength: 200 });
    const submit = (event) => {
      event.preventDefault();
      if (input.value.trim()) close(input.value.trim());
    };
    return el(
      "form",
      { onsubmit: submit },
      field(label, input, hint),
      el(
        "div",
        { class: "actions" },
        button(t("cancel"), () => close()),
        el("button", { class: "button main", type: "submit" }, action),
      ),
    );
  });
}

/** The token that the server was started with; `again`: the one before was refused. */
export function askToken(again) {
  const hint = again ? t("token.again") : t("token.hint");
  return askLine(t("token.title"), t("token.label"), { hint, action: t("token.go"), type: "password" });
}

let notice = null;

/** A line at the bottom; it goes by itself, and `undo` takes back what it tells. */
export function tell(words, undo = null) {
  notice?.remove();
  const line = el(
    "div",
    { class: "notice", role: "status" },
    el("span", null, words),
    undo &&
      button(
        t("undo"),
        () => {
          line.remove();
          undo();
        },
        { kind: "link" },
      ),
    button(t("close"), () => line.remove(), { bare: true, symbol: "close" }),
  );
  notice = line;
  document.body.append(line);
  setTimeout(() => line.remove(), 10_000);
}

/** An error where it arose, with a way to try again. */
export function fault(error, retry = null, words = t("retry")) {
  return el(
    "div",
    { class: "fault", role: "alert" },
    el("span", null, error.message ?? String(error)),
    retry && button(words, retry, { symbol: "again" }),
  );
}
