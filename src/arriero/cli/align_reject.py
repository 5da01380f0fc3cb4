"""`arriero align reject`: the best of many answers to each prompt, and a model that learnt from them."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from arriero.align.rejection_config import RejectionConfig
from arriero.cli.options import positional
from arriero.cli.output import console, note, print_json, printable
from arriero.cli.runs import settings_of

if TYPE_CHECKING:
    from arriero.align.rejection_run import Rejected


@dataclass(frozen=True, kw_only=True)
class RejectCommand(RejectionConfig):
    """An iteration, and where it is kept."""

    run: Path = positional("RUN")  # noqa: RUF009
    """The run's folder: new, or one with earlier iterations, whose answers take part."""
    json: bool = False
    """Print JSON for scripts."""


def reject(config: RejectCommand) -> int:
    """Rejection sampling: sample many answers to each prompt, keep the best by reward, fine-tune the base on them.

    The best answers are chosen from all iterations in the folder. The same command goes on where it was stopped, even
    killed; another model, reward or setting begins the next iteration.

    Examples:
      arriero align reject runs/rs --prompts prompts.jsonl --reward runs/helpful/reward
      arriero align reject runs/rs --prompts prompts.jsonl --reward runs/helpful/reward --model runs/rs/sft-001/adapter
      arriero align reject runs/rs --prompts prompts.txt --reward rule:concise --samples 32 --temperatures 0.7,1.0,1.3
    """
    from arriero.align.rejection_run import reject as run_iteration
    from arriero.common.files import atomic_file
    from arriero.report.rejection import render_rejection

    settings = settings_of(config, RejectionConfig)
    try:
        result = run_iteration(config.run, settings)
    except KeyboardInterrupt:
        note("stopped: the same command goes on from here")
        raise
    page = config.run / "rejection.html"
    with atomic_file(page) as aside:
        aside.write_text(render_rejection(config.run), encoding="utf-8")
    if config.json:
        print_json({**result.__dict__, "page": page})
    else:
        _tell(config, result, page)
    return 0


def _tell(config: RejectCommand, result: "Rejected", page: Path) -> None:
    from arriero.report.rejection import curve_rows

    if result.sweep:
        means = ", ".join(f"{name}: {mean:.3f}" for name, mean in result.sweep.items())
        print(f"mean reward of the best answers by temperature: {means}")
    table = Table(box=None, pad_edge=False)
    for name in ("samples a prompt", "expected best reward", "expected median"):
        table.add_column(name, justify="right")
    for k, best, middle in curve_rows(asdict(result.curve)):
        table.add_row(str(k), f"{best:.3f}", f"{middle:.3f}")
    console().print(table)
    chosen = ", ".join(f"{count:,} from iteration {number}" for number, count in result.best_from.items()) or "none"
    print(f"iteration {result.iteration}, at temperature {result.temperature:g}: best answers: {chosen}")
    if result.too_long or result.unanswered:
        note(
            f"{result.too_long:,} prompts leave no room for an answer; {result.unanswered:,} have no answer that came "
            f"to its end within {config.draw.max_tokens} tokens"
        )
    print(f"the best answers: {printable(str(result.best))}")
    print(f"the curve: {printable(str(page))}")
    if result.made is not None:
        print(f"talk with the new version: arriero chat --model {printable(str(result.made))}")
    elif not config.choose_only:
        note("the fine-tuning was stopped: the same command goes on from its last checkpoint")
