"""Which curves a report shows, of one run or of several over each other."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from arriero.report.run import Run, column, named, number

POINTS = 800
"""Most points of a drawn curve."""

_ANSWERS = (
    ("reward", "Reward", "the judge's score"),
    ("kl", "Divergence from the reference", "nats an answer"),
    ("entropy", "Entropy", "nats a token"),
    ("length", "Length of answers", "tokens"),
    ("eos_share", "Answers that end", "share"),
    ("exact_match", "Exact match", "share of the answers"),
    ("answer_found", "A document with the answer is found", "share of the questions"),
    ("retrieval_distinct", "Distinct documents", "by all that are retrieved"),
    ("retrieval_entropy", "Entropy of p(z|x)", "nats a question"),
    ("retrieval_kept", "Documents that were found before the training too", "share"),
)
"""What PPO and RAG's training tell of answers and documents: names in the diary, titles, units."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Numbers over steps; NaN where there is none."""

    label: str
    colour: int
    """Its number among the page's colours."""
    x: list[float]
    y: list[float]
    kind: str = "line"
    """line, faint (the raw numbers beneath a smooth line), or dashed with points."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One drawing."""

    title: str
    unit: str
    curves: list[Curve]
    marks: list[tuple[int, str]]
    """Steps at which something happened."""
    from_zero: bool = False

    @property
    def legend(self) -> list[Curve]:
        """The curves that have a name of their own."""
        return [curve for curve in self.curves if curve.kind != "faint"]


def charts(runs: Sequence[Run]) -> list[Chart]:
    """All drawings that there are numbers for."""
    made = [
        _chart("Loss", _loss_unit(runs[0]), _losses(runs), runs),
        *(_chart(title, unit, _answered(runs, name), runs) for name, title, unit in _ANSWERS),
        *(_chart(name.removeprefix("watch/"), "score", _answered(runs, name), runs) for name in _watched(runs)),
        _chart("Learning rate", "", _each(runs, "lr"), runs, from_zero=True),
        _chart("Gradient norm", "before clipping", _each(runs, "grad_norm", smooth=True), runs),
        _chart("Throughput", "tokens a second", _each(runs, "tokens_per_second", smooth=True), runs, from_zero=True),
        _chart("Share of the peak reached (MFU)", "%", _each(runs, "mfu", 100, smooth=True), runs, from_zero=True),
        _chart("Peak memory", "GiB a device", _each(runs, "memory_bytes", 2**-30), runs, from_zero=True),
    ]
    return [chart for chart in made if chart.curves]


def _chart(title: str, unit: str, curves: list[Curve], runs: Sequence[Run], *, from_zero: bool = False) -> Chart:
    marks = [(event["step"], str(event.get("event"))) for event in runs[0].events] if len(runs) == 1 else []
    marks = [(step, event) for step, event in marks if event in ("spike", "nonfinite", "rollback", "resumed")]
    return Chart(title=title, unit=unit, curves=curves, marks=marks[-50:], from_zero=from_zero)


def _loss_unit(run: Run) -> str:
    if run.learns_rewards:
        return "the policy's and the values'"
    told = run.validations[-1] if run.validations else {}
    return f"nats a {'question' if 'rag' in run.start else 'comparison' if 'pairs' in told else 'token'}"


def _losses(runs: Sequence[Run]) -> list[Curve]:
    """Training and validation; by source where there is one run. A policy's validation is its reward, drawn as such."""
    curves = []
    for colour, run in enumerate(runs):
        label = "training" if len(runs) == 1 else f"{run.name}: training"
        curves += _curve(label, colour, run, "loss", smooth=True)
        if run.learns_rewards:
            continue
        steps = [float(line["step"]) for line in run.validations]
        label = "validation" if len(runs) == 1 else f"{run.name}: validation"
        every = Curve(label=label, colour=colour, x=steps, y=column(run.validations, "loss"), kind="dashed")
        sources = list(dict.fromkeys(name for line in run.validations for name in named(line, "by_source")))
        if len(runs) > 1 or len(sources) < 2:
            curves.append(every)
            continue
        for number_, source in enumerate(sources, 1):
            values = [number(named(named(line, "by_source"), source), "loss") for line in run.validations]
            curves.append(Curve(label=f"validation: {source}", colour=number_, x=steps, y=values, kind="dashed"))
    return [curve for curve in curves if _known(curve.y)]


def _answered(runs: Sequence[Run], name: str) -> list[Curve]:
    """A number of the answers: those learnt from, and those to held-out prompts."""
    curves = []
    for colour, run in enumerate(runs):
        label = "training" if len(runs) == 1 else f"{run.name}: training"
        curves += _curve(label, colour, run, name, smooth=True)
        held_out = [line for line in run.validations if name in line]
        label = "held out" if len(runs) == 1 else f"{run.name}: held out"
        steps = [float(line["step"]) for line in held_out]
        curves.append(Curve(label=label, colour=colour, x=steps, y=column(held_out, name), kind="dashed"))
    return [curve for curve in curves if _known(curve.y)]


def _watched(runs: Sequence[Run]) -> list[str]:
    """The judges that a run of PPO only looks at."""
    return list(dict.fromkeys(name for run in runs for name in run.last if name.startswith("watch/")))


def _each(runs: Sequence[Run], name: str, factor: float = 1.0, *, smooth: bool = False) -> list[Curve]:
    curves: list[Curve] = []
    for colour, run in enumerate(runs):
        curves += _curve(run.name, colour, run, name, factor, smooth=smooth)
    return curves


def _curve(label: str, colour: int, run: Run, name: str, factor: float = 1.0, *, smooth: bool = False) -> list[Curve]:
    """A line; or a smooth one, with the raw one beneath it."""
    x = [float(line["step"]) for line in run.steps]
    y = [factor * value for value in column(run.steps, name)]
    if not _known(y):
        return []
    if not smooth or len(y) < 20:
        return [Curve(label=label, colour=colour, x=x, y=y)]
    raw_x, raw_y = _thin(x, y)
    every = max(1, len(x) // POINTS)
    smoothed = smooth_line(y)
    last = [len(x) - 1] if (len(x) - 1) % every else []
    places = [*range(0, len(x), every), *last]
    return [
        Curve(label=label, colour=colour, x=raw_x, y=raw_y, kind="faint"),
        Curve(label=label, colour=colour, x=[x[i] for i in places], y=[smoothed[i] for i in places]),
    ]


def smooth_line(y: Sequence[float]) -> list[float]:
    """Each point's mean with its neighbours, a fiftieth of the line in all, as many on either side, so that nothing
    lags; fewer towards the ends. NaNs are left out."""
    known = [0.0 if math.isnan(value) else value for value in y]
    sums, counts = [0.0, *accumulate(known)], [0, *accumulate(int(not math.isnan(value)) for value in y)]
    reach, smoothed = max(1, len(y) // 100), []
    for place in range(len(y)):
        half = min(reach, place, len(y) - 1 - place)
        first, behind = place - half, place + half + 1
        seen = counts[behind] - counts[first]
        smoothed.append((sums[behind] - sums[first]) / seen if seen else math.nan)
    return smoothed


def _thin(x: list[float], y: list[float]) -> tuple[list[float], list[float]]:
    """The least and the greatest of each of POINTS / 2 stretches, so that spikes stay."""
    if len(x) <= POINTS:
        return x, y
    width = -(-len(x) // (POINTS // 2))
    kept: set[int] = set()
    for start in range(0, len(x), width):
        known = [i for i in range(start, min(start + width, len(x))) if not math.isnan(y[i])]
        key: Callable[[int], float] = y.__getitem__
        kept |= {min(known, key=key), max(known, key=key)} if known else {start}
    places = sorted(kept)
    return [x[i] for i in places], [y[i] for i in places]


def _known(values: Sequence[float]) -> bool:
    return any(not math.isnan(value) for value in values)
