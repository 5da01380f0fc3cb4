"""`arriero align reward|reward-eval`: train a reward model on comparisons, and measure one."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.markup import escape
from rich.table import Table

from arriero.align.reward_config import RewardModelConfig
from arriero.cli.options import positional
from arriero.cli.output import console, note, print_json, printable, warn
from arriero.cli.runs import is_main, processes, settings_of
from arriero.common.errors import ArrieroError

if TYPE_CHECKING:
    from arriero.align.reward_measure import Evaluation
    from arriero.align.reward_train import PreparedReward
    from arriero.train.loop import End

PAGE = "reward.html"
"""The page of a run's evaluation, in its folder."""


@dataclass(frozen=True, kw_only=True)
class RewardCommand(RewardModelConfig):
    """A run, and where it is kept."""

    run: Path | None = positional("RUN", default=None)  # noqa: RUF009
    """The run's folder: new, or one to continue; default: runs/NAME-KIND after the first file of comparisons."""
    dry_run: bool = False
    """Tell what became of the comparisons and what the run will be; train nothing."""
    allow: tuple[str, ...] = ()
    """Setting that may differ from those the run was begun with, such as training.epochs; repeat the option."""
    json: bool = False
    """Print JSON for scripts."""


def reward(config: RewardCommand) -> int:
    """Train a reward model: a chat model learns which of two responses to a prompt is better.

    Comparisons come from `arriero align annotate` and `judge`, or from files of others. A share of the prompts is held
    out, and the model is measured on it, beside the rules that the longer or the shorter response is better. The same
    command continues a run that was stopped, even killed.

    Examples:
      arriero align reward --preferences preferences.sqlite
      arriero align reward runs/safe --preferences preferences.sqlite --preferences hh.jsonl.gz --kind safety
      arriero align reward runs/rm --config llama2-reward --model chat/model --preferences preferences.sqlite
      arriero align reward --preferences preferences.sqlite --dry-run
    """
    from arriero.align.reward_train import prepare_reward, train_reward

    settings = settings_of(config, RewardModelConfig)
    name = settings.comparisons.preferences[0].name.partition(".")[0]
    run = config.run or Path("runs") / f"{name}-{settings.comparisons.kind}"
    prepared = prepare_reward(settings, processes())
    main = is_main()
    if main and not (config.json and not config.dry_run):
        _show(prepared, config)
    if config.dry_run:
        return 0
    end = train_reward(run, settings, config.allow, prepared)
    if main:
        _tell(config, run, end)
    return 0


@dataclass(frozen=True, kw_only=True)
class RewardEvalConfig:
    """Which reward model is measured on what."""

    model: str = positional("MODEL")
    """A reward model's folder."""
    preferences: tuple[Path, ...]
    """Files of preferences, or what `arriero align import` reads; repeat the option."""
    kind: Literal["helpfulness", "safety"] = "helpfulness"
    """Which comparisons: of helpfulness or safety; rows that do not say are of this kind too."""
    tokens: int | None = None
    """Most tokens of a prompt with its response, longer ones are left out; default: the model's context."""
    out: Path | None = None
    """Also write a page here."""
    device: str = "auto"
    """auto, cpu or cuda."""
    json: bool = False
    """Print JSON for scripts."""

    def __post_init__(self) -> None:
        if not self.preferences:
            raise ArrieroError("no comparisons given: expected --preferences FILE")
        if self.tokens is not None and self.tokens < 2:
            raise ArrieroError(f"tokens: expected 2 or more, got {self.tokens}")
        if self.out is not None and self.out.is_dir():
            raise ArrieroError(f"--out {self.out}: expected a file, such as {self.out / PAGE}, got a folder")


def reward_eval(config: RewardEvalConfig) -> int:
    """Measure a reward model on comparisons that it has not seen.

    Examples:
      arriero align reward-eval runs/rm/reward --preferences new.sqlite
      arriero align reward-eval runs/rm/reward --preferences hh.jsonl.gz --kind safety --out harmless.html
    """
    from arriero.align.reward_data import read_pairs
    from arriero.align.reward_measure import evaluate_reward
    from arriero.align.reward_model import load_reward_model

    model = load_reward_model(config.model, device=config.device)
    most = min(config.tokens or model.model.config.max_seq_len, model.model.config.max_seq_len)
    pairs = read_pairs(config.preferences, config.kind, model.tokenizer, most)
    evaluation = evaluate_reward(model, pairs, config.kind)
    if config.out is not None:
        _write_page(evaluation, config.out)
        note(f"written: {config.out}")
    if config.json:
        print_json(evaluation)
    else:
        _show_evaluation(evaluation)
    return 0


def _show(prepared: "PreparedReward", config: RewardCommand) -> None:
    """What became of the comparisons and what the run will be: on the error stream, or a dry run's answer."""
    census, loop = prepared.census, prepared.loop
    if config.json:
        plan = {"margins": prepared.margins, "safety_weight": prepared.safety_weight, "steps": loop.steps}
        print_json({"census": census, **plan})
        return
    left_out = {
        "equal": census.equal,
        "empty": census.empty,
        "of different prompts": census.unlike,
        "that prefer the unsafe response": census.unsafe,
        "repeated": census.repeated,
        "too long": census.too_long,
        "more of the other kind than the mix takes": census.unmixed,
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in {
        "comparisons": f"{census.read:,} read; {_counts(census.by_kind)} to train on; {census.held_out:,} held out",
        "left out": _counts({reason: count for reason, count in left_out.items() if count}) or "none",
        "how much better": _counts(census.degrees),
        "margins": prepared.margins,
        "safety told": f"of {census.labelled:,} responses; weight {prepared.safety_weight:g}",
        "tokens a response": f"median {census.median_tokens:,} with its prompt, longest {census.longest_tokens:,}",
        "steps": f"{loop.steps:,} of {loop.accumulation} × {prepared.micro_rows} pairs",
    }.items():
        table.add_row(name, value)
    console(error=not config.dry_run).print(table)
    if census.too_long > census.read / 10:
        warn(f"{census.too_long:,} of {census.read:,} comparisons are longer than a row: see --tokens")


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in found.items())


def _tell(config: RewardCommand, run: Path, end: "End") -> None:
    from arriero.align.reward_measure import read_evaluation
    from arriero.align.reward_train import EVALUATION, REWARD

    made, measured = run / REWARD, run / EVALUATION
    evaluation = read_evaluation(measured) if measured.is_file() else None
    if evaluation is not None:
        _write_page(evaluation, run / PAGE)
    if config.json:
        print_json({"run": run, "end": end, "made": made if made.exists() else None, "evaluation": evaluation})
    elif end in ("finished", "stopped early"):
        if evaluation is not None:
            _show_evaluation(evaluation)
            print(f"see it drawn: {printable(str(run / PAGE))}")
        print(f"{end}: {printable(str(made))}")
        print(f"let it judge: arriero align reject runs/best --reward {printable(str(made))} --prompts prompts.txt")
        print(f"see how it went: arriero report {printable(str(run))}")
    else:
        print(f"{end}: the same command goes on from the last checkpoint")


def _show_evaluation(evaluation: "Evaluation") -> None:
    from arriero.report.reward import accuracy_rows

    table = Table(box=None, pad_edge=False)
    table.add_column(evaluation.kind)
    for name in ("accuracy", "95%", "right"):
        table.add_column(name, justify="right")
    for row in accuracy_rows(evaluation):
        table.add_row(*(escape(cell) for cell in row))
    console().print(table)
    correlation = evaluation.length_correlation
    told = "none" if correlation is None else f"{correlation:+.2f}"
    print(f"calibration error {evaluation.calibration_error:.3f}; correlation of score and length {told}")


def _write_page(evaluation: "Evaluation", target: Path) -> None:
    from arriero.common.files import atomic_file
    from arriero.report.reward import render_reward

    with atomic_file(target) as aside:
        aside.write_text(render_reward(evaluation), encoding="utf-8")
