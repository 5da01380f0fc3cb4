// What the browser keeps between visits. A browser that keeps nothing (private windows) still works.

const PREFIX = "arriero.";

/** A value that was kept, or `otherwise`. */
export function load(key, otherwise = null) {
  try {
    const text = localStorage.getItem(PREFIX + key);
    return text === null ? otherwise : JSON.parse(text);
  } catch {
    return otherwise;
  }
}

/** Keeps a value; false where there is no room or no leave. */
export function save(key, value) {
  try {
    localStorage.setItem(PREFIX + key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

/** Forgets a value. */
export function forget(key) {
  try {
    localStorage.removeItem(PREFIX + key);
  } catch {
    /* there was none */
  }
}

/** The keys that begin so, without that beginning. */
export function keysOf(start) {
  try {
    const whole = PREFIX + start;
    return Object.keys(localStorage)
      .filter((key) => key.startsWith(whole))
      .map((key) => key.slice(whole.length));
  } catch {
    return [];
  }
}

/** Text as it is: what `early.js` reads too. */
export const plain = {
  load(key) {
    try {
      return localStorage.getItem(PREFIX + key);
    } catch {
      return null;
    }
  },
  save(key, text) {
    try {
      localStorage.setItem(PREFIX + key, text);
    } catch {
      /* for this visit only */
    }
  },
};
