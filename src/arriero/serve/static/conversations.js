// The conversations, kept in this browser: {id, title, changed, settings, messages}.

import { forget, keysOf, load, save } from "./storage.js";

const START = "chat.";
const TITLE_LENGTH = 60;

/** What is null is left to `usual` of completion.js. */
export const DEFAULTS = {
  model: null,
  collection: null,
  system: "",
  temperature: null,
  top_p: null,
  max_tokens: null,
  seed: null,
  k: null,
};

/** All conversations, the latest first. */
export function all() {
  return keysOf(START)
    .map((id) => load(START + id))
    .filter((one) => Array.isArray(one?.messages))
    .map(settle)
    .sort((one, other) => other.changed - one.changed);
}

/** An answer that a closed page cut off was stopped. */
function settle(one) {
  for (const message of one.messages.filter(({ busy }) => busy)) Object.assign(message, { busy: false, stopped: true });
  return one;
}

/** A new one, with the settings used last; it is kept once something is said in it. */
export function begin() {
  const settings = { ...DEFAULTS, ...load("settings", {}) };
  return { id: newId(), title: "", changed: Date.now(), settings, messages: [] };
}

/** `crypto.randomUUID` is there on HTTPS and localhost alone. */
function newId() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Keeps a conversation. Where there is no more room, the oldest others go; false where even that did not help. */
export function keep(one) {
  save("settings", { ...one.settings, system: "", seed: null });
  if (!one.messages.length) return true;
  one.changed = Date.now();
  one.title ||= one.messages[0].content.trim().replace(/\s+/g, " ").slice(0, TITLE_LENGTH);
  const others = all().filter((other) => other.id !== one.id);
  while (!save(START + one.id, one)) {
    if (!others.length) return false;
    forget(START + others.pop().id);
  }
  return true;
}

/** Deletes a conversation. */
export function remove(id) {
  forget(START + id);
}
