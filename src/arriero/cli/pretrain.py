"""`arriero pretrain`: from token shards to a base model."""

from dataclasses import dataclass
from pathlib import Path

from arriero.cli.options import positional
from arriero.cli.output import print_json, printable
from arriero.cli.runs import settings_of
from arriero.train.pretrain_config import PretrainConfig


@dataclass(frozen=True, kw_only=True)
class PretrainCommand(PretrainConfig):
    """A run, and where it is kept."""

    run: Path = positional("RUN")  # noqa: RUF009
    """The run's folder: new, or one to continue."""
    allow: tuple[str, ...] = ()
    """Setting that may differ from those the run was begun with, such as loop.steps; repeat the option."""
    json: bool = False
    """Print JSON for scripts."""


def pretrain(config: PretrainCommand) -> int:
    """Train a LLaMA on token shards; the same command continues a run that was stopped, even killed.

    The run's folder gets its config, metrics.jsonl, checkpoints, and at the end the model in Hugging Face's format.
    Ctrl-C ends after the step in progress, with a checkpoint.

    Examples:
      arriero pretrain runs/tiny --shards shards/plays --steps 2000 --lr 1e-3 --warmup-steps 100
      arriero pretrain runs/more --model smollm2-135m-instruct --shards shards/law --steps 500 --lr 1e-4
      torchrun --nproc-per-node 4 -m arriero pretrain runs/four --config pretrain.toml --tensor 2
    """
    from arriero.train.pretrain import pretrain as run_pretraining

    settings = settings_of(config, PretrainConfig)
    end = run_pretraining(config.run, settings, config.allow)
    if config.json:
        print_json({"run": config.run, "end": end})
    elif end == "finished":
        print(f"finished: {printable(str(config.run / 'model'))} is a model for `--model`")
    else:
        print(f"{end}: the same command goes on from the last checkpoint")
    return 0
