// Markdown as models write it, made into elements: headings, lists, tables, quotes, code, emphasis, links.
// Every word goes in as text, so HTML in an answer is shown and never run. Images become links: nothing is fetched.

import { button, el } from "./dom.js";
import { t } from "./language.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^ {0,3}(?:(?:\*\s*){3,}|(?:-\s*){3,}|(?:_\s*){3,})$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const DIVIDER = /^\s*\|?\s*:?-{2,}:?\s*(\|\s*:?-{2,}:?\s*)*\|?\s*$/;
const DEEPEST = 8;

// Bounded spans keep this linear in the text, whatever a model repeats.
const INLINE = new RegExp(
  [
    /\\(?<plain>[\\`*_~[\](){}#>+.!|-])/,
    /(?<ticks>`{1,3})(?<code>[^`][^]{0,2000}?)\k<ticks>(?!`)/,
    /\*\*(?=\S)(?<strong>[^]{0,1000}?\S)\*\*/,
    /~~(?=\S)(?<gone>[^]{0,1000}?\S)~~/,
    /\*(?=[^\s*])(?<star>[^*]{0,1000}?[^\s*])\*/,
    /(?<![\p{L}\p{N}_])_(?=[^\s_])(?<score>[^_]{0,1000}?[^\s_])_(?![\p{L}\p{N}_])/,
    /!?\[(?<words>[^\]\n]{1,500})\]\((?<target>[^)\s]{1,2000})(?:\s+"[^"\n]{0,200}")?\)/,
    /\[(?<cited>\d{1,3})\]/,
    /(?<address>https?:\/\/[^\s<>()"'`]{1,2000}[^\s<>()"'`.,;:!?])/,
  ]
    .map((part) => part.source)
    .join("|"),
  "gu",
);

/** The elements of a text; `cite` makes the element for a marker such as [1], or nothing where there is none. */
export function render(text, cite = () => null) {
  return blocks(text.replaceAll("\r\n", "\n").split("\n"), cite, 0);
}

function blocks(lines, cite, depth) {
  const made = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const [node, next] = !line.trim()
      ? [null, at + 1]
      : (readFence(lines, at) ??
        readHeading(lines, at, cite) ??
        readQuote(lines, at, cite, depth) ??
        readList(lines, at, cite, depth) ??
        readTable(lines, at, cite) ??
        readParagraph(lines, at, cite));
    if (node) made.push(node);
    at = next;
  }
  return made;
}

function readFence(lines, at) {
  const opened = FENCE.exec(lines[at]);
  if (!opened) return null;
  let end = at + 1;
  while (end < lines.length && !closes(lines[end], opened[1])) end += 1;
  const code = lines.slice(at + 1, end).join("\n");
  return [codeBlock(code, opened[2]), end + 1];
}

function closes(line, fence) {
  const text = line.trim();
  return text.length >= fence.length && [...text].every((letter) => letter === fence[0]);
}

/** A block of code with a button that copies it. */
function codeBlock(code, name) {
  const copied = button(
    t("copy"),
    async () => {
      await copyText(code);
      copied.lastChild.textContent = t("copied");
    },
    { symbol: "copy", kind: "quiet" },
  );
  return el(
    "div",
    { class: "code" },
    el("header", null, el("span", null, name), copied),
    el("pre", { tabindex: 0 }, el("code", null, code)),
  );
}

/** Puts text on the clipboard; where the page may not (plain HTTP from another machine), through a selection. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = el("textarea", { value: text, class: "unseen" });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

function readHeading(lines, at, cite) {
  if (RULE.test(lines[at])) return [el("hr"), at + 1];
  const heading = HEADING.exec(lines[at]);
  if (!heading) return null;
  return [el(`h${Math.min(6, heading[1].length + 1)}`, null, inline(heading[2], cite)), at + 1];
}

function readQuote(lines, at, cite, depth) {
  if (!lines[at].startsWith(">") || depth >= DEEPEST) return null;
  let end = at;
  while (end < lines.length && lines[end].startsWith(">")) end += 1;
  const inner = lines.slice(at, end).map((line) => line.replace(/^> ?/, ""));
  return [el("blockquote", null, blocks(inner, cite, depth + 1)), end];
}

function readList(lines, at, cite, depth) {
  const first = ITEM.exec(lines[at]);
  if (!first || depth >= DEEPEST) return null;
  const ordered = /\d/.test(first[2]);
  const indent = first[1].length;
  const items = [];
  let end = at;
  while (end < lines.length) {
    const item = ITEM.exec(lines[end]);
    const starts = item && item[1].length <= indent + 1 && /\d/.test(item[2]) === ordered;
    if (starts && item[1].length < indent) break;
    if (starts) items.push([item[3]]);
    else if (belongs(lines, end, indent))
      items.at(-1).push(lines[end].replace(new RegExp(`^\\s{0,${indent + 4}}`), ""));
    else break;
    end += 1;
  }
  const list = items.map((inner) => el("li", null, unwrap(blocks(unindent(inner), cite, depth + 1))));
  const start = ordered ? Number.parseInt(first[2], 10) : null;
  return [el(ordered ? "ol" : "ul", { start: start === 1 ? null : start }, list), end];
}

/** Whether a line goes on with the item above: it is indented, or blank before one that is. */
function belongs(lines, at, indent) {
  const line = lines[at].trim() ? lines[at] : (lines[at + 1] ?? "");
  if (!line.trim()) return false;
  const depth = /^\s*/.exec(line)[0].length;
  return depth > indent || (!lines[at].trim() && ITEM.test(line) && depth >= indent);
}

function unindent(lines) {
  while (lines.length && !lines.at(-1).trim()) lines.pop();
  return lines;
}

/** An item of one paragraph holds its words directly. */
function unwrap(nodes) {
  return nodes[0]?.tagName === "P" ? [...nodes[0].childNodes, ...nodes.slice(1)] : nodes;
}

function readTable(lines, at, cite) {
  if (!lines[at].includes("|") || !DIVIDER.test(lines[at + 1] ?? "")) return null;
  const head = cells(lines[at]);
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  const rows = lines.slice(at + 2, end).map(cells);
  const row = (tag, texts) =>
    el(
      "tr",
      null,
      head.map((_, column) => el(tag, null, inline(texts[column] ?? "", cite))),
    );
  return [
    el(
      "div",
      { class: "scroll", tabindex: 0 },
      el(
        "table",
        null,
        el("thead", null, row("th", head)),
        el(
          "tbody",
          null,
          rows.map((texts) => row("td", texts)),
        ),
      ),
    ),
    end,
  ];
}

function cells(line) {
  return line
    .trim()
    .replace(/^\||\|$/g, "")
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim());
}

function readParagraph(lines, at, cite) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !interrupts(lines[end])) end += 1;
  const nodes = lines.slice(at, end).flatMap((line, index) => [index ? el("br") : null, ...inline(line.trim(), cite)]);
  return [el("p", null, nodes), end];
}

function interrupts(line) {
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || ITEM.test(line) || line.startsWith(">");
}

/** Words with emphasis, code, links and markers. */
function inline(text, cite, depth = 0) {
  if (depth > DEEPEST) return [text];
  const made = [];
  let at = 0;
  for (const found of text.matchAll(INLINE)) {
    const node = span(found, cite, depth);
    if (!node) continue;
    made.push(text.slice(at, found.index), node);
    at = found.index + found[0].length;
  }
  made.push(text.slice(at));
  return made.filter((part) => part !== "");
}

function span(found, cite, depth) {
  const { plain, code, strong, gone, star, score, words, target, cited, address } = found.groups;
  const inside = (part) => inline(part, cite, depth + 1);
  if (plain) return plain;
  if (code) return el("code", null, code.trim() || code);
  if (strong) return el("strong", null, inside(strong));
  if (gone) return el("s", null, inside(gone));
  if (star ?? score) return el("em", null, inside(star ?? score));
  if (words) return link(target, words);
  if (cited) return cite(Number(cited));
  return link(address, address);
}

/** A link that leaves, without telling where from; a target that is no web address stays text. */
function link(target, words) {
  if (!/^(https?:\/\/|mailto:)/i.test(target)) return null;
  return el("a", { href: target, target: "_blank", rel: "noopener noreferrer nofollow" }, words);
}
