"""`arriero sft`: fine-tune a model on examples of what it should answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from arriero.cli.options import positional
from arriero.cli.output import console, note, print_json, printable, warn
from arriero.cli.runs import is_main, processes, settings_of
from arriero.train.sft_config import SftConfig

if TYPE_CHECKING:
    from arriero.train.loop import End
    from arriero.train.sft import Prepared
    from arriero.train.sft_estimate import Estimate

_SHOWN_CHARACTERS = 1200
"""Of each stretch of the example that is shown."""


@dataclass(frozen=True, kw_only=True)
class SftCommand(SftConfig):
    """A run, and where it is kept."""

    run: Path | None = positional("RUN", default=None)  # noqa: RUF009
    """The run's folder: new, or one to continue; default: runs/NAME after the first file of examples."""
    dry_run: bool = False
    """Show the examples as the model will see them, and what the run will take; train nothing."""
    allow: tuple[str, ...] = ()
    """Setting that may differ from those the run was begun with, such as training.epochs; repeat the option."""
    json: bool = False
    """Print JSON for scripts."""


def sft(config: SftCommand) -> int:
    """Fine-tune a model on examples: with LoRA (a small adapter beside the frozen weights) or all of it.

    Examples may be in any format in use; which one it is, what is learnt of the first one, and what became of those
    that are too long is shown before the first step. The same command continues a run that was stopped, even killed.

    Examples:
      arriero sft --data my.jsonl
      arriero sft runs/law --data law.jsonl --model smollm2-135m-instruct --rank 16 --epochs 3
      arriero sft runs/chat --data chats.jsonl --config llama2-sft --model llama2/base
      arriero sft --data my.jsonl --dry-run
    """
    from arriero.train.sft import prepare
    from arriero.train.sft import sft as fine_tune

    settings = settings_of(config, SftConfig)
    run = config.run or Path("runs") / settings.examples.data[0].name.partition(".")[0]
    world = processes() // settings.parallel.tensor
    prepared = prepare(settings, max(1, world))
    main = is_main()
    if main and not config.json:
        show(prepared)
    if config.dry_run:
        _estimate(config, settings, prepared)
        return 0
    end = fine_tune(run, settings, config.allow, prepared)
    if main:
        _tell(config, run, end)
    return 0


def show(prepared: "Prepared") -> None:
    """The first example as the model will see it, and the counts, on the error stream."""
    census, out = prepared.census, console(error=True)
    out.print(f"format: {prepared.format} ({census.examples:,} examples to train on)")
    out.print("the first example; what the model learns to say is green:")
    out.print(_coloured(prepared))
    table = Table(box=None, show_header=False, pad_edge=False)
    share = census.supervised / max(census.tokens, 1)
    for name, value in {
        "examples to train on": f"{census.kept:,}"
        + (f", {census.repeated:,} of them repeated" * bool(census.repeated)),
        "too long": f"{census.dropped:,} dropped, {census.truncated:,} truncated",
        "held out": f"{len(prepared.held_out):,}",
        "tokens": f"{census.tokens:,}, of which supervised: {census.supervised:,} ({share:.0%})",
        "tokens an example": f"median {census.median_tokens:,}, longest {census.longest_tokens:,}",
        "steps": f"{prepared.loop.steps:,} of {prepared.loop.accumulation} × {prepared.micro_rows} examples or rows",
    }.items():
        table.add_row(name, value)
    out.print(table)
    if census.dropped > census.examples / 10:
        warn(f"{census.dropped:,} of {census.examples:,} examples are longer than a row: see --tokens and --too-long")


def _coloured(prepared: "Prepared") -> Text:
    """The first example's tokens as text, those with a loss in green."""
    row, text = prepared.rows[0], Text()
    ids, learnt = row.ids.tolist(), row.learnt.tolist()
    start = 0
    for end in range(1, len(ids) + 1):
        if end == len(ids) or learnt[end] != learnt[start]:
            part = printable(prepared.tokenizer.decode(ids[start:end], skip_special=False))
            if len(part) > _SHOWN_CHARACTERS:
                half = _SHOWN_CHARACTERS // 2
                part = f"{part[:half]} […] {part[-half:]}"
            text.append(part, style="green" if learnt[start] else "dim")
            start = end
    return text


def _estimate(config: SftCommand, settings: SftConfig, prepared: "Prepared") -> None:
    from arriero.train.sft_estimate import estimate

    note("computing one micro-batch to see what the run will take")
    expected = estimate(settings, prepared)
    if config.json:
        print_json({"format": prepared.format, "census": prepared.census, "estimate": expected})
    else:
        print(_in_words(expected))


def _in_words(expected: "Estimate") -> str:
    seconds = expected.seconds
    time = f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"
    time = time if seconds < 7200 else f"{seconds / 3600:.1f} hours"
    return (
        f"{expected.steps:,} steps take about {time}, beside samples and checkpoints, and "
        f"{expected.memory_bytes / 2**30:.1f} GiB ({expected.supervised_per_second:,.0f} supervised tokens/s; "
        f"{expected.trained:,} of {expected.parameters:,} parameters learn)"
    )


def _tell(config: SftCommand, run: Path, end: "End") -> None:
    made = run / ("adapter" if config.method == "lora" else "model")
    if config.json:
        print_json({"run": run, "end": end, "made": made if made.exists() else None})
    elif end in ("finished", "stopped early"):
        print(f"{end}: {printable(str(made))}")
        print(f"talk with it: arriero chat --model {printable(str(made))}")
        print(f"see how it went: arriero report {printable(str(run))}")
    else:
        print(f"{end}: the same command goes on from the last checkpoint")
