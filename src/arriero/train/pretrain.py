"""Pretraining: from token shards to a base model (LLaMA, arXiv 2302.13971, section 2), or on from a trained one.

A run is a folder: `config.toml`, `metrics.jsonl`, `checkpoints/`, and at the end `model/` in Hugging Face's format. The
same command continues it, wherever and however it stopped.
"""

import dataclasses
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import torch

from arriero.common.errors import ArrieroError
from arriero.kernels.cross_entropy import IGNORED
from arriero.model.config import LlamaConfig
from arriero.model.layers import set_recompute
from arriero.model.presets import PRESETS
from arriero.model.source import load_model
from arriero.model.transformer import Llama
from arriero.tokenizer.load import load_tokenizer
from arriero.tokenizer.tokenizer import Tokenizer
from arriero.train.batch import Batch
from arriero.train.batches import PackedBatches, RowLayout, ValidationBatches
from arriero.train.carbon import EnergyMeter
from arriero.train.checkpoint import Checkpoints, is_newer, latest_checkpoint
from arriero.train.export import export_hugging_face
from arriero.train.loop import End, Loop, Loss
from arriero.train.parallel import Layout, laid_out
from arriero.train.pretrain_config import DataConfig, PretrainConfig
from arriero.train.run_facts import take_up
from arriero.train.run_folder import RunFolder
from arriero.train.run_log import RunLog
from arriero.train.shards import ShardReader, check_vocabulary, check_words
from arriero.train.speaker import speaker
from arriero.train.speed import flops_per_token, peak_flops
from arriero.train.watch import Pace, RunWatcher


def pretrain(run: Path, config: PretrainConfig, allow: Sequence[str] = ()) -> End:
    """Train in the folder `run`, continuing what is there.

    Args:
        allow: fields that may differ from those of the run begun there.

    Raises:
        ArrieroError: shards, model, weights or the run's config do not fit each other; the message says how.
    """
    with laid_out(config.parallel, config.device, config.dtype) as layout:
        return _pretrain(RunFolder(run), config, layout, allow)


def _pretrain(folder: RunFolder, config: PretrainConfig, layout: Layout, allow: Sequence[str]) -> End:
    readers = _open_shards(config.data)
    tokenizer = load_tokenizer(readers[0].folder)
    held_out = _held_out(readers)
    if layout.is_main:
        folder.check(config, allow)
        for reader in [*readers, *held_out.values()] if config.data.verify else []:
            reader.verify()
    model = build_model(config, readers, layout.device if layout.world == 1 else torch.device("cpu"))
    model = layout.apply(model)
    set_recompute(model, config.recompute)
    batches = _batches(config, readers, layout)
    with ExitStack() as block:
        watcher = block.enter_context(_watcher(config, folder, model, held_out, batches, layout, tokenizer))
        if layout.is_main:
            block.enter_context(folder.hold(config, allow))
        loop = Loop(
            model,
            batches,
            next_token_loss,
            config=config.loop,
            optimizer=config.optim,
            schedule=config.schedule,
            layout=layout,
            watcher=watcher,
            store=Checkpoints(folder.checkpoints, **dataclasses.asdict(config.checkpoints)),
        )
        batch_tokens = _batch_tokens(config, layout)
        take_up(loop, folder, config, watcher.log, batch_tokens=batch_tokens)
        if watcher.log is not None:
            plan = batches.plan(batch_tokens * config.loop.steps)
            watcher.log.write("mixture", loop.step, rows=[dataclasses.asdict(row) for row in plan])
        end = loop.run()
        if end == "finished" and layout.is_main:
            _export(folder, model.config, readers[0].folder)
    return end


def _export(folder: RunFolder, shape: LlamaConfig, tokenizer: Path) -> None:
    """Write the last checkpoint as a model, unless that was done: a run may go on beyond its first end."""
    last = latest_checkpoint(folder.checkpoints)
    if last is None or is_newer(folder.model / "config.json", last):
        return
    if folder.model.exists():
        shutil.rmtree(folder.model)
    export_hugging_face(last, shape, tokenizer, folder.model)


def next_token_loss(model: Llama, batch: Batch) -> Loss:
    """Cross-entropy of each next token; nothing else is needed to pretrain."""
    batch = batch.to(model.tok_embeddings.weight.device)
    total, _ = model.loss(batch.tokens, batch.targets, documents=batch.documents)
    return Loss(total, int((batch.targets != IGNORED).sum()), {})


def build_model(config: PretrainConfig, readers: Sequence[ShardReader], device: torch.device) -> Llama:
    """The model to begin with, in float32: random weights in a preset's shape, or trained ones.

    Raises:
        ArrieroError: the shards are of another tokenizer, or their rows longer than the model's context.
    """
    vocab_size = readers[0].manifest.vocab_size
    if config.model in PRESETS:
        shape = _grown(dataclasses.replace(PRESETS[config.model], vocab_size=vocab_size), config)
        model = Llama(shape).init_weights(config.seed).to(device)
    else:
        loaded = load_model(config.model, device=str(device), dtype="float32")
        model = loaded.model
        model.config = _grown(model.config, config)
    check_vocabulary(readers, model.config.vocab_size)
    if config.model not in PRESETS and loaded.loaded_tokenizer is not None:
        check_words(config.model, loaded.loaded_tokenizer, readers[0])
    if config.data.tokens > model.config.max_seq_len:
        raise ArrieroError(
            f"tokens: expected rows within the model's context of {model.config.max_seq_len}, got "
            f"{config.data.tokens}; --context {config.data.tokens} grows it"
        )
    return model


def _grown(shape: LlamaConfig, config: PretrainConfig) -> LlamaConfig:
    changes: dict[str, Any] = {"max_seq_len": config.context, "rope_theta": config.rope_theta}
    return dataclasses.replace(shape, **{name: value for name, value in changes.items() if value is not None})


def _open_shards(data: DataConfig) -> list[ShardReader]:
    if not data.shards:
        raise ArrieroError("shards: expected at least one folder that `arriero tokenize` wrote")
    readers = [ShardReader(folder) for folder in data.shards]
    names = [reader.manifest.source for reader in readers]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ArrieroError(
            f"shards: two folders are of the source '{doubled.pop()}': tokenize one with another --source"
        )
    if empty := [reader for reader in readers if not reader.tokens]:
        raise ArrieroError(f"source '{empty[0].manifest.source}' is empty: {empty[0].folder} holds no tokens")
    return readers


def _held_out(readers: Sequence[ShardReader]) -> dict[str, ShardReader]:
    """The documents for validation, of the sources that have any."""
    folders = {reader.manifest.source: reader.folder / "validation" for reader in readers}
    held_out = {name: ShardReader(folder) for name, folder in folders.items() if folder.is_dir()}
    return {name: reader for name, reader in held_out.items() if reader.tokens}


def _rows(config: PretrainConfig, layout: Layout) -> RowLayout:
    data = config.data
    return RowLayout(
        rows=data.rows,
        tokens=data.tokens,
        rank=layout.data_rank,
        world=layout.data_world,
        across_documents=data.across_documents,
    )


def _batches(config: PretrainConfig, readers: Sequence[ShardReader], layout: Layout) -> PackedBatches:
    sources = {reader.manifest.source: reader for reader in readers}
    weights = config.data.weights or {name: float(reader.tokens) for name, reader in sources.items()}
    return PackedBatches(sources, weights, _rows(config, layout), seed=config.seed, normalise=not config.data.weights)


def _batch_tokens(config: PretrainConfig, layout: Layout) -> int:
    return config.data.rows * config.data.tokens * config.loop.accumulation * layout.data_world


def _watcher(
    config: PretrainConfig,
    folder: RunFolder,
    model: Llama,
    held_out: dict[str, ShardReader],
    batches: PackedBatches,
    layout: Layout,
    tokenizer: Tokenizer,
) -> RunWatcher:
    pace = Pace(
        steps=config.loop.steps,
        batch_tokens=_batch_tokens(config, layout),
        flops_per_token=flops_per_token(model.config, config.data.tokens),
        peak_flops=peak_flops(layout.device, layout.world),
    )
    log = RunLog(folder.path, config.trackers) if layout.is_main else None
    prompts = [(prompt, tokenizer.encode(prompt)) for prompt in config.samples]
    validation = {
        name: ValidationBatches(reader, _rows(config, layout), max_rows=config.data.validation_rows)
        for name, reader in held_out.items()
    }
    return RunWatcher(
        log,
        pace,
        meter=EnergyMeter(devices=layout.world) if layout.is_main else None,
        source_tokens=lambda: batches.source_tokens,
        validate=(lambda: validate(model, validation, layout)) if validation else None,
        sample=speaker(model, tokenizer, prompts, layout, max_tokens=48) if prompts else None,
    )


class Pass(Protocol):
    """Micro-batches of a source's held-out documents, the same number on every rank."""

    @property
    def bytes(self) -> int: ...
    def __iter__(self) -> Iterator[Batch]: ...


@torch.no_grad()
def validate(model: Llama, sources: Mapping[str, Pass], layout: Layout) -> dict[str, Any]:
    """Loss and perplexity over all sources, and by source; every rank takes its share of the rows."""
    training = model.training
    model.eval()  # an adapter's dropout is off
    by_source = {}
    for name, batches in sources.items():
        sums = torch.zeros(2, dtype=torch.float64)  # loss, tokens with a loss
        for batch in batches:
            loss = next_token_loss(model, batch)
            sums += torch.tensor([float(loss.total), loss.count], dtype=torch.float64)
        total, tokens = layout.sum(sums.to(layout.device)).tolist()
        if tokens:
            by_source[name] = {"loss": total / tokens, "tokens": int(tokens), "bytes": batches.bytes}
    model.train(training)
    tokens = sum(source["tokens"] for source in by_source.values())
    summed = sum(source["loss"] * source["tokens"] for source in by_source.values())
    mean = summed / tokens if tokens else math.nan
    return {"loss": mean, "perplexity": math.exp(min(mean, 700.0)), "by_source": by_source}
