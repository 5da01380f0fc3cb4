"""`arriero align ghost|ghost-eval`: teach a model to keep to an instruction, and see over how many turns it does."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from arriero.align.ghost_config import GhostConfig, Place
from arriero.cli.options import positional
from arriero.cli.output import console, note, print_json, printable
from arriero.cli.runs import settings_of
from arriero.common.errors import ArrieroError
from arriero.model.choices import DEFAULT_MODEL

if TYPE_CHECKING:
    from arriero.align.attention_map import AttentionMap
    from arriero.align.ghost_measure import Adherence, Measured
    from arriero.align.instructions import Constraint


@dataclass(frozen=True, kw_only=True)
class GhostCommand(GhostConfig):
    """What to make, and where it is kept."""

    out: Path = positional("OUT")  # noqa: RUF009
    """The folder: new, or one to go on in."""
    json: bool = False
    """Print JSON for scripts."""


def ghost(config: GhostCommand) -> int:
    """Make examples that teach a model to keep to an instruction over many turns (Ghost Attention).

    The model answers with an instruction in every message of the user; in the examples the instruction stands in the
    first turn alone. Train on them with `arriero sft --answers last`, so that earlier answers are not learnt. The same
    command continues a run that was stopped, even killed.

    Examples:
      arriero align ghost runs/ghost
      arriero align ghost runs/ghost --dialogues chats.jsonl --model runs/chat/adapter --turns 6 --place system
      arriero align ghost runs/ghost --kinds opening --kinds length --only-adhering --learn each
    """
    from arriero.align.ghost import EXAMPLES_NAME, make_ghost_examples

    settings = settings_of(config, GhostConfig)
    counts = make_ghost_examples(config.out, settings)
    made = config.out / EXAMPLES_NAME
    if config.json:
        print_json({"made": made, "counts": counts})
        return 0
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in {
        "dialogues": f"{counts.dialogues:,}, {counts.shortened:,} shortened, {counts.unanswered:,} without an answer",
        "last answer cut short": f"{counts.unfinished:,} left out",
        "breaks the instruction": f"{counts.broken:,} of {counts.checked:,} that a program can check"
        + (", left out" if config.only_adhering else ""),
        "examples": f"{counts.examples:,}, {counts.terse:,} with a terse instruction",
        "by turns": ", ".join(f"{turns}: {count:,}" for turns, count in counts.turns.items()),
    }.items():
        table.add_row(name, value)
    console().print(table)
    print(printable(f"train on them: arriero sft --data {made} --answers last --model {config.model}"))
    return 0


@dataclass(frozen=True, kw_only=True)
class GhostEvalConfig:
    """Whose memory, and of what."""

    models: tuple[str, ...] = positional("MODEL", default=(DEFAULT_MODEL,))
    """Models to measure beside each other: names, folders, adapters' folders, .gguf files."""
    constraints: Path | None = None
    """Instructions as JSON lines of text and check, such as begins:Ahoy; default: six words to begin with."""
    turns: tuple[int, ...] = (2, 4, 6, 20)
    """Turns to tell adherence at; the dialogues are as long as the last one."""
    dialogues: int = 5
    """Dialogues of each instruction."""
    place: Place = "user"
    """Where the instruction stands: at the end of the first message, or in a system message."""
    max_tokens: int = 64
    """Most tokens of an answer."""
    temperature: float = 0.0
    """0: the likeliest answers; above: samples."""
    device: str = "auto"
    """auto takes the first of cuda, mps, cpu."""
    seed: int = 0
    """Of the questions, and of samples."""
    out: Path | None = None
    """Also write a page here: adherence by turn, and where the answers look."""
    json: bool = False
    """Print JSON for scripts."""

    def __post_init__(self) -> None:
        if not self.turns or min(self.turns) < 1:
            raise ArrieroError(f"turns: expected numbers of 1 or more, got {self.turns}")


def ghost_eval(config: GhostEvalConfig) -> int:
    """Measure over how many turns models keep to an instruction that is given once.

    Programs judge the answers. The same dialogues without the instruction, and with it in every message, stand beside
    it, as what comes by chance and what is possible.

    Examples:
      arriero align ghost-eval smollm2-135m-instruct runs/ghost-sft/adapter --turns 2 --turns 4 --turns 6
      arriero align ghost-eval runs/chat/adapter --constraints mine.jsonl --out memory.html
    """
    from arriero.align.ghost_measure import MEASURED
    from arriero.align.instructions import read_constraints

    if not config.models:
        raise ArrieroError("no model given: expected `arriero align ghost-eval MODEL…`")
    if config.out is not None and config.out.is_dir():
        raise ArrieroError(f"--out {config.out}: expected a file, such as {config.out / 'ghost.html'}, got a folder")
    constraints = MEASURED if config.constraints is None else read_constraints(config.constraints)
    measured = []
    for source in config.models:
        note(f"{source} answers")
        measured.append(_measure(source, constraints, config))
    adherence = [one for each in measured for one in each.adherence]
    maps = []
    if config.out is not None:
        maps = [_map(source, measured[-1], config.device) for source in config.models if measured[-1].example]
        from arriero.common.files import atomic_file
        from arriero.report.ghost import render_ghost

        with atomic_file(config.out) as aside:
            aside.write_text(render_ghost(adherence, maps, measured[-1].instruction), encoding="utf-8")
        note(f"written: {config.out}")
    if config.json:
        print_json({"adherence": adherence, "attention": {one.model: one.by_turn for one in maps}})
    else:
        _show(adherence, config.turns)
    return 0


def _measure(
    source: str, constraints: "tuple[Constraint, ...] | list[Constraint]", config: GhostEvalConfig
) -> "Measured":
    from arriero.align.ghost_measure import measure_adherence
    from arriero.generate.engine import Engine, SamplingConfig

    return measure_adherence(
        source,
        Engine.load(source, device=config.device),
        constraints=constraints,
        turns=max(config.turns),
        dialogues=config.dialogues,
        place=config.place,
        sampling=SamplingConfig(max_tokens=config.max_tokens, temperature=config.temperature, seed=config.seed),
        seed=config.seed,
    )


def _map(source: str, measured: "Measured", device: str) -> "AttentionMap":
    """Where a model looks in the last model's dialogue."""
    from arriero.align.attention_map import map_attention
    from arriero.model.source import load_merged

    loaded = load_merged(source, device=device)
    return map_attention(source, loaded.model, loaded.tokenizer, measured.example, measured.instruction)


def _show(adherence: "list[Adherence]", turns: tuple[int, ...]) -> None:
    """Shares at the turns asked for, and the turns before the first break."""
    from arriero.report.ghost import WHERE, share

    table = Table(box=None, pad_edge=False)
    for name in ("model", "", *(f"turn {turn}" for turn in turns), "turns survived"):
        table.add_column(name, justify="left" if name in ("model", "") else "right")
    for one in adherence:
        cells = []
        for turn in turns:
            kept = one.turns[turn - 1]
            cells.append(f"{share(kept.share)} ({kept.kept} of {kept.answers})")
        table.add_row(escape(printable(one.model)), WHERE[one.where], *cells, f"{one.survived:.1f}")
    console().print(table)
