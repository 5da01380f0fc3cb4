"""Supervised fine-tuning (Llama 2, arXiv 2307.09288, section 3.1): a model learns to answer as the examples do.

Pretraining's loop and loss, on other batches: chats in the model's own template, with a loss on the tokens of answers
alone. What learns is a LoRA adapter, or all weights. A run is a folder as pretraining's; at the end it holds `adapter/`
in PEFT's format or `model/` in Hugging Face's, of the step with the lowest held-out loss.
"""

import dataclasses
import math
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch

from arriero.common.device import pick_device
from arriero.common.errors import ArrieroError, FormatError
from arriero.model.adapter_export import export_peft
from arriero.model.adapters import Adapters
from arriero.model.choices import Quantisation
from arriero.model.layers import set_recompute
from arriero.model.lora_config import LoraConfig
from arriero.model.quantised import quantise_model
from arriero.model.source import LoadedModel, load_model, name_base
from arriero.model.transformer import Llama
from arriero.tokenizer.tokenizer import Tokenizer
from arriero.train.carbon import EnergyMeter
from arriero.train.checkpoint import Checkpoints, best_checkpoint, is_newer, load_weights
from arriero.train.example_batches import EvaluationBatches, ExampleBatches
from arriero.train.examples import Example, Format, read_examples
from arriero.train.export import export_hugging_face
from arriero.train.loop import End, Loop
from arriero.train.loop_config import LoopConfig
from arriero.train.parallel import Layout, laid_out
from arriero.train.pretrain import next_token_loss, validate
from arriero.train.run_facts import take_up
from arriero.train.run_folder import RunFolder
from arriero.train.run_log import RunLog
from arriero.train.sft_config import EpochsConfig, SftConfig, TooLong
from arriero.train.speaker import speaker
from arriero.train.speed import release_freed_memory
from arriero.train.supervised import Census, Supervised, pack, split_held_out, supervise
from arriero.train.watch import Pace, RunWatcher

ADAPTER = "adapter"
"""The name of the adapter, and of its folder in the run's."""
_TOKENS = 2048
"""Of the longest example, where nothing else is asked for."""
_MICRO_TOKENS = {"cpu": 2048, "cuda": 8192}
"""Of a micro-batch, likewise: enough for full speed."""
_SHOWN = 3
"""Held-out prompts that the model answers at each evaluation."""
_ANSWER_TOKENS = 128


@dataclass(frozen=True)
class Prepared:
    """A run before its first step."""

    loaded: LoadedModel
    tokenizer: Tokenizer
    format: Format
    rows: list[Supervised]
    """The examples as tokens."""
    kept: list[Example]
    census: Census
    held_out: list[Supervised]
    held_out_examples: list[Example]
    units: list[tuple[int, ...]]
    """Numbers of the examples that go together: packed rows, or each alone."""
    micro_rows: int
    """Units of a micro-batch."""
    loop: LoopConfig


def prepare(config: SftConfig, world: int = 1) -> Prepared:
    """Read model and examples, and see what a run would be; nothing is written.

    Args:
        world: processes that see different examples.

    Raises:
        ArrieroError: model, template or examples do not fit each other, or nothing is left to learn.
    """
    examples, format = read_examples(config.examples.data, config.examples.format)
    loaded = load_model(config.model, device="cpu", dtype="float32")
    tokenizer = _with_template(loaded, config, format)
    size = min(_TOKENS, loaded.context) if config.examples.tokens is None else config.examples.tokens
    if size > loaded.context:
        raise ArrieroError(f"tokens: expected rows within the model's context of {loaded.context}, got {size}")
    if config.examples.eval_data:
        held_out, _ = read_examples(config.examples.eval_data, config.examples.format)
    else:
        examples, held_out = split_held_out(examples, config.examples.eval_share, config.seed)
    answers, too_long = config.examples.answers, config.examples.too_long
    rows, kept, census = supervise(examples, tokenizer, max_tokens=size, answers=answers, too_long=too_long)
    out, out_kept, _ = supervise(held_out, tokenizer, max_tokens=size, answers=answers, too_long=too_long)
    _check_left(rows, examples, "", size, too_long)
    _check_left(out, held_out, "held-out ", size, too_long)
    lengths = [len(row) for row in rows]
    alone: list[tuple[int, ...]] = [(i,) for i in range(len(rows))]
    units = pack(lengths, size) if config.examples.pack else alone
    rows_each = micro_rows(config.training.batch, config.training.rows, config.device, sum(lengths) / len(units), world)
    return Prepared(
        loaded=loaded,
        tokenizer=tokenizer,
        format=format,
        rows=rows,
        kept=kept,
        census=census,
        held_out=out,
        held_out_examples=out_kept,
        units=units,
        micro_rows=rows_each,
        loop=loop_config(config.training, len(units), rows_each, world),
    )


def sft(run: Path, config: SftConfig, allow: Sequence[str] = (), prepared: Prepared | None = None) -> End:
    """Fine-tune in the folder `run`, continuing what is there.

    Args:
        allow: fields that may differ from those of the run begun there.
        prepared: what `prepare` gave, where that was called before.

    Raises:
        ArrieroError: the examples, the model or the run's config do not fit each other; the message says how.
    """
    with laid_out(config.parallel, config.device, config.dtype) as layout:
        folder = RunFolder(run)
        if layout.is_main:
            folder.check(config, allow)
        prepared = prepared or prepare(config, layout.data_world)
        return _train(folder, config, prepared, layout, allow)


def _train(folder: RunFolder, config: SftConfig, prepared: Prepared, layout: Layout, allow: Sequence[str]) -> End:
    model = layout.apply(build_model(config, prepared.loaded))
    set_recompute(model, config.recompute)
    batches = build_batches(config, prepared, layout)
    torch.manual_seed(config.seed + layout.data_rank)  # of dropout; ranks that share rows leave out the same
    with ExitStack() as block:
        watcher = block.enter_context(_watcher(config, folder, model, prepared, layout))
        if layout.is_main:
            block.enter_context(folder.hold(config, allow))
        loop = Loop(
            model,
            batches,
            next_token_loss,
            config=prepared.loop,
            optimizer=config.optim.resolve(config.method),
            schedule=config.schedule.fitted(prepared.loop.steps),
            layout=layout,
            watcher=watcher,
            store=Checkpoints(folder.checkpoints, **dataclasses.asdict(config.checkpoints)),
            tidy=release_freed_memory,
        )
        facts = {"method": config.method, "base": config.model}
        resumed = take_up(loop, folder, config, watcher.log, batch_tokens=None, **facts)
        if watcher.log is not None:
            census = {**dataclasses.asdict(prepared.census), "held_out": len(prepared.held_out)}
            watcher.log.write("examples", loop.step, format=prepared.format, **census)
        if not resumed:
            watcher.on_validation(0)  # what the model was before
        end = loop.run()
        if end in ("finished", "stopped early") and layout.is_main:
            _export(folder, config, prepared, best_checkpoint(folder.checkpoints, loop.best))
    return end


class Tuning(Protocol):
    """What of a model learns."""

    @property
    def method(self) -> Literal["lora", "full"]: ...
    @property
    def quantise(self) -> Quantisation: ...
    @property
    def lora(self) -> LoraConfig: ...
    @property
    def seed(self) -> int: ...


def build_model(config: Tuning, loaded: LoadedModel) -> Llama:
    """The model to begin with: with a fresh adapter over frozen weights, or all weights to learn."""
    model = loaded.model
    if config.method == "full":
        return model.requires_grad_(True)
    if config.quantise != "none":
        quantise_model(model, config.quantise)
    Adapters.of(model).add(ADAPTER, config.lora, seed=config.seed)
    return model


def build_batches(config: SftConfig, prepared: Prepared, layout: Layout) -> ExampleBatches:
    """The run's micro-batches, from the first."""
    return ExampleBatches(
        prepared.rows,
        prepared.units,
        rows=prepared.micro_rows,
        accumulation=prepared.loop.accumulation,
        rank=layout.data_rank,
        world=layout.data_world,
        seed=config.seed,
        multiple=config.parallel.tensor,
    )


def _with_template(loaded: LoadedModel, config: SftConfig, format: Format) -> Tokenizer:
    """The model's tokenizer, with the chat template that was asked for."""
    tokenizer, wanted = loaded.tokenizer, config.examples.template
    if wanted is not None:
        tokenizer.use_chat_template(_template(wanted))
    elif tokenizer.chat_template is None and format != "text":
        raise ArrieroError(
            f"model '{config.model}' has no chat template, as base models have none: choose one for it, such as "
            "--template llama2"
        )
    return tokenizer


def _template(wanted: str) -> str:
    """A name or a Jinja text, as it is given or in the file that is named."""
    if "{" in wanted or not Path(wanted).is_file():
        return wanted
    try:
        return Path(wanted).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"template: expected a file of Jinja text in UTF-8, got {wanted} ({error.reason})") from error


def _check_left(kept: Sequence[Supervised], given: Sequence[Example], kind: str, size: int, too_long: TooLong) -> None:
    if given and not kept:
        cuts = too_long == "truncate"
        raise ArrieroError(
            f"none of {len(given)} {kind}examples {'begins its answer' if cuts else 'ends'} within "
            f"{size} tokens: raise --tokens{'' if cuts else ', or give --too-long truncate'}"
        )


def micro_rows(
    batch: int, asked: int | None, device: str, mean_tokens: float, world: int, *, name: str = "batch"
) -> int:
    """Units of a micro-batch: as many as come to about `_MICRO_TOKENS`, and divide a process's part of the batch.

    Args:
        batch: units of a step, on all processes together.
        asked: units of a micro-batch, where that was asked for.
        device: auto, cpu or cuda.
        mean_tokens: of a unit.
        world: processes that see different units.
        name: of the setting that says the batch.

    Raises:
        ArrieroError: the batch is no multiple of the processes, or of the units asked for.
    """
    if batch % world:
        raise ArrieroError(f"{name}: expected a multiple of the {world} processes, got {batch}")
    own = batch // world
    if asked is not None:
        if own % asked:
            raise ArrieroError(
                f"rows: expected a divisor of the {name.replace('_', '-')} of {own} a process, got {asked}"
            )
        return asked
    tokens = _MICRO_TOKENS["cuda" if pick_device(device).type == "cuda" else "cpu"]
    most = max(1, int(tokens / max(mean_tokens, 1)))
    return max(rows for rows in range(1, own + 1) if own % rows == 0 and rows <= most)


def loop_config(training: EpochsConfig, units: int, rows: int, world: int) -> LoopConfig:
    """The loop over so many units of examples, in micro-batches of `rows` of them."""
    per_epoch = -(-units // training.batch)
    steps = training.steps or max(1, math.ceil(training.epochs * per_epoch))
    return LoopConfig(
        steps=steps,
        accumulation=training.batch // (rows * world),
        validate_every=training.validate_every or max(1, steps // 8),
        checkpoint_every=training.checkpoint_every,
        max_minutes=training.max_minutes,
        keep_best=True,
        patience=training.patience,
    )


def _watcher(config: SftConfig, folder: RunFolder, model: Llama, prepared: Prepared, layout: Layout) -> RunWatcher:
    batches = EvaluationBatches(
        prepared.held_out,
        rows=prepared.micro_rows,
        rank=layout.data_rank,
        world=layout.data_world,
        multiple=config.parallel.tensor,
    )
    prompts, words = _prompts(config, prepared), prepared.tokenizer
    speak = speaker(model, words, prompts, layout, max_tokens=_ANSWER_TOKENS) if prompts else None
    return RunWatcher(
        RunLog(folder.path, config.trackers) if layout.is_main else None,
        Pace(steps=prepared.loop.steps, batch_tokens=None, flops_per_token=0.0, peak_flops=None),
        meter=EnergyMeter(devices=layout.world) if layout.is_main else None,
        validate=(lambda: validate(model, {"held out": batches}, layout)) if prepared.held_out else None,
        sample=speak,
    )


def _prompts(config: SftConfig, prepared: Prepared) -> list[tuple[str, list[int]]]:
    """What the model is asked at each evaluation."""
    tokenizer = prepared.tokenizer
    if config.samples:
        if tokenizer.chat_template is None:
            return [(prompt, tokenizer.encode(prompt)) for prompt in config.samples]
        return [(text, tokenizer.encode_chat([{"role": "user", "content": text}])) for text in config.samples]
    prompts = []
    for example in (prepared.held_out_examples or prepared.kept)[:_SHOWN]:
        if example.messages:
            last = max(i for i, message in enumerate(example.messages) if message["role"] == "assistant")
            asked = example.messages[:last]
            shown = asked[-1]["content"] if asked else ""
            prompts.append((shown, tokenizer.encode_chat(asked)))
    return prompts


def _export(folder: RunFolder, config: SftConfig, prepared: Prepared, checkpoint: Path | None) -> None:
    """Write the best checkpoint as an adapter or a model, unless that was done."""
    target = folder.path / ADAPTER if config.method == "lora" else folder.model
    if checkpoint is None or is_newer(target / "tokenizer_config.json", checkpoint):
        return
    if config.method == "full":
        if target.exists():
            shutil.rmtree(target)
        export_hugging_face(checkpoint, prepared.loaded.model.config, prepared.tokenizer, target)
        return
    loaded = load_model(config.model, device="cpu", dtype="float32")
    Adapters.of(loaded.model).add(ADAPTER, config.lora, seed=config.seed)
    load_weights(checkpoint, loaded.model)
    loaded = dataclasses.replace(loaded, loaded_tokenizer=prepared.tokenizer)
    export_peft(loaded, ADAPTER, target, name_base(config.model), quantised=config.quantise)
