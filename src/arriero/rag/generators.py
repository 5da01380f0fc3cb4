"""The generator of a source: a LLaMA, or an encoder-decoder where a folder's config says so."""

import json
from pathlib import Path

from arriero.common.device import DTypeName
from arriero.common.errors import ArrieroError
from arriero.model.packed import Weights
from arriero.rag.generator import Generator
from arriero.rag.llama_generator import LlamaGenerator
from arriero.rag.seq2seq_generator import Seq2SeqGenerator


def load_generator(
    source: str,
    *,
    adapter: Path | None = None,
    device: str = "auto",
    dtype: DTypeName = "auto",
    weights: Weights = "full",
) -> Generator:
    """Load a generator.

    Args:
        source: what `load_model` takes, or a folder with an encoder-decoder of `transformers`.
        adapter: a LoRA adapter for a LLaMA, to be merged.
        device: where it runs.
        dtype: of a LLaMA's weights.
        weights: how a LLaMA's matrices are held.

    Raises:
        NotFoundError, FormatError, ArrieroError: it is not here, is damaged, or takes no adapter or packed weights.
    """
    if not is_encoder_decoder(Path(source)):
        return LlamaGenerator.load(source, adapter=adapter, device=device, dtype=dtype, weights=weights)
    if adapter is not None:
        raise ArrieroError(f"{source} is an encoder-decoder: an adapter is for a LLaMA")
    if weights != "full":
        raise ArrieroError(f"{source} is an encoder-decoder: {weights} weights are for a LLaMA")
    return Seq2SeqGenerator.load(source, device=device)


def is_encoder_decoder(folder: Path) -> bool:
    """Whether a folder's config.json says so."""
    path = folder / "config.json"
    if not path.is_file():
        return False
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False  # whoever reads it as a LLaMA says what is wrong
    return isinstance(config, dict) and bool(config.get("is_encoder_decoder"))
