"""A corpus as a page: what was read, dropped and kept of each source, and samples of it before and after cleaning.

Bars are plain HTML; nothing has to be installed to see them. Whatever a document says is text: Jinja escapes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from arriero.corpus.ledger import Amount, Ledger
from arriero.report.html import render_page
from arriero.report.page import count

MOST_BARS = 40
"""Languages and licences shown; the others are one bar."""


@dataclass(frozen=True)
class Bar:
    """A name, how much, and its share of the longest or the whole."""

    label: str
    documents: int
    bytes: int | None
    share: float


def render_corpus(name: str, ledgers: Mapping[str, Ledger], tokens: Mapping[str, int], tokenizer: str | None) -> str:
    """The page of a corpus.

    Args:
        name: of the corpus.
        ledgers: by source.
        tokens: by source, where they were counted.
        tokenizer: what they were counted with.
    """
    kept = sum(ledger.kept.bytes for ledger in ledgers.values())
    return render_page(
        "corpus.html",
        {"count": count, "amount": amount, "percent": percent},
        title=name,
        sources=[_view(source, ledger, kept, tokens.get(source)) for source, ledger in ledgers.items()],
        read=sum(ledger.read.bytes for ledger in ledgers.values()),
        kept=kept,
        documents=sum(ledger.kept.documents for ledger in ledgers.values()),
        words=sum(ledger.words for ledger in ledgers.values()),
        tokens=sum(tokens.values()) if tokens else None,
        tokenizer=tokenizer,
    )


def _view(name: str, ledger: Ledger, all_kept: int, tokens: int | None) -> dict[str, Any]:
    """What the template shows of a source."""
    dropped = Amount()
    for each in ledger.dropped.values():
        dropped += each
    return {
        "name": name,
        "ledger": ledger,
        "share": ledger.kept.bytes / all_kept if all_kept else 0.0,
        "dropped": dropped,
        "reasons": reasons(ledger),
        "languages": _bars(ledger.languages),
        "licences": _bars(ledger.licences),
        "tokens": tokens,
        "kept_samples": ledger.samples.get("", []),
        "dropped_samples": {reason: shown for reason, shown in sorted(ledger.samples.items()) if reason},
    }


def reasons(ledger: Ledger) -> list[Bar]:
    """Why documents were dropped, the most frequent first; shares are of all documents read."""
    order = sorted(ledger.dropped.items(), key=lambda item: (-item[1].documents, item[0]))
    return [Bar(why, n.documents, n.bytes, n.documents / max(1, ledger.read.documents)) for why, n in order]


def _bars(counts: Mapping[str, int]) -> list[Bar]:
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if rest := sum(number for _, number in order[MOST_BARS:]):
        order = [*order[:MOST_BARS], (f"{len(order) - MOST_BARS} others", rest)]
    whole = sum(counts.values())
    return [Bar(label, number, None, number / whole) for label, number in order]


def amount(value: float) -> str:
    """Bytes in the fitting unit, by powers of ten, as corpora are measured."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


def percent(share: float) -> str:
    """'12.3 %'."""
    return f"{100 * share:.3g} %"
