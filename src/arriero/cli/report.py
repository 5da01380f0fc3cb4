"""`arriero report`: a run's folder as one page."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arriero.cli.options import positional
from arriero.cli.output import note, print_json, printable
from arriero.common.errors import ArrieroError


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Which runs, and where the page goes."""

    runs: tuple[Path, ...] = positional("RUN")
    """Folders of runs, finished or in progress; several are compared."""
    out: Path | None = None
    """The HTML file; default: report.html in the run's folder, or comparison.html here."""
    json: bool = False
    """Print JSON for scripts."""


def report(config: ReportConfig) -> int:
    """Write what runs have to tell into one HTML file that needs no network: curves, data, samples, events, energy.

    Examples:
      arriero report runs/tiny
      arriero report runs/tiny runs/wide --out tiny-and-wide.html
    """
    from arriero.common.files import atomic_file
    from arriero.report.drawing import missing_extra
    from arriero.report.page import render
    from arriero.report.run import read_run
    from arriero.report.summary import summarise

    if not config.runs:
        raise ArrieroError("no run given: expected the folder of one, as in `arriero report runs/tiny`")
    runs = [read_run(folder) for folder in config.runs]
    own = config.runs[0] / "report.html" if len(runs) == 1 else Path("comparison.html")
    target = config.out or own
    if target.is_dir():
        raise ArrieroError(f"--out: expected the name of a file, got the folder {target}")
    page = render(runs)
    with atomic_file(target) as aside:
        aside.write_text(page, encoding="utf-8")
    if missing := missing_extra():
        note(f"tables stand for the curves: {missing}")
    if config.json:
        numbers = [{"run": run.path, **_known(dataclasses.asdict(summarise(run)))} for run in runs]
        print_json({"report": target, "runs": numbers})
    else:
        print(printable(str(target)))
    return 0


def _known(numbers: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {name: None if isinstance(x, float) and math.isnan(x) else x for name, x in numbers.items()}
