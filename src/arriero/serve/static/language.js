// The pages' language: which it is, and words and numbers in it.

import { plain } from "./storage.js";
import { STRINGS } from "./strings.js";

const COLUMNS = ["en", "zh"];
let column = Math.max(0, COLUMNS.indexOf(document.documentElement.lang));

/** "en" or "zh". */
export const language = () => COLUMNS[column];

/** Changes to the other language; what is shown must be drawn again. */
export function switchLanguage() {
  column = 1 - column;
  plain.save("language", language());
  document.documentElement.lang = language();
}

/** The words of a key, with {name} replaced by its value. */
export function t(key, values = {}) {
  const words = STRINGS[key];
  if (!words) throw new Error(`no such string: ${key}`);
  return words[column].replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

/** The words for a count: `key.one` or `key`, with {n}. */
export function count(key, n) {
  const singular = n === 1 && STRINGS[`${key}.one`];
  return t(singular ? `${key}.one` : key, { n: number(n) });
}

/** A number as the language writes it. */
export function number(value, digits = 0) {
  return new Intl.NumberFormat(language(), { maximumFractionDigits: digits }).format(value);
}

/** A share of 1 as percent. */
export function percent(value) {
  if (value > 0 && value < 0.001) return `<${percent(0.001)}`;
  return new Intl.NumberFormat(language(), { style: "percent", maximumFractionDigits: value < 0.1 ? 1 : 0 }).format(
    value,
  );
}

/** A size, in binary units. */
export function bytes(value) {
  let unit = 0;
  while (value >= 1024 && unit < 3) {
    value /= 1024;
    unit += 1;
  }
  return `${number(value, unit ? 1 : 0)} ${["B", "KiB", "MiB", "GiB"][unit]}`;
}

/** How long ago a moment was: ISO text or seconds since 1970. */
export function ago(moment) {
  const then = typeof moment === "number" ? moment * 1000 : Date.parse(moment);
  if (!Number.isFinite(then)) return "";
  const seconds = (then - Date.now()) / 1000;
  const units = [
    ["day", 86400],
    ["hour", 3600],
    ["minute", 60],
  ];
  const [unit, size] = units.find(([, each]) => Math.abs(seconds) >= each) ?? ["second", 1];
  return new Intl.RelativeTimeFormat(language(), { numeric: "auto" }).format(Math.trunc(seconds / size), unit);
}
