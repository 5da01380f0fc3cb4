"""`arriero adapter merge|export|list`: what becomes of adapters after training."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

from arriero.cli.model_export import check_target
from arriero.cli.options import positional
from arriero.cli.output import console, note, print_json, printable
from arriero.common.errors import ArrieroError

if TYPE_CHECKING:
    from arriero.model.choices import Quantisation

WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """What to merge, and where the result goes."""

    target: Path = positional("TARGET")  # noqa: RUF009
    """The model to write: a folder, or a file that ends in .gguf."""
    adapters: tuple[Path, ...] = positional("ADAPTER", default=())
    """Folders with adapters in PEFT's format, all of one base."""
    shares: tuple[float, ...] = ()
    """How much of each adapter, in their order; default: all of one, equal parts of several. Repeat the option."""
    model: str | None = None
    """The base; default: the one that the first adapter names."""
    to: Literal["model", "adapter"] = "model"
    """Write a model, or one adapter that does what all of them together do."""
    rank: int | None = None
    """With --to adapter: the nearest adapter of this rank, instead of the exact one of all ranks together."""
    store: Literal["f32", "f16", "bf16", "q8_0"] = "f16"
    """How the model's weights are stored: f32, f16, bf16 (folders only) or q8_0 (GGUF only)."""
    full_precision: bool = False
    """Merge an adapter that was trained over a quantised base into the weights before that, which it never saw."""
    force: bool = False
    """Replace what is at TARGET."""
    json: bool = False
    """Print JSON for scripts."""


def merge(config: MergeConfig) -> int:
    """Merge adapters into the weights of their base: a model like any other, as fast as the base.

    An adapter trained over a base in few bits (--quantise) is merged into those weights, which are what it was trained
    against. What was written is read back and compared before it gets its name.

    Examples:
      arriero adapter merge law-model runs/law/adapter
      arriero adapter merge both.gguf runs/law/adapter runs/tax/adapter --shares 0.7 --shares 0.3 --store q8_0
      arriero adapter merge both runs/law/adapter runs/tax/adapter --to adapter --rank 16
    """
    import dataclasses

    from arriero.model.adapter_export import export_peft
    from arriero.model.adapters import Adapters
    from arriero.model.export import export_model
    from arriero.model.formats.peft import load_peft
    from arriero.model.quantised import quantise_model
    from arriero.model.source import base_of, load_model, tokenizer_of

    shares = _shares(config)
    if config.to == "adapter" and config.target.suffix == ".gguf":
        raise ArrieroError("--to adapter writes a folder: `arriero adapter export` makes a .gguf file of that")
    bases = [base_of(folder, config.model) for folder in config.adapters]
    check_target(config.target, str(config.adapters[0]), force=config.force)
    base = bases[0]  # each adapter is held against its weights
    loaded = load_model(base, device="cpu", dtype="float32")
    words = tokenizer_of(config.adapters[0]) or loaded.loaded_tokenizer  # with the chat template that it learnt
    loaded = dataclasses.replace(loaded, loaded_tokenizer=words)
    kind = _storage(config)
    if kind != "none" and config.to == "model":
        note(f"merging into the base in {kind}, as training saw it; --full-precision takes the weights before that")
        quantise_model(loaded.model, kind)
    adapters = Adapters.of(loaded.model)
    names = [f"part{number}" for number in range(len(config.adapters))]
    for part, folder in zip(names, config.adapters, strict=True):
        load_peft(loaded.model, folder, part, base=loaded.name)
    name = names[0]
    if len(names) > 1 or shares != (1.0,) or config.rank is not None:
        name = "combined"
        adapters.combine(name, dict(zip(names, shares, strict=True)), config.rank)
    if config.to == "adapter":
        export_peft(loaded, name, config.target, base, quantised=kind)
    else:
        adapters.absorb(name)
        for part in list(adapters.configs):
            adapters.remove(part)
        export_model(loaded, config.target, config.store)
    if config.json:
        print_json({"target": str(config.target), "base": base, "shares": list(shares), "to": config.to})
    else:
        print(printable(f"{config.target}: {config.to} of {base} and {', '.join(map(str, config.adapters))}"))
    return 0


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to write, and where."""

    adapter: Path = positional("ADAPTER")  # noqa: RUF009
    """A folder with an adapter in PEFT's format."""
    target: Path = positional("TARGET")  # noqa: RUF009
    """A file that ends in .gguf, for llama.cpp's --lora; or a folder, for PEFT and vLLM."""
    model: str | None = None
    """The base; default: the one that the adapter names."""
    force: bool = False
    """Replace what is at TARGET."""
    json: bool = False
    """Print JSON for scripts."""


def export(config: ExportConfig) -> int:
    """Write an adapter alone, for llama.cpp (a .gguf file) or for PEFT and vLLM (a folder), and read it back.

    Examples:
      arriero adapter export runs/law/adapter law-adapter.gguf
    """
    from arriero.model.adapter_export import export_gguf, export_peft, open_adapter
    from arriero.model.formats.peft import read_quantised

    check_target(config.target, str(config.adapter), force=config.force)
    loaded, base = open_adapter(config.adapter, config.model)
    if config.target.suffix == ".gguf":
        export_gguf(loaded, "adapter", config.target)
    else:
        export_peft(loaded, "adapter", config.target, base, quantised=read_quantised(config.adapter))
    if config.json:
        print_json({"adapter": str(config.adapter), "target": str(config.target)})
    else:
        print(printable(f"{config.target}: the adapter of {base}, read back and compared"))
    return 0


@dataclass(frozen=True, kw_only=True)
class ListConfig:
    """Where to look."""

    folders: tuple[Path, ...] = positional("FOLDER", default=(Path("runs"),))
    """Folders that hold adapters, at any depth."""
    json: bool = False
    """Print JSON for scripts."""


def list_adapters(config: ListConfig) -> int:
    """List the adapters below folders: base, rank, modules and size."""
    rows = [_facts(file.parent) for folder in config.folders for file in sorted(folder.rglob("adapter_config.json"))]
    if config.json:
        print_json(rows)
        return 0
    if not rows:
        note(f"no adapter below {', '.join(map(str, config.folders))}: `arriero sft` makes one")
        return 0
    table = Table(box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(printable("-" if value is None else str(value)) for value in row.values()))
    console().print(table)
    return 0


def _shares(config: MergeConfig) -> tuple[float, ...]:
    count = len(config.adapters)
    if not count:
        raise ArrieroError("no adapter given: expected `arriero adapter merge TARGET ADAPTER…`")
    if config.shares and len(config.shares) != count:
        raise ArrieroError(f"--shares: expected one for each of {count} adapters, got {len(config.shares)}")
    return config.shares or (1 / count,) * count


def _storage(config: MergeConfig) -> "Quantisation":
    """To what the base was quantised while the adapters were trained."""
    from arriero.model.formats.peft import read_quantised

    kinds = {read_quantised(folder) for folder in config.adapters}
    if config.full_precision:
        return "none"
    if len(kinds) > 1:
        raise ArrieroError(
            f"the adapters were trained over bases stored differently ({', '.join(sorted(kinds))}): give "
            "--full-precision to merge them into the weights before quantisation"
        )
    return kinds.pop()


def _facts(folder: Path) -> dict[str, Any]:
    from arriero.model.formats.hf_config import read_json
    from arriero.model.formats.peft_config import read_config

    file, weights = folder / "adapter_config.json", folder / WEIGHTS
    settings = read_json(file)
    config = read_config(file, settings)
    return {
        "adapter": str(folder),
        "base": settings.get("base_model_name_or_path"),
        "rank": config.rank,
        "alpha": int(config.alpha) if config.alpha.is_integer() else config.alpha,
        "kind": ", ".join(name for name, on in (("rslora", config.rslora), ("dora", config.dora)) if on) or "lora",
        "modules": " ".join(config.targets),
        "bytes": weights.stat().st_size if weights.is_file() else None,
    }
