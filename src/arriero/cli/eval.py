"""`arriero eval`: perplexity by source, and the tasks of lm-eval."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from rich.table import Table

from arriero.cli.bar import reading_bar
from arriero.cli.options import positional
from arriero.cli.output import console, note, print_json, printable
from arriero.common.errors import ArrieroError, require
from arriero.train.text_files import TextOptions

if TYPE_CHECKING:
    from arriero.model.source import LoadedModel
    from arriero.train.drift import Drift
    from arriero.train.evaluate import DocumentSource, Evaluation
    from arriero.train.harness import TaskResults

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Which model, on what."""

    model: str = positional("MODEL")
    """A run's folder (its last checkpoint), a checkpoint, a known name, a model's folder, a .gguf file or a hub id."""
    shards: tuple[str, ...] = ()
    """[NAME=]FOLDER of token shards, such as `validation` of `arriero tokenize`; default: their source's name."""
    text: tuple[str, ...] = ()
    """[NAME=]PATH of a file, a folder or a pattern of raw text; those without a name are the source 'text'."""
    tasks: tuple[str, ...] = ()
    """Name of a task of lm-eval, a group of them, or a pattern."""
    include_path: Path | None = None
    """A folder with task files of your own."""
    num_fewshot: int | None = None
    """Examples before each question of a task; default: as the task says."""
    chat: bool = False
    """Ask a task's questions in the model's chat format."""
    limit: int | None = None
    """Only so many of the first documents of each source, and of the first questions of each task."""
    context: int | None = None
    """Most tokens that the model reads at a time; default: what it was made for."""
    stride: int | None = None
    """Tokens by which the windows of documents longer than the context advance; default: half the context."""
    batch_tokens: int = 4096
    """Tokens that are read together."""
    read: TextOptions = field(default_factory=TextOptions)
    """How documents are found in the files of --text."""
    bos: bool | None = None
    """Begin each document of --text with the beginning-of-sequence token; default: as the tokenizer itself does."""
    eos: bool | None = None
    """End each document of --text with the end-of-sequence token; default: if the vocabulary has one."""
    device: str = "auto"
    """auto takes the first of cuda, mps, cpu."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto is bfloat16 on cuda and float32 elsewhere."""
    weights: Literal["full", "int8", "int4"] = "full"
    """How matrices are held; beside int8 and int4 the model is read in full too, and both are compared on the text."""
    json: bool = False
    """Print JSON for scripts."""

    def __post_init__(self) -> None:
        if not (self.shards or self.text or self.tasks):
            raise ArrieroError("nothing to evaluate on: give --shards, --text or --tasks")
        if self.limit is not None and self.limit < 1:
            raise ArrieroError(f"limit: expected at least 1, got {self.limit}")


def evaluate(config: EvalConfig) -> int:
    """Measure how well a model predicts text, source by source, and run the tasks of lm-eval on it.

    Each token of a document is predicted once, from those before it. Loss (nats a token) and perplexity depend on the
    vocabulary; bits per byte compare models of different ones. With --weights int8 or int4 the table tells what that
    costs: both perplexities and their ratio, the divergence KL(full ‖ packed) in nats a token, how often both have the
    same likeliest token, and the memory that each model takes. Tasks take their data from this machine alone: a task
    file with `dataset_path: json`, or the cache of `datasets`.

    Examples:
      arriero eval runs/tiny --shards plays=shards/plays/validation --shards law=shards/law/validation
      arriero eval smollm2-135m-instruct --text notes/ --stride 256
      arriero eval smollm2-135m-instruct --text notes/ --weights int8
      arriero eval runs/tiny/model --tasks my_quiz --include-path tasks/
    """
    if config.tasks:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything imports the hub's client: it reads this once
        require("lm_eval", extra="eval", purpose="running tasks")
    from arriero.train.trained import load_trained

    loaded = load_trained(config.model, device=config.device, dtype=config.dtype, weights=config.weights)
    facts: dict[str, Any] = {"model": loaded.name}
    if config.weights != "full" and (config.shards or config.text):
        facts |= _compare(config, loaded)
    elif evaluations := _perplexities(config, loaded):
        facts["sources"] = [each.facts() for each in evaluations]
        if not config.json:
            _show(evaluations)
    if config.tasks:
        tasks = _tasks(config, loaded)
        facts["tasks"] = tasks.results
        if not config.json:
            print(printable(tasks.table), end="")
    if config.json:
        print_json(facts)
    return 0


def _compare(config: EvalConfig, packed: "LoadedModel") -> dict[str, Any]:
    """Drift of a packed model from the full one, shown and as facts."""
    from arriero.model.packed import model_bytes
    from arriero.train.drift import add_up_drifts, compare
    from arriero.train.trained import load_trained

    full = load_trained(config.model, device=config.device, dtype=config.dtype)
    drifts = _measure(config, packed, partial(compare, full.model, packed.model))
    drifts = [*drifts, add_up_drifts(drifts)] if len(drifts) > 1 else drifts
    memory: dict[str, int] = {"full": model_bytes(full.model), config.weights: model_bytes(packed.model)}
    if not config.json:
        _show_drifts(drifts, memory)
    return {"weights": config.weights, "memory": memory, "sources": [each.facts() for each in drifts]}


def _perplexities(config: EvalConfig, loaded: "LoadedModel") -> "list[Evaluation]":
    """Of each source, and of all together."""
    from arriero.train.evaluate import add_up, evaluate

    evaluations = _measure(config, loaded, partial(evaluate, loaded.model))
    return [*evaluations, add_up(evaluations)] if len(evaluations) > 1 else evaluations


def _measure(config: EvalConfig, loaded: "LoadedModel", measure: Callable[..., _T]) -> list[_T]:
    """What `measure` finds for each source."""
    measured = []
    for source in _sources(config, loaded):
        with reading_bar(f"Evaluating {printable(source.name)}") as tell:
            measured.append(
                measure(
                    source, context=config.context, stride=config.stride, batch_tokens=config.batch_tokens, tell=tell
                )
            )
    return measured


def _sources(config: EvalConfig, loaded: "LoadedModel") -> "list[DocumentSource]":
    """All sources, checked before the first is read.

    Raises:
        ArrieroError: two have one name, or they were made for another vocabulary.
    """
    from arriero.train.evaluate import check_tokenizer, shard_source, text_source
    from arriero.train.shards import ShardReader, check_vocabulary, check_words

    sources, readers = [], []
    for name, folder in map(_named, config.shards):
        reader = ShardReader(folder)
        readers.append(reader)
        if loaded.loaded_tokenizer is not None:
            check_words(config.model, loaded.loaded_tokenizer, reader)
        sources.append(shard_source(reader, name=name, limit=config.limit))
    check_vocabulary(readers, loaded.model.config.vocab_size)
    for name, paths in _texts(config.text).items():
        check_tokenizer(loaded.tokenizer, loaded.model.config.vocab_size)
        sources.append(
            text_source(
                name, paths, loaded.tokenizer, text=config.read, bos=config.bos, eos=config.eos, limit=config.limit
            )
        )
    names = [source.name for source in sources]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ArrieroError(f"two sources have the name '{doubled.pop()}': name one with NAME=FOLDER")
    return sources


def _texts(given: Sequence[str]) -> dict[str, list[Path]]:
    """Paths by source; those without a name are the source `text`."""
    texts: dict[str, list[Path]] = {}
    for name, path in map(_named, given):
        texts.setdefault(name or "text", []).append(path)
    return texts


def _named(given: str) -> tuple[str | None, Path]:
    """The name, if there is one, and the path of `[NAME=]PATH`."""
    named = None if Path(given).exists() else re.fullmatch(r"([\w.-]+)=(.+)", given)
    return (named[1], Path(named[2]).expanduser()) if named else (None, Path(given).expanduser())


def _tasks(config: EvalConfig, loaded: "LoadedModel") -> "TaskResults":
    from arriero.train.harness import ArrieroLM, run_tasks

    return run_tasks(
        ArrieroLM(loaded, context=config.context, batch_tokens=config.batch_tokens),
        config.tasks,
        include=config.include_path,
        num_fewshot=config.num_fewshot,
        limit=config.limit,
        chat=config.chat,
    )


def _show(evaluations: "Sequence[Evaluation]") -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("source", overflow="fold")
    for column in ("documents", "tokens", "bytes", "loss", "perplexity", "bits/byte"):
        table.add_column(column, justify="right")
    for each in evaluations:
        counts = (f"{count:,}" for count in (each.documents, each.tokens, each.bytes))
        measures = (f"{each.loss:.4f}", f"{each.perplexity:,.3f}", f"{each.bits_per_byte:.4f}")
        table.add_row(printable(each.source), *counts, *measures)
    console().print(table, markup=False)
    note("loss in nats a token; tokens are those predicted, and bytes their UTF-8 text")


def _show_drifts(drifts: "Sequence[Drift]", memory: dict[str, int]) -> None:
    _, packed = memory
    table = Table(box=None, pad_edge=False)
    table.add_column("source", overflow="fold")
    for column in ("tokens", "perplexity", packed, "ratio", "KL", "same token"):
        table.add_column(column, justify="right")
    for each in drifts:
        perplexities = (f"{one.perplexity:,.3f}" for one in (each.full, each.packed))
        measures = (f"{each.ratio:.4f}", f"{each.mean_kl:.5f}", f"{each.agreement:.2%}")
        table.add_row(printable(each.full.source), f"{each.full.tokens:,}", *perplexities, *measures)
    console().print(table, markup=False)
    held = ", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in memory.items())
    note(f"perplexity in full precision and with {packed} weights; KL in nats a token; in memory: {held}")
