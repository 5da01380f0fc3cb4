"""An answer for the eye: its text, the quotes that support it, and in plain words what nothing supports."""

import textwrap
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from arriero.rag.answer import Answer

MOST_SHOWN = 400
"""Characters of a passage that is shown because nothing supports the answer."""

DOUBTS = {
    "none": "No passage supports this answer: do not rely on it. What was found nearest:",
    "partial": "Only the sentences with a number are supported by a passage; do not rely on the others.",
}


def answer_text(answer: "Answer") -> str:
    """As `arriero rag ask` prints it."""
    parts = [answer.text]
    for title, quote in _sources(answer):
        parts.append(f"{title}\n    “{quote}”")
    if doubt := _doubt(answer):
        parts.insert(1 if answer.grounded == "none" else len(parts), doubt)
    return "\n\n".join(parts)


def answer_html(answer: "Answer") -> str:
    """As a notebook shows it; text of models and documents is text, whatever it holds."""
    paragraphs = "".join(f"<p>{escape(part)}</p>" for part in answer.text.split("\n\n"))
    doubt = f"<p><em>{escape(text)}</em></p>" if (text := _doubt(answer)) else ""
    sources = "".join(
        f"<p><strong>{escape(title)}</strong></p><blockquote>{escape(quote)}</blockquote>"
        for title, quote in _sources(answer)
    )
    return f"<div>{paragraphs}{doubt}{sources}</div>"


def _doubt(answer: "Answer") -> str | None:
    return None if answer.refused else DOUBTS.get(answer.grounded)


def _sources(answer: "Answer") -> list[tuple[str, str]]:
    """Where it stands and its words, for each citation; or, where nothing supports the answer, for each passage."""
    if answer.grounded == "none" and not answer.refused:
        return [
            (hit.passage.place, textwrap.shorten(hit.passage.text, MOST_SHOWN, placeholder=" …"))
            for hit in answer.passages
        ]
    return [(f"[{cited.number}] {cited.place}", " ".join(cited.quote.split())) for cited in answer.citations]
