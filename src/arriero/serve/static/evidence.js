// What an answer from documents rests on: markers, how much of it is supported, and the posterior of each passage.

import { call } from "./api.js";
import { fault } from "./dialogs.js";
import { button, el } from "./dom.js";
import { percent, t } from "./language.js";

/** The button of a marker such as [1]; it opens the passage. */
export function marker(n, citation, open) {
  return el(
    "button",
    {
      type: "button",
      class: "marker",
      "aria-label": t("cite", { n, place: place(citation) }),
      title: `${place(citation)}${citation.quote ? `\n“${citation.quote}”` : ""}`,
      onclick: () => open(citation),
    },
    String(n),
  );
}

/** "report.pdf, pages 3–4, Results". */
export function place(passage) {
  return [passage.document, pagesOf(passage), passage.section].filter(Boolean).join(", ");
}

function pagesOf({ page, page_end: end }) {
  if (!page) return null;
  return end > page ? t("pages", { n: page, end }) : t("page", { n: page });
}

/** How much of the answer is supported, and the passages that were read, with their posterior as bars. */
export function evidence({ passages = [], citations = [], grounded, refused }, open) {
  const quotes = new Map(citations.map((one) => [one.passage_id, one]));
  const rows = passages.map((passage) => {
    const { posterior } = passage;
    const bar = el("i", { class: "bar" });
    bar.style.width = `${(posterior ?? 0) * 100}%`;
    const cited = quotes.get(passage.passage_id);
    const name = el(
      "span",
      { class: "place" },
      place(passage),
      cited && el("span", { class: "number" }, String(cited.marker ?? cited.number)),
    );
    const share =
      posterior === undefined || posterior === null ? null : el("span", { class: "share" }, percent(posterior));
    return el(
      "li",
      null,
      el(
        "button",
        { type: "button", onclick: () => open({ ...passage, ...cited }) },
        name,
        share,
        el("span", { class: "track", "aria-hidden": "true" }, bar),
      ),
    );
  });
  return el(
    "div",
    { class: "evidence" },
    !refused && grounded && el("p", { class: `grounded ${grounded}` }, t(`grounded.${grounded}`)),
    rows.length > 0 &&
      el(
        "details",
        { open: true },
        el("summary", { title: t("posterior.title") }, t("posterior")),
        el("ol", { class: "posterior" }, rows),
      ),
  );
}

/** Shows a passage in its page, beside the conversation; the passage and the quote in it are marked. */
export async function showPassage(panel, collection, passage) {
  const back = document.activeElement;
  const close = () => {
    panel.replaceChildren();
    panel.hidden = true;
    panel.parentElement.classList.remove("with-panel");
    if (back?.isConnected) back.focus();
  };
  panel.close = close;
  panel.hidden = false;
  panel.parentElement.classList.add("with-panel");
  panel.setAttribute("aria-label", place(passage));
  const closing = button(t("close"), close, { bare: true, symbol: "close" });
  const body = el("div", { class: "page-text", tabindex: 0 }, el("p", { class: "soft" }, t("loading")));
  panel.replaceChildren(
    el(
      "header",
      null,
      el(
        "div",
        null,
        el("h2", null, passage.document),
        el(
          "p",
          { class: "soft" },
          [pagesOf(passage), passage.section].filter(Boolean).join(" · "),
        ),
      ),
      closing,
    ),
    body,
  );
  closing.focus();
  try {
    const path = `api/collections/${encodeURIComponent(collection)}/passages/${passage.passage_id}`;
    body.replaceChildren(...markPage(await call(path), passage.quote));
    body.querySelector("mark")?.scrollIntoView({ block: "center" });
  } catch (error) {
    body.replaceChildren(
      fault(error, () => showPassage(panel, collection, passage)),
      el("p", null, passage.text ?? passage.quote ?? ""),
    );
  }
}

/** A page's text with the passage marked, and the quote within it marked more. */
function markPage({ text, page_text: page, start, end }, quote) {
  if (!page || !(end > start)) return [el("mark", null, quoted(text ?? "", quote))];
  const letters = [...page]; // the server counts characters, JavaScript halves of some
  const [before, inside, after] = [[0, start], [start, end], [end]].map((span) => letters.slice(...span).join(""));
  return [before, el("mark", null, quoted(inside, quote)), after];
}

function quoted(passage, quote) {
  const at = quote ? passage.indexOf(quote) : -1;
  if (at < 0) return [passage];
  return [passage.slice(0, at), el("strong", null, quote), passage.slice(at + quote.length)];
}
