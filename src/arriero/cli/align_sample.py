"""`arriero align sample|judge`: pairs of responses from models, and judgements from scorers."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from arriero.cli.options import positional
from arriero.cli.output import note, print_json, printable
from arriero.common.errors import ArrieroError
from arriero.model.choices import DEFAULT_MODEL

if TYPE_CHECKING:
    from arriero.align.judge import Judged
    from arriero.align.preferences import Kind, Preferences
    from arriero.align.sample import Sampled
    from arriero.align.scoring import Scorer

_INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Who answers what, and how."""

    preferences: Path = positional("PREFERENCES")  # noqa: RUF009
    """The file of preferences, such as preferences.sqlite; it is made if it is not there."""
    prompts: tuple[Path, ...]
    """Files of prompts: JSON lines of prompt or messages, a file of preferences, or text with a prompt a line."""
    model: str = DEFAULT_MODEL
    """The first variant: a known name, a folder with a model or an adapter, a .gguf file or a hub id."""
    model_b: str | None = None
    """The second variant; default: the first one, at another temperature."""
    temperature: float = 0.7
    """Of the first variant."""
    temperature_b: float = 1.2
    """Of the second variant."""
    max_tokens: int = 256
    """Most tokens of an answer."""
    most: int | None = None
    """Only so many of the prompts, the first ones."""
    kind: Literal["helpfulness", "safety"] = "helpfulness"
    """What the pairs are to be judged by; a prompt that is declared one of safety is judged by that."""
    judge: str | None = None
    """Also judge the pairs: a reward model's folder, rule:NAME, or command:PROGRAM."""
    safety: str | None = None
    """With --judge: who tells which responses to safety prompts are safe, likewise."""
    batch: str | None = None
    """The name of the judgements' batch; default: this week, such as 2026-W48."""
    seed: int = 0
    """Of all answers."""
    device: str = "auto"
    """auto, cpu or cuda."""
    json: bool = False
    """Print JSON for scripts."""


def sample(config: SampleConfig) -> int:
    """Let two variants of a model, or one at two temperatures, answer prompts: pairs to compare.

    What is stopped goes on when it is called again: prompts that have a pair by the same variants are passed over. Then
    `arriero align annotate` asks people, and `arriero align judge` asks a reward model or a program.

    Examples:
      arriero align sample preferences.sqlite --prompts prompts.txt
      arriero align sample preferences.sqlite --prompts prompts.jsonl --model runs/a/adapter --model-b runs/b/adapter
      arriero align sample preferences.sqlite --prompts prompts.txt --judge rule:concise
    """
    from arriero.align.preferences import Preferences, this_week
    from arriero.align.prompts import read_prompts
    from arriero.align.sample import Voice, sample_pairs
    from arriero.align.variants import load_variants

    if config.most is not None and config.most < 1:
        raise ArrieroError(f"most: expected 1 or more, got {config.most}")
    if config.safety is not None and config.judge is None:
        raise ArrieroError("safety: expected a judge beside it: --judge")
    prompts = read_prompts(config.prompts)[: config.most]
    judges = _scorers(config.judge, config.safety, config.device)
    first, second = load_variants([config.model, config.model_b or config.model], device=config.device)
    voices = (
        Voice(first, config.temperature, config.max_tokens),
        Voice(second, config.temperature_b, config.max_tokens),
    )
    with Preferences(config.preferences, create=True) as preferences:
        growing = sample_pairs(preferences, prompts, voices, kind=config.kind, seed=config.seed)
        counts, whole = _follow_sampling(growing, len(prompts))
        judged = None
        if config.judge is not None and whole:
            batch = config.batch or this_week()
            judged, whole = _judge(preferences, judges, batch, None)
    _tell(config, counts, judged, whole=whole)
    return 0 if whole else _INTERRUPTED


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Who judges what."""

    preferences: Path = positional("PREFERENCES")  # noqa: RUF009
    """The file of preferences."""
    judge: str
    """Who judges: a reward model's folder, rule:NAME, or command:PROGRAM, which reads one JSON object with prompt and
    response a line and writes one number a line."""
    safety: str | None = None
    """Who tells which responses to pairs of the kind safety are safe, likewise; default: they get no label."""
    kind: Literal["helpfulness", "safety"] | None = None
    """Only these; default: both."""
    batch: str | None = None
    """The name of the batch; default: this week, such as 2026-W48."""
    device: str = "auto"
    """auto, cpu or cuda."""
    json: bool = False
    """Print JSON for scripts."""


def judge(config: JudgeConfig) -> int:
    """Have a reward model or a program judge the pairs that it has not judged; the judgements are marked as its own.

    Examples:
      arriero align judge preferences.sqlite --judge rule:concise
      arriero align judge preferences.sqlite --judge runs/helpful/reward --safety runs/safe/reward
      arriero align judge preferences.sqlite --judge "command:python my_judge.py"
    """
    from arriero.align.preferences import Preferences, this_week

    with Preferences(config.preferences) as preferences:
        judges = _scorers(config.judge, config.safety, config.device)
        counts, whole = _judge(preferences, judges, config.batch or this_week(), config.kind)
    if config.json:
        print_json({"judge": judges[0].name, **asdict(counts), "interrupted": not whole})
    else:
        print(printable(_judged(counts, judges[0].name)))
    return 0 if whole else _INTERRUPTED


def _scorers(judge: str | None, safety: str | None, device: str) -> "list[Scorer]":
    """Who judges, and who tells what is safe; one that does both is loaded once."""
    from arriero.align.scoring import load_scorer

    specs = [spec for spec in (judge, safety) if spec is not None]
    loaded = {spec: load_scorer(spec, device=device) for spec in dict.fromkeys(specs)}
    return [loaded[spec] for spec in specs]


def _follow_sampling(growing: "Iterator[Sampled]", total: int) -> "tuple[Sampled, bool]":
    """Show how the pairs grow; the last counts, and whether nobody stopped it."""
    from arriero.common.progress import progress

    counts = next(growing)
    with progress("sampling", total, "prompts") as advance:
        shown = 0
        try:
            while True:
                advance(counts.done - shown)
                shown = counts.done
                counts = next(growing)
        except StopIteration:
            return counts, True
        except KeyboardInterrupt:
            return counts, False


def _judge(
    preferences: "Preferences", judges: "Sequence[Scorer]", batch: str, kind: "Kind | None"
) -> "tuple[Judged, bool]":
    """Judge what is pending; the counts, and whether nobody stopped it."""
    from arriero.align.judge import judge_pending
    from arriero.common.progress import progress

    scorer, safety = judges[0], judges[1] if len(judges) > 1 else None
    total = sum(1 for _ in preferences.pending(scorer.name, kind))
    growing = judge_pending(preferences, scorer, batch=batch, kind=kind, safety=safety)
    counts = next(growing)
    with progress("judging", total, "pairs") as advance:
        shown = 0
        try:
            for counts in growing:
                advance(counts.judged + counts.ties - shown)
                shown = counts.judged + counts.ties
        except KeyboardInterrupt:
            return counts, False
    return counts, True


def _tell(config: SampleConfig, counts: "Sampled", judged: "Judged | None", *, whole: bool) -> None:
    if config.json:
        print_json({**asdict(counts), "judged": None if judged is None else asdict(judged), "interrupted": not whole})
        return
    print(
        f"{counts.pairs:,} pairs added; {counts.known:,} prompts had one, {counts.equal:,} gave equal or empty ones, "
        f"{counts.too_long:,} leave no room for an answer of {config.max_tokens} tokens"
    )
    if judged is not None and config.judge is not None:
        print(printable(_judged(judged, config.judge)))
    if not whole:
        note("stopped: the same command goes on from here")
    elif judged is None:
        print(f"judge them: arriero align annotate {printable(str(config.preferences))}")


def _judged(counts: "Judged", name: str) -> str:
    return (
        f"{counts.judged:,} pairs judged by {name}; {counts.ties:,} ties left unjudged, {counts.flagged:,} flagged "
        "(an unsafe response preferred)"
    )
