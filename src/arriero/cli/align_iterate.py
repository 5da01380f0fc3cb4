"""`arriero align iterate`: rounds of preferences, reward models, rejection sampling and measurement."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from arriero.align.iterate_config import IterateConfig
from arriero.cli.options import positional
from arriero.cli.output import console, note, print_json, printable
from arriero.cli.runs import settings_of

if TYPE_CHECKING:
    from arriero.align.iterate import Outcome

PAGE = "versions.html"


@dataclass(frozen=True, kw_only=True)
class IterateCommand(IterateConfig):
    """An alignment, and where it is kept."""

    run: Path = positional("RUN", default=Path("runs/alignment"))  # noqa: RUF009
    """The alignment's folder: new, or one to go on with."""
    json: bool = False
    """Print JSON for scripts."""


def iterate(config: IterateCommand) -> int:
    """Align a model in rounds, as Llama 2's versions came about.

    A round draws pairs of answers from the newest version, has them compared, trains reward models on all comparisons,
    fine-tunes the first version on the best of many answers, and measures all versions on held-out prompts. Without
    --judge the run waits for people: `arriero align annotate`, then the same command again. So it does after Ctrl-C or
    a kill: what is done is not done again.

    Examples:
      arriero align iterate runs/helpful --prompts prompts.jsonl
      arriero align iterate runs/brief --prompts prompts.jsonl --judge rule:concise --rounds 3
      arriero align iterate runs/safe --prompts p.jsonl --safety-prompts risky.jsonl --preferences hh.sqlite --ppo
    """
    from arriero.align.iterate import iterate as align
    from arriero.common.files import atomic_file
    from arriero.report.versions import render_versions

    settings = settings_of(config, IterateConfig)
    outcome = align(config.run, settings, note)
    page = None
    if outcome.reports:
        page = config.run / PAGE
        with atomic_file(page) as aside:
            aside.write_text(render_versions(f"Alignment: {config.run.name}", outcome.reports), encoding="utf-8")
    if config.json:
        print_json({"run": config.run, "page": page, **outcome.__dict__})
        return 0
    _tell(outcome, page)
    return 0


def _tell(outcome: "Outcome", page: Path | None) -> None:
    if outcome.reports:
        show(outcome)
        print(printable(f"the page: {page}"))
    if outcome.end == "waiting":
        file = printable(str(outcome.preferences))
        print(f"{outcome.waiting:,} pairs wait to be compared: arriero align annotate {file}")
        print("then the same command goes on")
    elif outcome.end == "interrupted":
        print("interrupted: the same command goes on from there")
    else:
        print(printable(f"talk with the newest version: arriero chat --model {outcome.versions[-1]['model']}"))


def show(outcome: "Outcome") -> None:
    """A line for each version."""
    from arriero.align.versions import compare_versions

    table = Table(box=None, pad_edge=False)
    for name in ("version", "reward", "wins over v0", "at equal length", "unsafe", "KL, nats", "tokens", "ended"):
        table.add_column(name, justify="left" if name == "version" else "right")
    for report in outcome.reports:
        against = compare_versions(outcome.reports[0], report)
        table.add_row(
            report.name,
            f"{report.helpfulness.value:.3f} ± {report.helpfulness.error:.3f}",
            f"{against.rate:.0%} ({against.low:.0%}–{against.high:.0%})",
            f"{against.equal_length:.0%}",
            "–" if report.violations is None else f"{report.violations:.1%}",
            f"{report.kl.value:.1f}",
            f"{report.tokens:.0f}",
            f"{report.ended:.0%}",
        )
    console().print(table)
