"""`arriero model export`: a model for other tools."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from arriero.cli.options import positional
from arriero.cli.output import print_json, printable
from arriero.common.errors import ArrieroError

_MODEL_FILES = re.compile(
    r"(adapter_|generation_|tokenizer_|special_tokens_|preprocessor_)?(config|map)\.json|chat_template\.jinja|"
    r"tokenizer\.(json|model)|(adapter_)?model[\w-]*\.safetensors|model\.safetensors\.index\.json|README\.md"
)
"""What a folder of a model, or of an adapter, consists of: nothing else is lost by --force."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to write, and where."""

    model: str = positional("MODEL")
    """A known name, a folder, a .gguf file, a hub id, or a folder with an adapter, which is merged into its base."""
    target: Path = positional("TARGET")  # noqa: RUF009
    """A folder, or a file that ends in .gguf."""
    to: Literal["hf", "gguf", "peft"] | None = None
    """hf: a Hugging Face folder; gguf: a file for llama.cpp; peft: the adapter alone; default: by TARGET's name."""
    store: Literal["f32", "f16", "bf16", "q8_0"] = "f16"
    """How weights are stored: f32, f16, bf16 (folders only) or q8_0 (GGUF only)."""
    adapter: Path | None = None
    """A folder with an adapter in PEFT's format, to be merged into the model, or written with --to peft."""
    force: bool = False
    """Replace what is at TARGET."""
    json: bool = False
    """Print JSON for scripts."""


def export(config: ExportConfig) -> int:
    """Write a model as a Hugging Face folder, which transformers and vLLM read, or as a GGUF file, for llama.cpp.

    What was written is read back before it gets its name: its logits and a rendered chat must be the model's.

    Examples:
      arriero model export smollm2-135m-instruct smollm2
      arriero model export runs/law/adapter law.gguf --store q8_0
      arriero model export runs/law/adapter law-adapter --to peft
    """
    from arriero.model.export import export_model
    from arriero.model.source import load_merged

    check_target(config.target, config.model, force=config.force)
    suffix = "gguf" if config.target.suffix == ".gguf" else "hf"
    to = config.to or suffix
    if (to == "gguf") != (suffix == "gguf"):
        raise ArrieroError(f"--to {to}: expected TARGET to be {'a .gguf file' if to == 'gguf' else 'a folder'}")
    if to == "peft":
        from arriero.model.adapter_export import export_peft, open_adapter
        from arriero.model.formats.peft import read_quantised

        folder = config.adapter or Path(config.model)
        opened, base = open_adapter(folder, config.model if config.adapter else None)
        export_peft(opened, "adapter", config.target, base, quantised=read_quantised(folder))
        facts = {"model": config.model, "target": str(config.target), "to": to}
        told = f"{config.target}: the adapter in PEFT's format"
    else:
        loaded = load_merged(config.model, config.adapter, device="cpu", dtype="float32")
        export_model(loaded, config.target, config.store)
        facts = {"model": config.model, "target": str(config.target), "to": to, "stored_as": config.store}
        told = (
            f"{config.target}: {loaded.model.n_params:,} parameters, stored as {config.store}, read back and compared"
        )
    if config.json:
        print_json(facts)
    else:
        print(printable(told))
    return 0


def check_target(target: Path, source: str, *, force: bool) -> None:
    """The target is new, or may be replaced, and is not the model itself.

    Raises:
        ArrieroError: it is not; the message says what to do.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    path = Path(source)
    if path.exists() and path.resolve().is_relative_to(target.resolve()):
        raise ArrieroError(f"{target} holds the model that is converted: choose another target")
    if not force:
        raise ArrieroError(f"{target} exists already: give --force to replace it, or choose another target")
    if target.suffix == ".gguf":
        if not target.is_file():
            raise ArrieroError(f"{target} is no file: --force replaces a .gguf file by another, and nothing else")
        return
    if not target.is_dir():
        raise ArrieroError(f"{target} is no folder: --force replaces a model's folder by another, and nothing else")
    names = sorted(path.name for path in target.iterdir())
    other = next((name for name in names if not _MODEL_FILES.fullmatch(name)), None)
    if other or not {"config.json", "adapter_config.json"} & set(names):
        raise ArrieroError(
            f"{target} holds something else than a model{f', such as {other}' if other else ''}: --force does not "
            "replace it"
        )
