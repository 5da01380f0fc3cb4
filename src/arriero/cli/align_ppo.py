"""`arriero align ppo`: let a model learn from the scores that its own answers get."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from arriero.align.ppo_config import PpoConfig
from arriero.cli.options import positional
from arriero.cli.output import console, print_json, printable
from arriero.cli.runs import is_main, processes, settings_of

if TYPE_CHECKING:
    from arriero.align.ppo import Prepared
    from arriero.train.loop import End


@dataclass(frozen=True, kw_only=True)
class PpoCommand(PpoConfig):
    """A run, and where it is kept."""

    run: Path | None = positional("RUN", default=None)  # noqa: RUF009
    """The run's folder: new, or one to continue; default: runs/NAME-ppo after the first file of prompts."""
    allow: tuple[str, ...] = ()
    """Setting that may differ from those the run was begun with, such as training.iterations; repeat the option."""
    json: bool = False
    """Print JSON for scripts."""


def ppo(config: PpoCommand) -> int:
    """Let a model learn from the scores that its own answers get (PPO, as Llama 2 used it).

    The judge is a reward model of `arriero align reward`, a built-in rule, or a program of yours. What is lost in
    likelihood under the first model is paid for (--beta), and ends the run where it is too much (--max-kl). The same
    command continues a run that was stopped, even killed.

    Examples:
      arriero align ppo --prompts prompts.txt --reward runs/helpful/reward
      arriero align ppo runs/brief --prompts chats.jsonl --reward rule:concise --iterations 30
      arriero align ppo --prompts p.jsonl --reward runs/helpful/reward --safety runs/safe/reward --watch rule:concise
      arriero align ppo runs/chat-v5 --config llama2-ppo --model chat/model --prompts p.jsonl --reward rm/model
    """
    from arriero.align.ppo import ppo as train
    from arriero.align.ppo import prepare

    settings = settings_of(config, PpoConfig)
    run = config.run or Path("runs") / f"{settings.prompts.prompts[0].name.partition('.')[0]}-ppo"
    prepared = prepare(settings, processes())
    main = is_main()
    if main and not config.json:
        show(prepared, settings)
    end = train(run, settings, config.allow, prepared)
    if main:
        _tell(config, run, end)
    return 0


def show(prepared: "Prepared", config: PpoConfig) -> None:
    """What the run will be, on the error stream."""
    players = prepared.players
    bytes_held = sum(x.numel() * x.element_size() for model in players.models for x in model.parameters())
    learning = sum(x.numel() for x in players.learners.parameters() if x.requires_grad)
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in {
        "prompts": f"{len(prepared.asked):,}, and {len(prepared.held_out):,} held out; {prepared.too_long:,} too long",
        "reward": " and ".join(judge.name for judge in players.judges),
        "models in memory": f"{len(players.models)}, {bytes_held / 2**30:.2f} GiB of weights; {learning:,} learn",
        "an iteration": f"{config.rollout.batch:,} answers of at most {config.rollout.max_tokens:,} tokens, "
        f"{config.steps_per_iteration:,} steps of {config.objective.mini_batch:,}",
        "steps": f"{prepared.loop.steps:,} in {config.training.iterations:,} iterations",
    }.items():
        table.add_row(name, printable(value))
    console(error=True).print(table)


def _tell(config: PpoCommand, run: Path, end: "End") -> None:
    from arriero.align.ppo_watch import kept_of
    from arriero.report.run import read_run

    made = run / ("adapter" if config.method == "lora" else "model")
    validations = read_run(run).validations
    before, after = next(iter(validations), None), kept_of(validations, config.objective.max_kl)
    if config.json:
        facts = {"before": before, "after": after}
        print_json({"run": run, "end": end, "made": made if made.exists() else None, **facts})
    elif end in ("finished", "stopped early"):
        print(f"{end}: {printable(str(made))}")
        if before is not None and after is not None:
            print(
                f"held-out reward {before['reward']:.3f} → {after['reward']:.3f} at a KL of {after['kl']:.2f} nats; "
                f"tokens {before['length']:.0f} → {after['length']:.0f}, that end {before['eos_share']:.0%} → "
                f"{after['eos_share']:.0%}"
            )
        print(f"talk with it: arriero chat --model {printable(str(made))}")
        print(f"see how it went: arriero report {printable(str(run))}")
    else:
        print(f"{end}: the same command goes on from the last checkpoint")
