"""What was measured, kept in a file for each benchmark, and the summary of it at the top of RESULTS.md.

A file holds runs, the newest first, with their command, date, commit, machine, versions and figures. A quick run stands
beside what a full one measured, or was recorded, and replaces earlier quick ones; a full run replaces all, but for what
it could not measure without its peer.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from catalogue import AREAS, BENCHMARKS, Benchmark
from figures import Figure, as_json, number, read_figure

from arriero.common.errors import ArrieroError
from arriero.common.files import atomic_file

Mode = Literal["full", "quick", "recorded"]
BEGIN, END = "<!-- summary: written by benchmarks/run.py -->", "<!-- end of the summary -->"
CHARTS = "charts"
RANKS: tuple[Mode, ...] = ("full", "recorded", "quick")
"""What counts before what, where a figure was measured more than once."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One time that a benchmark was run."""

    mode: Mode
    """recorded: copied by hand from its section, which was there before."""
    command: str
    date: str
    commit: str
    machine: str
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None
    load: float | None = None
    """Processes that wanted a processor when it began: with more than there are, figures say little."""
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Result:
    """All that is known of a benchmark."""

    runs: tuple[Run, ...] = ()
    why: str = ""
    """Why the last attempt gave nothing, or not all; empty where it gave all."""

    def with_run(self, run: Run, *, whole: bool, why: str = "") -> "Result":
        """The new run first; a whole one alone, else with what it does not replace."""
        known = {figure.what for figure in run.figures}
        replaced = ("quick",) if run.mode == "quick" else RANKS
        earlier = () if whole else (_without(one, known) if one.mode in replaced else one for one in self.runs)
        return Result(runs=(run, *(one for one in earlier if one.figures)), why=why)

    @property
    def ranked(self) -> list[Run]:
        """The runs, those first that count before others."""
        return sorted(self.runs, key=lambda run: RANKS.index(run.mode))

    @property
    def counted(self) -> dict[str, tuple[Figure, Run]]:
        """By name, each figure of the run that counts."""
        found: dict[str, tuple[Figure, Run]] = {}
        for run in self.ranked:
            for figure in run.figures:
                found.setdefault(figure.what, (figure, run))
        return found

    def took(self, mode: Mode) -> float | None:
        """Seconds of the last run of that kind."""
        return next((run.seconds for run in self.runs if run.mode == mode and run.seconds), None)


def _without(run: Run, known: set[str]) -> Run:
    return replace(run, figures=tuple(figure for figure in run.figures if figure.what not in known))


def read_result(path: Path) -> Result:
    """A benchmark's file; nothing where there is none.

    Raises:
        ArrieroError: it is no such file.
    """
    if not path.is_file():
        return Result()
    try:
        told = json.loads(path.read_text("utf-8"))
        runs = [Run(**{**run, "figures": tuple(read_figure(one) for one in run["figures"])}) for run in told["runs"]]
        return Result(runs=tuple(runs), why=told.get("why", ""))
    except (ValueError, KeyError, TypeError) as error:
        raise ArrieroError(f"{path}: expected what benchmarks/run.py keeps, got {error!r}: delete it") from error


def write_result(path: Path, result: Result) -> None:
    """Whole or not at all."""
    runs: list[dict[str, Any]] = [{**asdict(run), "figures": as_json(run.figures)} for run in result.runs]
    text = json.dumps({**({"why": result.why} if result.why else {}), "runs": runs}, indent=1, ensure_ascii=False)
    with atomic_file(path) as aside:
        aside.write_text(text + "\n", "utf-8")


def read_results(folder: Path) -> dict[str, Result]:
    """By name, of all in the catalogue."""
    return {one.name: read_result(folder / f"{one.name}.json") for one in BENCHMARKS}


def write_summary(page: Path, results: Mapping[str, Result], drawn: Mapping[str, str]) -> None:
    """Put the summary between its marks; all else of the page stays.

    Args:
        page: RESULTS.md.
        results: by name.
        drawn: what each area's chart shows in words, by area; of those that have one.

    Raises:
        ArrieroError: the page has no marks.
    """
    text = page.read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ArrieroError(f"{page}: expected the lines '{BEGIN}' and '{END}', between which the summary goes")
    made = "\n".join(summary(results, anchors(before + after), drawn))
    with atomic_file(page) as aside:
        aside.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{after}", "utf-8")


def anchors(text: str) -> dict[str, str]:
    """Of each benchmark, the anchor of its section's heading."""
    headings = re.findall(r"^##+ (.*)$", text, flags=re.MULTILINE)
    found = {}
    for one in BENCHMARKS:
        for heading in headings:
            if heading.startswith(one.section):
                words = re.sub(r"[^\w\- ]", "", heading.lower())
                found[one.name] = words.replace(" ", "-")
                break
        else:
            raise ArrieroError(f"expected a section whose heading begins with '{one.section}', for {one.name}")
    return found


def summary(results: Mapping[str, Result], anchors: Mapping[str, str], drawn: Mapping[str, str]) -> Iterator[str]:
    """Lines of Markdown: the ratios, how they were measured, the charts."""
    rows = [row for one in BENCHMARKS for row in _rows(one, results[one.name])]
    met = [figure.met for one in results.values() for figure, _ in one.counted.values()]
    open_ = sum(len(_unmeasured(one, results[one.name])) for one in BENCHMARKS)
    yield "## Summary: `python benchmarks/run.py`\n"
    yield (
        f"Of {met.count(True) + met.count(False) + open_} targets {met.count(True)} are met, {met.count(False)} missed "
        f"and {open_} not measured. A ratio is what the row says: ours over the peer's, or the peer's time "
        "over ours; where no peer is named, the figure stands for itself. *Recorded* figures are those of the section, "
        "as it stood on the date that is given. *Quick* runs have fewer repeats and cases; where a full or a recorded "
        "figure is there, they stand beside it and do not count. *Load* is how many processes wanted a processor.\n"
    )
    yield "| area | figure | arriero | peer | ratio | wanted | met | measured |"
    yield "|---|---|---|---|---|---|---|---|"
    yield from rows
    yield "\n### How it was measured\n"
    yield "| benchmark | command | date | commit | minutes | machine and versions |"
    yield "|---|---|---|---|---|---|"
    for one in BENCHMARKS:
        for run in results[one.name].ranked:
            yield _provenance(one, run)
    yield "\n### Charts\n"
    yield (
        "Ratios on a logarithmic axis; 1 is the peer. Filled: measured by this command, hollow: recorded. The small "
        "triangle is the target and points to where it is met."
    )
    for area, words in drawn.items():
        yield f"\n![{AREAS[area]}: {words}]({CHARTS}/{area}.svg)"
    yield ""
    for name, anchor in anchors.items():
        yield f"[{name}]: #{anchor}"


def _rows(one: Benchmark, result: Result) -> Iterator[str]:
    area = AREAS[one.area]
    for run in result.ranked:
        for figure in run.figures:
            ours, peer, quotient = _cells(figure)
            verdict = {
                True: "yes",
                False: f"**no**: {explanation(one, figure, run) or 'see its section'}",
                None: explanation(one, figure, run) or "–",
            }[figure.met]
            when = _when(run)
            yield (
                f"| {area} | [{figure.what}][{one.name}] | {ours} | {peer} | {quotient} | {figure.wanted} | {verdict} "
                f"| {when} |"
            )
    for what, (wanted, why) in _unmeasured(one, result).items():
        yield f"| {area} | [{what}][{one.name}] | – | – | – | {wanted} | not measured: {why} | – |"
    if not result.runs or result.why:
        why = result.why or "not run yet"
        yield f"| {area} | [{one.name}.py][{one.name}] | – | – | – | – | not measured: {why} | – |"


def _cells(figure: Figure) -> Sequence[str]:
    """Ours, the peer's, the ratio."""
    unit = f" {figure.unit}" if figure.unit else ""
    if not figure.peer:
        return f"{number(figure.value)}{unit}", "–", "–"
    theirs = figure.peer if figure.theirs is None else f"{number(figure.theirs)}{unit} ({figure.peer})"
    ours = "–" if figure.ours is None else f"{number(figure.ours)}{unit}"
    return ours, theirs, ratio(figure.value)


def ratio(value: float) -> str:
    """Two decimals, and three near 1."""
    return f"{value:.3f}" if 0.9 < value < 1.1 or value < 0.1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def explanation(one: Benchmark, figure: Figure, run: Run) -> str:
    """Why a target is missed, or why the peer is the better, in a few words; empty where nobody said."""
    why = next((why for beginning, why in one.explained.items() if figure.what.startswith(beginning)), "")
    if run.mode == "quick" and run.load and figure.met is False:
        busy = "a quick run on a busy machine"
        return f"{why}; {busy}" if why else busy
    return why


def _when(run: Run) -> str:
    """Date, how it was run, and how many processes wanted a processor."""
    load = [f"load {run.load:.0f}"] if run.load else []
    return ", ".join([run.date, *([run.mode] if run.mode != "full" else []), *load])


def _unmeasured(one: Benchmark, result: Result) -> dict[str, tuple[str, str]]:
    return {what: why for what, why in one.unmeasured.items() if what not in result.counted}


def _provenance(one: Benchmark, run: Run) -> str:
    minutes = f"{run.seconds / 60:.1f}" if run.seconds else "–"
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    machine = ", ".join([run.machine, *([versions] if versions else [])])
    return (
        f"| [{one.name}][{one.name}] | `{run.command}` | {_when(run)} | {run.commit or '–'} | {minutes} | {machine} |"
    )
