"""`arriero align import|export|stats|annotate`: a collection of human preferences."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from arriero.cli.options import positional
from arriero.cli.output import console, note, print_json, printable
from arriero.common.errors import ArrieroError

if TYPE_CHECKING:
    from arriero.align.preferences import Degree, Pair, Safety


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """What to read, and where it goes."""

    preferences: Path = positional("PREFERENCES")  # noqa: RUF009
    """The file of preferences, such as preferences.sqlite; it is made if it is not there."""
    files: tuple[Path, ...] = positional("FILE", default=())
    """HH-RLHF's or TRL's JSON lines, or a table (CSV or JSON lines) of an annotation tool; compressed or not."""
    kind: Literal["helpfulness", "safety"] = "helpfulness"
    """What the responses were judged by."""
    batch: str | None = None
    """The name of the batch; default: this week, such as 2026-W48."""
    source: str | None = None
    """Where the pairs come from; default: the file's name."""
    json: bool = False
    """Print JSON for scripts."""


def import_files(config: ImportConfig) -> int:
    """Take in preferences that others collected; a file is taken whole, or not at all.

    Rows that compare equal or empty responses, or answers to different prompts, are left out and counted.

    Examples:
      arriero align import preferences.sqlite helpful-base.jsonl.gz
      arriero align import preferences.sqlite harmless-base.jsonl.gz --kind safety --source hh-rlhf
    """
    from arriero.align.preference_files import import_preferences
    from arriero.align.preferences import Preferences, this_week

    if not config.files:
        raise ArrieroError("no file given: expected `arriero align import PREFERENCES FILE…`")
    with Preferences(config.preferences, create=True) as preferences:
        done = import_preferences(
            config.files, preferences, kind=config.kind, batch=config.batch or this_week(), source=config.source
        )
        counts = preferences.count()
    if config.json:
        print_json({"imported": done, "total": counts})
    else:
        left = f"{done.equal} of equal responses, {done.empty} with an empty one, {done.unlike} to different prompts"
        print(f"{done.taken:,} comparisons taken; left out: {left}")
        print(printable(f"{config.preferences}: {counts['judgements']:,} judgements of {counts['pairs']:,} pairs"))
    return 0


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to write."""

    preferences: Path = positional("PREFERENCES")  # noqa: RUF009
    """The file of preferences."""
    target: Path = positional("TARGET")  # noqa: RUF009
    """The file to write."""
    format: Literal["trl", "hh", "csv"] = "trl"
    """trl: prompt, chosen and rejected as lists of messages; hh: HH-RLHF's dialogues; csv: a table."""
    kind: Literal["helpfulness", "safety"] | None = None
    """Only these; default: both."""
    flagged: bool = False
    """Also the choices that prefer an unsafe response to a safe one."""
    force: bool = False
    """Replace what is at TARGET."""
    json: bool = False
    """Print JSON for scripts."""


def export_files(config: ExportConfig) -> int:
    """Write preferences for other tools."""
    from arriero.align.preference_files import export_preferences
    from arriero.align.preferences import Preferences

    if config.target.exists() and (not config.force or config.target.is_dir()):
        raise ArrieroError(f"{config.target} exists already: give --force to replace it, or choose another target")
    with Preferences(config.preferences) as preferences:
        judged = preferences.comparisons(config.kind, flagged=config.flagged)
        count = export_preferences(judged, config.target, config.format)
    if config.json:
        print_json({"target": config.target, "comparisons": count})
    else:
        print(printable(f"{config.target}: {count:,} comparisons"))
    return 0


@dataclass(frozen=True, kw_only=True)
class StatsConfig:
    """What to count."""

    preferences: Path = positional("PREFERENCES")  # noqa: RUF009
    """The file of preferences."""
    tokenizer: str | None = None
    """A model whose tokenizer counts; default: words are counted."""
    json: bool = False
    """Print JSON for scripts."""


def stats(config: StatsConfig) -> int:
    """Count a collection as Llama 2's Table 6 does, and measure how far its annotators agree."""
    from arriero.align.preference_stats import measure_preferences
    from arriero.align.preferences import Preferences

    unit, count = "words", lambda text: len(text.split())
    if config.tokenizer is not None:
        from arriero.model.source import load_model

        words = load_model(config.tokenizer, device="cpu").tokenizer
        unit, count = "tokens", lambda text: len(words.encode(text, bos=False, eos=False))
    with Preferences(config.preferences) as preferences:
        found = measure_preferences(preferences.comparisons(flagged=True), count)
    if config.json:
        print_json(found)
        return 0
    table = Table(box=None, pad_edge=False)
    for name in ("source", "comparisons", "turns", f"{unit} an example", "of the prompt", "of the response"):
        table.add_column(name, justify="left" if name == "source" else "right")
    for row in (*found.sources, found.total):
        means = (row.turns, row.example_tokens, row.prompt_tokens, row.response_tokens)
        table.add_row(escape(printable(row.source)), f"{row.comparisons:,}", *(f"{mean:.1f}" for mean in means))
    console().print(table)
    for title, spread in (("degree", found.degrees), ("safety", found.safety)):
        print(f"{title}: " + ", ".join(f"{name} {number:,}" for name, number in spread.items()))
    print(f"the first response is chosen in {found.first_chosen:.1%}, the longer one in {found.longer_chosen:.1%}")
    print(f"{found.repeated:,} pairs repeat another one's texts; {found.contradicted:,} are judged both ways")
    agreement = found.agreement
    if agreement.share is not None:
        kappa = "not defined" if agreement.kappa is None else f"{agreement.kappa:.2f}"
        print(f"{agreement.pairs:,} pairs judged more than once: {agreement.share:.1%} agreement, κ {kappa}")
    return 0


@dataclass(frozen=True, kw_only=True)
class AnnotateConfig:
    """Who judges what."""

    preferences: Path = positional("PREFERENCES")  # noqa: RUF009
    """The file of preferences."""
    annotator: str = "me"
    """Your name: each annotator judges each pair once."""
    kind: Literal["helpfulness", "safety"] | None = None
    """Only these; default: both."""
    batch: str | None = None
    """The name of the batch; default: this week, such as 2026-W48."""
    json: bool = False
    """Print each judgement as one JSON object a line."""


DEGREES: "dict[str, Degree]" = {
    "1": "significantly better",
    "2": "better",
    "3": "slightly better",
    "4": "negligibly better",
}
_SAFE: "dict[tuple[bool, bool], Safety]" = {
    (True, True): "both safe",
    (False, False): "both unsafe",
    (True, False): "chosen safe",
    (False, True): "chosen unsafe",
}


def annotate(config: AnnotateConfig) -> int:
    """Judge pairs in the terminal: which response is better, how much, and for safety which are safe.

    Each judgement is in the file at once; Ctrl-D or q ends. Answers may also come from a pipe.
    """
    from arriero.align.preferences import Judgement, Preferences, this_week

    done = 0
    with Preferences(config.preferences) as preferences:
        waiting = list(preferences.pending(config.annotator, config.kind))
        for pair in waiting:
            _show(pair)
            try:
                answer = _ask("better? a or b, then 1 significantly … 4 negligibly or unsure, as a2; s skips, q ends")
                safety = _ask_safety(answer) if pair.kind == "safety" and answer not in ("s", "q") else None
            except (EOFError, KeyboardInterrupt):
                answer = "q"
            if answer == "q":
                break
            if answer == "s":
                continue
            judgement = Judgement(
                choice=1 if answer[0] == "a" else 2,
                degree=DEGREES[answer[1]],
                safety=safety,
                annotator=config.annotator,
                batch=config.batch or this_week(),
            )
            preferences.judge(pair.id, judgement)
            done += 1
            if config.json:
                print_json({"pair": pair.id, **judgement.__dict__})
    note(f"{done} judged; {len(waiting) - done} left for {config.annotator}")
    return 0


def _ask(question: str) -> str:
    """a1 … b4, s or q; asked again until it is one of them."""
    while True:
        note(question)
        answer = input().strip().lower()
        if answer in ("s", "q") or (len(answer) == 2 and answer[0] in "ab" and answer[1] in DEGREES):
            return answer


def _ask_safety(answer: str) -> "Safety":
    """Which of the responses are safe, as the paper's bins have it."""
    while True:
        note("safe? a, b, both or neither")
        safe = input().strip().lower()
        if safe in ("a", "b", "both", "neither"):
            is_safe = {name: safe in (name, "both") for name in "ab"}
            chosen, other = answer[0], "b" if answer[0] == "a" else "a"
            return _SAFE[is_safe[chosen], is_safe[other]]


def _show(pair: "Pair") -> None:
    """Prompt and responses, framed in a terminal."""
    out = console(error=True)
    parts = [(message["role"], message["content"], "dim") for message in pair.prompt]
    for title, text, style in (*parts, ("a", pair.first.text, ""), ("b", pair.second.text, "")):
        shown = escape(printable(text))
        out.print(
            Panel(shown, title=title, title_align="left", style=style) if out.is_terminal else f"{title}: {shown}"
        )
