"""An evaluation of RAG as a page: systems side by side, how passages were found, and every question to browse.

The page has one script, ours, which filters and orders the questions; its policy lets no other one run. Without it all
questions are listed.
"""

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

from markupsafe import Markup

from arriero.rag.evaluation_records import Record
from arriero.rag.evaluation_summary import Summary, does_say
from arriero.rag.qa_metrics import Estimate
from arriero.report.drawing import COLOURS, INK, LINES, missing_extra, picture
from arriero.report.html import render_page

KINDS = {
    "all": "All questions",
    "lost": "No passage that answers was read",
    "misread": "A passage that answers was read, and no right answer said",
    "right": "Said a right answer",
    "won": "Said a right answer, and the system before it none",
    "gone": "Said no right answer, and the system before it one",
    "refused": "Would be refused, though it has an answer",
    "unanswerable": "Without an answer in the documents",
}
"""Questions by what became of them; `browse.js` knows how."""
SYSTEM_COLUMNS = ("system", "exact match, %", "F1, %", "said, %", "gain in EM", "gain in F1", "faithful")


def render_evaluation(summary: Summary, records: Sequence[Record], *, name: str) -> str:
    """The page; whatever texts it is given are text."""
    missing = missing_extra()
    best = summary.recall[max(summary.recall)]
    script = resources.files("arriero.report").joinpath("templates", "browse.js").read_text(encoding="utf-8")
    return render_page(
        "rag_evaluation.html",
        {"percent": lambda share: f"{share:.0%}", "width": lambda share: f"{100 * share:.1f}%"},
        title=f"RAG on {name}",
        summary=summary,
        names=[one.name for one in summary.systems],
        columns=SYSTEM_COLUMNS,
        systems=system_rows(summary),
        became=became_rows(summary, records),
        retrieval=retrieval_rows(summary),
        refusals=refusal_words(summary),
        scores_svg=None if missing or not summary.systems else _draw_scores(summary),
        recall_svg=None if missing or not best.count else _draw_recall(summary),
        questions=[_view(record, summary) for record in records],
        kinds=KINDS,
        missing=missing,
        colours=COLOURS,
        script=Markup(script),  # noqa: S704 - ours
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def system_rows(summary: Summary) -> list[list[str]]:
    """What `SYSTEM_COLUMNS` names."""
    return [
        [
            one.name,
            interval(one.em),
            interval(one.f1),
            interval(one.said),
            gain(one.em_gain),
            gain(one.f1_gain),
            "" if one.faithfulness is None else f"{one.faithfulness.mean:.2f}",
        ]
        for one in summary.systems
    ]


def became_rows(summary: Summary, records: Sequence[Record]) -> list[list[str]]:
    """System, how many questions it said a right answer to; and to how many none, though one was read, or not."""
    answered = [record for record in records if record.given]
    rows = []
    for one in summary.systems:
        wrong = [record for record in answered if not does_say(record, one.name)]
        read = sum(_state(record) == "found" for record in wrong)
        rows.append([one.name, *(f"{n:,}" for n in (len(answered) - len(wrong), read, len(wrong) - read))])
    return rows


def retrieval_rows(summary: Summary) -> list[list[str]]:
    """Recall by k, reciprocal rank, answer in context."""
    rows = [[f"recall@{k}", interval(found)] for k, found in summary.recall.items()]
    rows.append(["mean reciprocal rank", interval(summary.mrr)])
    return [*rows, ["answer in what was read", interval(summary.in_context)]]


def refusal_words(summary: Summary) -> str:
    """What is said of refusals."""
    found = summary.refusals
    answerable = summary.questions - found.unanswerable
    wrongly = found.refused - found.rightly
    told = f"refused: {wrongly} of {answerable} questions with an answer"
    if not found.unanswerable:
        return told
    precision = "-" if found.precision is None else f"{found.precision:.2f}"
    recall = f"{found.rightly / found.unanswerable:.2f}"
    return f"{told}, {found.rightly} of {found.unanswerable} without (precision {precision}, recall {recall})"


def interval(found: Estimate) -> str:
    """'41.2 (38.0 to 44.4)', in percent; a dash where there is nothing to measure."""
    return f"{100 * found.mean:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})" if found.count else "–"


def gain(found: Estimate | None) -> str:
    """'+3.1 (1.0 to 5.2)', in points; nothing for the first system."""
    if found is None or not found.count:
        return ""
    return f"{100 * found.mean:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def _state(record: Record) -> str:
    if not record.answers:
        return "unanswerable"
    return "found" if any(read.answers for read in record.documents) else "lost"


def _view(record: Record, summary: Summary) -> dict[str, Any]:
    """What the template shows of a question."""
    given = [record.given.get(one.name) for one in summary.systems]
    said = {name: does_say(record, name) for name in record.given}
    return {
        "record": record,
        "state": _state(record),
        "refused": bool(record.answers) and record.dense < summary.threshold,
        "said": said,
        "right": " ".join(str(int(said.get(one.name, False))) for one in summary.systems),
        "f1": " ".join(f"{one.f1:.3f}" if one else "-1" for one in given),
        "texts": [list(mark_answers(read.text, record.answers)) for read in record.documents],
        "weighed": {name: one.posterior for name, one in record.given.items() if one.posterior},
    }


def mark_answers(text: str, answers: Sequence[str]) -> Iterator[tuple[bool, str]]:
    """Pieces of a text, and whether each is a right answer as it was typed."""
    longest_first = sorted(filter(str.strip, answers), key=len, reverse=True)
    if not longest_first:
        yield False, text
        return
    for number, piece in enumerate(re.split(f"({'|'.join(map(re.escape, longest_first))})", text, flags=re.IGNORECASE)):
        if piece:
            yield number % 2 == 1, piece


def _draw_scores(summary: Summary) -> Markup:
    def paint(axes: Any) -> None:
        for shift, colour, of in ((-0.2, LINES[0], "em"), (0.2, LINES[1], "f1")):
            found = [one.em if of == "em" else one.f1 for one in summary.systems]
            places = [place + shift for place in range(len(found))]
            means = [100 * e.mean for e in found]
            around = [[100 * (e.mean - e.low) for e in found], [100 * (e.high - e.mean) for e in found]]
            axes.bar(places, means, width=0.38, color=colour)
            axes.errorbar(places, means, yerr=around, fmt="none", ecolor=INK, linewidth=1)
        axes.set_xticks(range(len(summary.systems)), [one.name for one in summary.systems], color=INK)
        axes.set_ylim(bottom=0)

    told = "; ".join(f"{one.name} {interval(one.em)} and {interval(one.f1)}" for one in summary.systems)
    return picture(paint, name="scores", description=f"exact match and F1 by system: {told}", y="%", size=(9.6, 3.2))


def _draw_recall(summary: Summary) -> Markup:
    def paint(axes: Any) -> None:
        ks, found = list(summary.recall), list(summary.recall.values())
        low, high = [100 * e.low for e in found], [100 * e.high for e in found]
        axes.plot(ks, [100 * e.mean for e in found], color=LINES[0], marker="o", markersize=4)
        axes.fill_between(ks, low, high, color=LINES[0], alpha=0.15)
        axes.set_ylim(0, 102)
        axes.set_xticks(ks, [str(k) for k in ks])

    told = ", ".join(f"{k}: {found.mean:.2f}" for k, found in summary.recall.items())
    description = f"recall by passages looked at: {told}"
    return picture(paint, name="recall", description=description, x="k", y="recall, %", size=(9.6, 3.2))
