"""`arriero align distil`: teach a model to answer as it does behind a preprompt about safety."""

from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from arriero.align.distil_config import DistilConfig
from arriero.cli.options import positional
from arriero.cli.output import console, print_json, printable
from arriero.cli.runs import settings_of


@dataclass(frozen=True, kw_only=True)
class DistilCommand(DistilConfig):
    """What to make, and where it is kept."""

    out: Path = positional("OUT")  # noqa: RUF009
    """The folder: new, or one to go on in."""
    json: bool = False
    """Print JSON for scripts."""


def distil(config: DistilCommand) -> int:
    """Make examples of safer answers: sampled behind a preprompt, learnt without it (context distillation).

    An answer is kept where the judge of safety scores it above the one that the model gives of itself. Train on the
    examples with `arriero sft`. The same command continues a run that was stopped, even killed; with another judge it
    has the same answers judged anew.

    Examples:
      arriero align distil runs/distil --prompts risky.txt --safety runs/safe/reward
      arriero align distil runs/distil --prompts risky.jsonl --safety 'command:python judge.py'
      arriero align distil runs/law --prompts law.txt --preprompts unqualified --preprompts generic --safety rm/safety
    """
    from arriero.align.distil import EXAMPLES_NAME
    from arriero.align.distil import distil as make_examples

    settings = settings_of(config, DistilConfig)
    counts = make_examples(config.out, settings)
    made = config.out / EXAMPLES_NAME
    if config.json:
        print_json({"made": made, "counts": counts})
        return 0
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in {
        "prompts": f"{counts.prompts:,}, {counts.too_long:,} too long, {counts.silent:,} answered with nothing",
        "safe answer cut short": f"{counts.unfinished:,} left out",
        "not safer than the original": f"{counts.not_safer:,} left out",
        "examples": f"{counts.examples:,}",
        "mean score": f"{counts.original_score:+.3f} as it is, {counts.guarded_score:+.3f} behind a preprompt",
        "by preprompt": ", ".join(f"{name}: {count:,}" for name, count in counts.by_preprompt.items()),
    }.items():
        table.add_row(name, escape(printable(value)))
    console().print(table)
    print(printable(f"train on them: arriero sft --data {made} --answers last --model {config.model}"))
    return 0
