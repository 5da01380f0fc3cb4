"""Training of a retriever (Karpukhin et al. 2020, arXiv 2004.04906), on the one loop.

Each step is one batch: its loss is over all passages of the batch, so it is not divided into parts. A run is a folder
as fine-tuning's; at the end it holds `query_encoder/`, or `encoder/` where both sides learnt, of the step with the
lowest held-out loss.
"""

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from arriero.common.errors import ArrieroError
from arriero.common.progress import progress
from arriero.rag.collection import Collection
from arriero.rag.encoder_save import save_encoder, save_query_encoder
from arriero.rag.negatives import Example, mine_examples
from arriero.rag.questions import Question
from arriero.rag.rag_model import ENCODER, QUERY_ENCODER
from arriero.rag.retriever_batches import RetrieverBatches, evaluation_batches
from arriero.rag.retriever_config import RetrieverConfig
from arriero.rag.retriever_learner import RetrieverLearner, retriever_loss
from arriero.rag.training_set import divide_questions, open_collection, trainable_encoder
from arriero.train.carbon import EnergyMeter
from arriero.train.checkpoint import Checkpoints, best_checkpoint, load_weights
from arriero.train.held_out import mean_loss
from arriero.train.loop import End, Loop
from arriero.train.loop_config import LoopConfig
from arriero.train.parallel import Layout, laid_out
from arriero.train.run_facts import take_up
from arriero.train.run_folder import RunFolder
from arriero.train.run_log import RunLog
from arriero.train.sft import loop_config
from arriero.train.speed import release_freed_memory
from arriero.train.watch import Pace, RunWatcher


@dataclass(frozen=True)
class PreparedRetriever:
    """A run before its first step."""

    learner: RetrieverLearner
    training: list[Example]
    held_out: list[Example]
    asked: list[Question]
    """All held-out questions, also those that no passage answers."""
    unanswered: int
    """Questions without an answer, or that no passage answers, which are left out."""
    rows: int
    """Questions of a batch, on each process."""
    loop: LoopConfig


def prepare_retriever(config: RetrieverConfig, collection: Collection, world: int = 1) -> PreparedRetriever:
    """Read documents and questions, find passages for them, and see what a run would be; nothing is written.

    Args:
        collection: the documents, open.
        world: processes that see different questions.

    Raises:
        ArrieroError: documents and questions do not fit each other, or nothing is left to learn.
    """
    encoder = trainable_encoder(collection)
    if config.training.batch % world:
        raise ArrieroError(f"batch: expected a multiple of the {world} processes, got {config.training.batch}")
    if config.sides == "both" and config.query_encoder is not None:
        raise ArrieroError("query_encoder: it belongs to passages as they are: leave it out where both sides learn")
    questions = divide_questions(config.questions, config.seed)
    with progress("Looking for passages", len(questions.training) + len(questions.held_out), "questions") as advance:
        training, lost = mine_examples(collection, questions.training, config.negatives, advance)
        measured, _ = mine_examples(collection, questions.held_out, config.negatives, advance)
    if not training:
        raise ArrieroError(
            f"no passage holds an answer to any of {questions.read} questions: are they of these documents?"
        )
    scale = encoder.scale if config.scale is None else config.scale
    learner = RetrieverLearner(encoder, collection, sides=config.sides, scale=scale)
    learner.hold([*training, *measured])
    rows = config.training.batch // world
    return PreparedRetriever(
        learner=learner,
        training=training,
        held_out=measured,
        asked=questions.held_out,
        unanswered=lost + questions.unanswered,
        rows=rows,
        loop=loop_config(config.training, len(training), rows, world),
    )


def train_retriever(
    run: Path, config: RetrieverConfig, allow: Sequence[str] = (), prepared: PreparedRetriever | None = None
) -> End:
    """Train in the folder `run`, continuing what is there.

    Args:
        allow: fields that may differ from those of the run begun there.
        prepared: what `prepare_retriever` gave, where that was called before.

    Raises:
        ArrieroError: documents, questions or the run's config do not fit each other; the message says how.
    """
    with laid_out(config.parallel, config.device, "float32") as layout, ExitStack() as block:
        folder = RunFolder(run)
        if layout.is_main:
            folder.check(config, allow)
        if prepared is None:
            collection = block.enter_context(open_collection(config))
            prepared = prepare_retriever(config, collection, layout.data_world)
        return _train(folder, config, prepared, layout, allow)


def _train(
    folder: RunFolder, config: RetrieverConfig, prepared: PreparedRetriever, layout: Layout, allow: Sequence[str]
) -> End:
    learner = prepared.learner
    learner.layout = layout
    layout.apply_whole(learner.query)
    if learner.passage is not None:
        layout.apply_whole(learner.passage)
    torch.manual_seed(config.seed)
    with ExitStack() as block:
        watcher = block.enter_context(_watcher(config, folder, prepared, layout))
        if layout.is_main:
            block.enter_context(folder.hold(config, allow))
        own = {"rows": prepared.rows, "rank": layout.data_rank, "world": layout.data_world, "seed": config.seed}
        loop = Loop(
            learner,
            RetrieverBatches(prepared.training, **own),
            retriever_loss,
            config=prepared.loop,
            optimizer=config.optim.resolve(config.sides),
            schedule=config.schedule.fitted(prepared.loop.steps),
            layout=layout,
            watcher=watcher,
            store=Checkpoints(folder.checkpoints, **dataclasses.asdict(config.checkpoints)),
            tidy=release_freed_memory,
        )
        facts = {"method": config.sides, "base": learner.encoder.name}
        if not take_up(loop, folder, config, watcher.log, batch_tokens=None, **facts):
            watcher.on_validation(0)  # what the retriever was before
        end = loop.run()
        if end in ("finished", "stopped early") and layout.is_main:
            _export(folder, config, best_checkpoint(folder.checkpoints, loop.best))
    return end


def _watcher(config: RetrieverConfig, folder: RunFolder, prepared: PreparedRetriever, layout: Layout) -> RunWatcher:
    learner = prepared.learner
    split = {"rows": prepared.rows, "rank": layout.data_rank, "world": layout.data_world}
    batches = list(evaluation_batches(prepared.held_out, **split))

    def validate() -> dict[str, float]:
        means, count = mean_loss(learner, retriever_loss, batches, layout)
        return means | {"questions": count} | learner.recall(prepared.asked)

    return RunWatcher(
        RunLog(folder.path, config.trackers) if layout.is_main else None,
        Pace(steps=prepared.loop.steps, batch_tokens=None, flops_per_token=0.0, peak_flops=None),
        meter=EnergyMeter(devices=layout.world) if layout.is_main else None,
        validate=validate if batches else None,
    )


def _export(folder: RunFolder, config: RetrieverConfig, checkpoint: Path | None) -> None:
    """Write the best checkpoint's encoder."""
    target = folder.path / (QUERY_ENCODER if config.sides == "query" else ENCODER)
    if checkpoint is None:
        return
    with open_collection(config) as collection:
        encoder = trainable_encoder(collection)
        learner = RetrieverLearner(encoder, collection, sides=config.sides, scale=1.0)
        load_weights(checkpoint, learner)
        save_query_encoder(encoder, target) if config.sides == "query" else save_encoder(encoder, target)
