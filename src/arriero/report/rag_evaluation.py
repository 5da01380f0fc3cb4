"""An evaluation of RAG as a page: systems side by side, how passages were found, and every question to browse."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from arriero.rag.evaluation_records import Record
from arriero.rag.evaluation_summary import Summary
from arriero.rag.qa_metrics import Estimate
from arriero.report.drawing import COLOURS, INK, LINES, missing_extra, picture
from arriero.report.html import render_page

GROUPS = {
    "lost": "No passage that answers was found",
    "misread": "Found, and answered wrongly by the last system",
    "right": "Answered rightly by the last system",
    "unanswerable": "Without an answer in the documents",
}
"""Questions by what became of them, failures first."""


def render_evaluation(summary: Summary, records: Sequence[Record], *, name: str) -> str:
    """The page; whatever texts it is given are text."""
    missing = missing_extra()
    best = summary.recall[max(summary.recall)]
    return render_page(
        "rag_evaluation.html",
        {"percent": lambda share: f"{share:.0%}"},
        title=f"RAG on {name}",
        summary=summary,
        systems=system_rows(summary),
        retrieval=retrieval_rows(summary),
        refusals=refusal_words(summary),
        scores_svg=None if missing or not summary.systems else _draw_scores(summary),
        recall_svg=None if missing or not best.count else _draw_recall(summary),
        groups=[(title, [one for one in records if _group(one) == key]) for key, title in GROUPS.items()],
        missing=missing,
        colours=COLOURS,
    )


def system_rows(summary: Summary) -> list[list[str]]:
    """System, EM, F1, their gains, faithfulness."""
    return [
        [
            one.name,
            interval(one.em),
            interval(one.f1),
            gain(one.em_gain),
            gain(one.f1_gain),
            "" if one.faithfulness is None else f"{one.faithfulness.mean:.2f}",
        ]
        for one in summary.systems
    ]


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


def _group(record: Record) -> str:
    if not record.answers:
        return "unanswerable"
    if not any(read.answers for read in record.documents):
        return "lost"
    last = next(reversed(record.given.values()), None)
    return "right" if last is not None and last.em else "misread"


def _draw_scores(summary: Summary) -> Markup:
    def paint(axes: Any) -> None:
        for shift, colour, of in ((-0.2, LINES[0], "em"), (0.2, LINES[1], "f1")):
            found = [one.em if of == "em" else one.f1 for one in summary.systems]
            places = [place + shift for place in range(len(found))]
            below, above = [e.mean - e.low for e in found], [e.high - e.mean for e in found]
            axes.bar(places, [e.mean for e in found], width=0.38, color=colour)
            axes.errorbar(places, [e.mean for e in found], yerr=[below, above], fmt="none", ecolor=INK, linewidth=1)
        axes.set_xticks(range(len(summary.systems)), [one.name for one in summary.systems], color=INK)
        axes.set_ylim(bottom=0)

    told = "; ".join(f"{one.name} {interval(one.em)} and {interval(one.f1)}" for one in summary.systems)
    return picture(paint, name="scores", description=f"exact match and F1 by system: {told}", size=(9.6, 3.2))


def _draw_recall(summary: Summary) -> Markup:
    def paint(axes: Any) -> None:
        ks, found = list(summary.recall), list(summary.recall.values())
        axes.plot(ks, [e.mean for e in found], color=LINES[0], marker="o", markersize=4)
        axes.fill_between(ks, [e.low for e in found], [e.high for e in found], color=LINES[0], alpha=0.15)
        axes.set_ylim(0, 1.02)
        axes.set_xticks(ks, [str(k) for k in ks])

    told = ", ".join(f"{k}: {found.mean:.2f}" for k, found in summary.recall.items())
    return picture(paint, name="recall", description=f"recall by passages looked at: {told}", x="k", y="recall")
