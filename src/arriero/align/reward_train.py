"""Training of a reward model (Llama 2, arXiv 2307.09288, section 3.2.2): a chat model learns which response is better.

Pretraining's loop, on pairs: the output layer gives way to a scalar head, read at the last token of each response, and
the better response of a pair is to score above the other. One epoch, as more over-fits. A run is a folder as
fine-tuning's; at the end it holds `reward/`, an adapter in PEFT's format with its head or a whole model in Hugging
Face's, of the step with the lowest held-out loss, and `evaluation.json`.
"""

import dataclasses
import math
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from arriero.align.reward_batches import PairBatch, PairBatches, evaluation_batches
from arriero.align.reward_config import Margins, RewardModelConfig
from arriero.align.reward_data import RewardCensus, RewardData, TokenPair, read_reward_data
from arriero.align.reward_loss import ranking_loss, safety_loss
from arriero.align.reward_measure import evaluate_reward, write_evaluation
from arriero.align.reward_model import load_reward_model, scores_at
from arriero.common.errors import ArrieroError
from arriero.model.adapter_export import export_peft
from arriero.model.adapters import Adapters
from arriero.model.heads import SCORE, add_head
from arriero.model.layers import set_recompute
from arriero.model.lora_config import LoraConfig
from arriero.model.quantised import quantised_to
from arriero.model.source import LoadedModel, load_model, name_base
from arriero.model.transformer import Llama
from arriero.train.carbon import EnergyMeter
from arriero.train.checkpoint import Checkpoints, best_checkpoint, is_newer, load_weights
from arriero.train.export import export_hugging_face
from arriero.train.held_out import mean_loss
from arriero.train.loop import End, Loop, Loss, LossFunction
from arriero.train.loop_config import LoopConfig
from arriero.train.parallel import Layout, laid_out
from arriero.train.run_facts import take_up
from arriero.train.run_folder import RunFolder
from arriero.train.run_log import RunLog
from arriero.train.sft import ADAPTER, loop_config, micro_rows
from arriero.train.sft import build_model as build_tuned
from arriero.train.speed import release_freed_memory
from arriero.train.watch import Pace, RunWatcher

REWARD = "reward"
"""The folder, in the run's, of what was trained."""
EVALUATION = "evaluation.json"
"""The file, in the run's folder, of what was measured."""


@dataclass(frozen=True)
class PreparedReward:
    """A run before its first step."""

    loaded: LoadedModel
    data: RewardData
    margins: Margins
    safety_weight: float
    micro_rows: int
    """Pairs of a micro-batch."""
    loop: LoopConfig

    @property
    def census(self) -> RewardCensus:
        """What became of the comparisons."""
        return self.data.census


def prepare_reward(config: RewardModelConfig, world: int = 1) -> PreparedReward:
    """Read model and comparisons, and see what a run would be; nothing is written.

    Args:
        world: processes that see different pairs.

    Raises:
        ArrieroError: model, template or comparisons do not fit each other, a loss was asked for that applies to none
            of them, or nothing is left to learn.
    """
    loaded = load_model(config.model, device="cpu", dtype="float32")
    size = loaded.context if config.comparisons.tokens is None else config.comparisons.tokens
    if size > loaded.context:
        raise ArrieroError(f"tokens: expected rows within the model's context of {loaded.context}, got {size}")
    data = read_reward_data(config.comparisons, loaded.tokenizer, size, config.seed)
    training = config.training
    if training.validate_every is None:
        steps = loop_config(training, len(data.training), 1, 1).steps
        training = dataclasses.replace(training, validate_every=math.ceil(steps / 2))
    rows = micro_rows(training.batch, training.rows, config.device, data.census.tokens / len(data.training), world)
    return PreparedReward(
        loaded=loaded,
        data=data,
        margins=_margins(config, data.census),
        safety_weight=_safety_weight(config, data.census),
        micro_rows=rows,
        loop=loop_config(training, len(data.training), rows, world),
    )


def train_reward(
    run: Path, config: RewardModelConfig, allow: Sequence[str] = (), prepared: PreparedReward | None = None
) -> End:
    """Train a reward model in the folder `run`, continuing what is there, and measure it.

    Args:
        allow: fields that may differ from those of the run begun there.
        prepared: what `prepare_reward` gave, where that was called before.

    Raises:
        ArrieroError: the comparisons, the model or the run's config do not fit each other; the message says how.
    """
    with laid_out(config.parallel, config.device, config.dtype) as layout:
        folder = RunFolder(run)
        if layout.is_main:
            folder.check(config, allow)
        prepared = prepared or prepare_reward(config, layout.data_world)
        return _train(folder, config, prepared, layout, allow)


def _train(
    folder: RunFolder, config: RewardModelConfig, prepared: PreparedReward, layout: Layout, allow: Sequence[str]
) -> End:
    model = layout.apply(build_model(config, prepared.loaded))
    set_recompute(model, config.recompute)
    torch.manual_seed(config.seed + layout.data_rank)  # of dropout
    with ExitStack() as block:
        watcher = block.enter_context(_watcher(config, folder, model, prepared, layout))
        if layout.is_main:
            block.enter_context(folder.hold(config, allow))
        loop = Loop(
            model,
            build_batches(config, prepared, layout),
            pair_loss(prepared.safety_weight),
            config=prepared.loop,
            optimizer=config.optim.resolve(config.method),
            schedule=config.schedule.resolve(prepared.loop.steps),
            layout=layout,
            watcher=watcher,
            store=Checkpoints(folder.checkpoints, **dataclasses.asdict(config.checkpoints)),
            tidy=release_freed_memory,
        )
        kind = config.comparisons.kind
        facts = {"method": config.method, "base": config.model, "judged_by": kind, "margins": prepared.margins}
        take_up(loop, folder, config, watcher.log, batch_tokens=None, **facts)
        if watcher.log is not None:
            watcher.log.write("comparisons", loop.step, **dataclasses.asdict(prepared.census))
        end = loop.run()
        if end in ("finished", "stopped early") and layout.is_main:
            _finish(folder, config, prepared, best_checkpoint(folder.checkpoints, loop.best))
    return end


def build_model(config: RewardModelConfig, loaded: LoadedModel) -> Llama:
    """The model to begin with, in training, with a fresh head: a fresh adapter over the chat model, or all weights.

    A chat model that is an adapter itself is where the reward model's adapter begins, over the same base.

    Raises:
        ArrieroError: it is an adapter, and another shape or all weights were asked for.
    """
    model = loaded.model
    if model.adapters is None:
        build_tuned(config, loaded)
        model.output.requires_grad_(
            config.method == "full" and model.config.tied_embeddings
        )  # it has no part in scores
    else:
        if config.method == "full" or config.lora != LoraConfig() or config.quantise != "none":
            raise ArrieroError(
                f"the reward model begins as the adapter {config.model}, and keeps its rank, targets and base: give no "
                "--method and no settings of LoRA, or merge it first with `arriero adapter merge`"
            )
        Adapters.of(model).train_only(ADAPTER)
    add_head(model, SCORE, seed=config.seed)
    return model


def build_batches(config: RewardModelConfig, prepared: PreparedReward, layout: Layout) -> PairBatches:
    """The run's micro-batches, from the first."""
    return PairBatches(
        prepared.data.training,
        prepared.margins,
        rows=prepared.micro_rows,
        accumulation=prepared.loop.accumulation,
        rank=layout.data_rank,
        world=layout.data_world,
        seed=config.seed,
    )


def pair_loss(safety_weight: float) -> LossFunction[Llama, PairBatch]:
    """The loss of a micro-batch of pairs: of ranking, and of telling safe responses, the mean of a pair's two."""

    def loss(model: Llama, batch: PairBatch) -> Loss:
        batch = batch.to(model.tok_embeddings.weight.device)
        scores = model.compute(scores_at, SCORE, batch.tokens, batch.documents, batch.ends)  # (2P,)
        chosen, rejected = scores.view(-1, 2).unbind(1)  # (P,) each
        total = ranking_loss(chosen, rejected, batch.margins).sum()
        metrics = {"accuracy": (chosen > rejected).sum(), "difference": (chosen - rejected).sum()}
        if safety_weight:
            told = safety_loss(scores, batch.safe).sum() / 2
            total, metrics = total + safety_weight * told, {**metrics, "safety_loss": told}
        return Loss(total, len(batch.margins), metrics)

    return loss


def _margins(config: RewardModelConfig, census: RewardCensus) -> Margins:
    """Those asked for; else small ones, where there is a degree to apply them to."""
    wanted, told = config.loss.margins, sum(n for degree, n in census.degrees.items() if degree != "untold")
    if wanted in ("small", "large") and not told:
        raise ArrieroError(
            f"margins: {wanted} ones go by how much better a response is, and none of {census.training:,} comparisons "
            "tells: expected --margins none, or comparisons with a degree"
        )
    return wanted or ("small" if told else "none")


def _safety_weight(config: RewardModelConfig, census: RewardCensus) -> float:
    """The weight asked for; else 1 for a safety model, where there is something to tell."""
    wanted = config.loss.safety_weight
    if wanted and not census.labelled:
        raise ArrieroError(
            f"safety_weight: none of {census.training:,} comparisons tells which responses are safe: expected "
            "--safety-weight 0, or comparisons with safety"
        )
    usual = 1.0 if config.comparisons.kind == "safety" and census.labelled else 0.0
    return usual if wanted is None else wanted


def _watcher(
    config: RewardModelConfig, folder: RunFolder, model: Llama, prepared: PreparedReward, layout: Layout
) -> RunWatcher:
    own = [pair for pair in prepared.data.held_out if pair.kind == config.comparisons.kind]
    return RunWatcher(
        RunLog(folder.path, config.trackers) if layout.is_main else None,
        Pace(steps=prepared.loop.steps, batch_tokens=None, flops_per_token=0.0, peak_flops=None),
        meter=EnergyMeter(devices=layout.world) if layout.is_main else None,
        validate=(lambda: _validate(model, own, prepared, layout)) if own else None,
    )


def _validate(model: Llama, pairs: Sequence[TokenPair], prepared: PreparedReward, layout: Layout) -> dict[str, Any]:
    """Loss and accuracy over held-out pairs."""
    split = {"rows": prepared.micro_rows, "rank": layout.data_rank, "world": layout.data_world}
    batches = evaluation_batches(pairs, prepared.margins, **split)
    means, count = mean_loss(model, pair_loss(prepared.safety_weight), batches, layout, "accuracy")
    return means | {"pairs": count}


def _finish(folder: RunFolder, config: RewardModelConfig, prepared: PreparedReward, checkpoint: Path | None) -> None:
    """Write the best checkpoint and what its held-out scores are, unless that was done."""
    target, measured = folder.path / REWARD, folder.path / EVALUATION
    if checkpoint is None or is_newer(measured, checkpoint):
        return
    if not is_newer(target / "tokenizer_config.json", checkpoint):
        _export(checkpoint, target, config, prepared)
    kind, held_out = config.comparisons.kind, prepared.data.held_out
    if any(pair.kind == kind for pair in held_out):
        reward = load_reward_model(str(target), device=config.device)  # what was written, not what was trained
        write_evaluation(evaluate_reward(reward, held_out, kind), measured)


def _export(checkpoint: Path, target: Path, config: RewardModelConfig, prepared: PreparedReward) -> None:
    """Write a checkpoint as an adapter with its head, or as a whole model."""
    if target.exists():
        shutil.rmtree(target)
    if config.method == "full":
        shape, words = prepared.loaded.model.config, prepared.loaded.tokenizer
        export_hugging_face(checkpoint, shape, words, target, heads=(SCORE,))
        return
    loaded = load_model(config.model, device="cpu", dtype="float32")
    build_model(config, loaded)
    load_weights(checkpoint, loaded.model)
    export_peft(loaded, ADAPTER, target, name_base(config.model), quantised=quantised_to(loaded.model))
