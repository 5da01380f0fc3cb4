// Elements are made here. Text goes in as text, never as markup: there is no innerHTML in these files.

const PROPERTIES = new Set(["value", "checked", "selected", "open"]);
const SVG = "http://www.w3.org/2000/svg";

/** An element; `on…` are listeners, null and false attributes are left out, strings become text nodes. */
export function el(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same for SVG. */
export function svg(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (PROPERTIES.has(name)) node[name] = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(3).filter((child) => child !== undefined && child !== null && child !== false));
  return node;
}

const ICONS = {
  chat: "M4 5h16v11H10l-4.5 3.5V16H4z",
  documents: "M6 3h8l4 4v14H6z M14 3v4h4 M9 12h6 M9 16h6",
  annotate: "M12 4v16 M5 8h14 M5 8l-2.5 6h5z M19 8l-2.5 6h5z M8 20h8",
  compare: "M4 5h7v14H4z M13 5h7v14h-7z",
  runs: "M4 4v16h16 M7 8c2 6 5 8 12 8.5",
  send: "M12 20V5 M5.5 11.5L12 5l6.5 6.5",
  stop: "M7 7h10v10H7z",
  plus: "M12 5v14 M5 12h14",
  copy: "M9 9h11v11H9z M15 9V4H4v11h5",
  edit: "M4 20h4L19 9l-4-4L4 16z",
  again: "M20 11a8 8 0 1 0-1 5 M20 5v6h-6",
  trash: "M5 7h14 M9 7V4h6v3 M7 7l1 13h8l1-13",
  close: "M6 6l12 12 M18 6L6 18",
  sliders: "M4 8h8 M17 8h3 M14.5 5.5v5 M4 16h3 M12 16h8 M9.5 13.5v5",
  menu: "M4 7h16 M4 12h16 M4 17h16",
  theme: "M20 14.5A8.5 8.5 0 1 1 9.5 4a7 7 0 0 0 10.5 10.5z",
  language: "M3 6h10 M8 3v3 M11 6c-1 4-4 7-8 8 M5 9c1.5 3 4 4.5 7 5 M12.5 21l4.5-11 4.5 11 M14 17.5h6",
  help: "M9 9.5a3 3 0 1 1 4.5 2.6c-1 .6-1.5 1.2-1.5 2.4 M12 18v.2",
  upload: "M12 16V4 M7 9l5-5 5 5 M4 16v4h16v-4",
  check: "M5 12.5l4.5 4.5L19 7.5",
  alert: "M12 8v5 M12 16.5v.2 M12 3.5l9 16.5H3z",
};

/** A drawing in the text's colour, which says nothing to a screen reader. */
export function icon(name) {
  const path = svg("path", { d: ICONS[name] });
  return svg("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, path);
}

/** A button with words, with an icon, or with both; an icon alone has its words as a name. */
export function button(words, press, { kind = "", symbol = null, bare = false, ...props } = {}) {
  const named = bare ? { "aria-label": words, title: props.title ?? words } : {};
  return el(
    "button",
    { type: "button", class: `button ${bare ? "bare" : ""} ${kind}`, onclick: press, ...named, ...props },
    symbol && icon(symbol),
    bare ? null : el("span", null, words),
  );
}

/** A label above its control. */
export function field(words, control, hint = null) {
  return el(
    "label",
    { class: "field" },
    el("span", { class: "label" }, words),
    control,
    hint && el("span", { class: "hint" }, hint),
  );
}

/** A list to choose from: `choices` are [value, words]. */
export function select(choices, value, change, props = {}) {
  const options = choices.map(([key, words]) => el("option", { value: key, selected: key === value }, words));
  return el("select", { onchange: (event) => change(event.target.value), ...props }, options);
}

/** A text area that grows with its text. */
export function textarea(props) {
  const node = el("textarea", { rows: 1, ...props });
  const grow = () => {
    node.style.height = "auto";
    if (node.scrollHeight) node.style.height = `${node.scrollHeight + 2}px`;
  };
  node.addEventListener("input", grow);
  requestAnimationFrame(grow);
  node.grow = grow;
  return node;
}

/** Whether a key sends a text: Enter, but not while an input method composes (Safari tells that by its code alone). */
export function sends(event) {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;
}

/** Says something to a screen reader, without showing it. */
export function say(words) {
  document.getElementById("said").textContent = words;
}
