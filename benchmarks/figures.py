"""What a benchmark tells of itself: a few figures, beside a peer's or with the target that they have.

Each script puts its figures into its JSON as `targets`, in one form, from which `run.py` makes one table and charts.
Nothing but the standard library is imported: some scripts run in a peer's environment too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One thing measured."""

    what: str
    value: float
    """A ratio where there is a peer."""
    least: float | None = None
    """Wanted; None where nothing is."""
    most: float | None = None
    peer: str = ""
    """Whom the value compares with; empty where it compares with nobody."""
    ours: float | None = None
    theirs: float | None = None
    unit: str = ""
    """Of ours and theirs, or of a value that is no ratio."""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.least is None and self.most is None:
            return None
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    @property
    def wanted(self) -> str:
        """The target in words."""
        if self.least is not None and self.most is not None:
            return f"{self.least:g}–{self.most:g}"
        return f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}" if self.most is not None else "–"

    def to_dict(self) -> dict[str, Any]:
        """What is said of it, and whether its target is met."""
        return {**{name: value for name, value in asdict(self).items() if value not in (None, "")}, "met": self.met}


NAMES = {field.name for field in fields(Figure)}


def read_figure(told: dict[str, Any]) -> Figure:
    """From what `to_dict` made, whatever else stands there."""
    return Figure(**{name: value for name, value in told.items() if name in NAMES})


def beside(what: str, ours: float, theirs: float, peer: str, unit: str, *, value: float | None = None,
           least: float | None = None, most: float | None = None) -> Figure:  # fmt: skip
    """A figure whose value is ours over theirs, unless another one is given: the median of such ratios."""
    ratio = ours / theirs if value is None else value
    return Figure(what=what, value=ratio, least=least, most=most, peer=peer, ours=ours, theirs=theirs, unit=unit)


def as_json(figures: Iterable[Figure]) -> list[dict[str, Any]]:
    """As they stand in a script's JSON."""
    return [figure.to_dict() for figure in figures]


def print_targets(figures: Sequence[Figure]) -> None:
    """Those that have a target, as Markdown."""
    print("\n| target | measured | wanted | met |\n|---|---|---|---|")
    for figure in figures:
        if figure.met is not None:
            print(f"| {figure.what} | {number(figure.value)} | {figure.wanted} | {'yes' if figure.met else 'no'} |")


def number(value: float) -> str:
    """With as many digits as mean something."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def exit_if_missed(figures: Iterable[Figure]) -> None:
    """End with status 1 if a target is missed."""
    if any(figure.met is False for figure in figures):
        raise SystemExit(1)
