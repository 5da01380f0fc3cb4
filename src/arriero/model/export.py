"""Models written for other tools, and read back before they get their name: what is claimed to be written is.

Compared are the logits of some tokens and the ids of a rendered chat. The bounds are what a storage type may cost; a
wrong order of Q's and K's rows, a lost head or another tokenizer costs a hundred times more.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from arriero.common.errors import ArrieroError
from arriero.common.files import atomic_folder
from arriero.model.formats.hf_config import read_json
from arriero.model.heads import SCORE, read_head
from arriero.model.source import LoadedModel, load_model
from arriero.model.staging import staged
from arriero.model.transformer import Llama
from arriero.tokenizer.chat import Message
from arriero.tokenizer.tokenizer import Tokenizer

Storage = Literal["f32", "f16", "bf16", "q8_0"]
BOUNDS: dict[str, float] = {"f32": 1e-5, "f16": 1e-2, "bf16": 5e-2, "q8_0": 1e-1}
"""Largest ‖logits read back − logits‖ / ‖logits‖, about their mean, by storage."""
_PROBE_TOKENS = 64
_CHAT: list[Message] = [
    {"role": "user", "content": "How far is it to Cusco?  ½ día 🦙\n\n"},
    {"role": "assistant", "content": "Three days by llama."},
    {"role": "user", "content": "And by mule?"},
]


def export_model(loaded: LoadedModel, target: Path, storage: Storage = "f16") -> None:
    """Write a model with its tokenizer: a `.gguf` file for llama.cpp, or a folder in Hugging Face's format.

    Args:
        loaded: its weights in fp32, without an adapter that is not merged.
        target: is replaced, when what was written proved right.

    Raises:
        ArrieroError: the storage does not suit the format, the model cannot be expressed in it, or what was written
            reads back as another model; then nothing is at `target` that was not there before.
    """
    as_gguf = target.suffix == ".gguf"
    if storage not in get_args(Storage) or storage == ("bf16" if as_gguf else "q8_0"):
        allowed = "f32, f16 or q8_0 for a .gguf file" if as_gguf else "f32, f16 or bf16 for a folder"
        raise ArrieroError(f"--store: expected {allowed}, got {storage}")
    if loaded.model.adapters is not None and loaded.model.adapters.configs:  # type: ignore[attr-defined]
        raise ArrieroError("the model has an adapter that is not merged: merge it first")
    with staged(target) as written:
        if as_gguf:
            if len(loaded.model.heads):
                raise ArrieroError("a reward model's head has no place in GGUF: export it to a folder")
            from arriero.model.formats.gguf_export import save_gguf

            assert storage != "bf16"
            save_gguf(loaded.model, loaded.tokenizer, written, kind=storage, name=loaded.name)
        else:
            dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[storage]
            with atomic_folder(written) as folder:
                save_with_tokenizer(
                    loaded.model, loaded.tokenizer, folder, dtype=dtype, sampling=_sampling(loaded.path)
                )
        compare_models(loaded, load_model(str(written), device="cpu", dtype="float32"), BOUNDS[storage], target)


def _sampling(path: Path | None) -> dict[str, Any]:
    """How the model wants to be sampled: all that its `generation_config.json` says, but for ids of tokens."""
    file = None if path is None else path / "generation_config.json"
    if file is None or not file.is_file():
        return {}
    return {name: value for name, value in read_json(file).items() if not name.endswith("_token_id")}


def save_with_tokenizer(
    model: Llama, words: Tokenizer, folder: Path, *, dtype: torch.dtype, sampling: Mapping[str, Any] | None = None
) -> None:
    """Write a model and its tokenizer into a Hugging Face folder.

    `generation_config.json` names every token that ends an answer, beside `sampling`: an engine that reads it stops
    where ours does. Whoever pads dialogues reads a reward model at the last token that is no padding: it must not be
    the one that ends the response.
    """
    from arriero.model.formats.hf import save_hf

    pad_id = None
    if SCORE in model.heads:
        words = words.with_filler()
        pad_id = words.pad_id
    ends = sorted(words.stop_ids, key=lambda end: (end != words.eos_id, end))
    generation = {**(sampling or {}), **({"eos_token_id": ends} if len(ends) > 1 else {})}
    bos_id, eos_id = words.bos_id, words.eos_id
    save_hf(model, folder, dtype=dtype, bos_id=bos_id, eos_id=eos_id, pad_id=pad_id, generation=generation)
    words.save(folder)


def compare_models(before: LoadedModel, after: LoadedModel, bound: float, target: Path) -> float:
    """How far the logits of two models are from each other, relative to their spread.

    Raises:
        ArrieroError: further than the bound, or their tokenizers differ on a chat.
    """
    compare_tokenizers(before.tokenizer, after.tokenizer, target)
    distance = logit_distance(before.model, after.model)
    if not distance <= bound:
        raise ArrieroError(
            f"{target}: not written: read back, its logits differ from the model's by {distance:.2g} of their spread, "
            f"and its storage explains {bound:g}"
        )
    return distance


def compare_tokenizers(before: Tokenizer, after: Tokenizer, target: Path) -> None:
    """Raises ArrieroError where two tokenizers differ on a chat."""
    if (ids := _chat_ids(before)) != (others := _chat_ids(after)):
        shorter = min(len(ids), len(others))
        place = next((i for i in range(shorter) if ids[i] != others[i]), shorter)
        raise ArrieroError(
            f"{target}: not written: read back, it renders a chat as other tokens than the model does, from token "
            f"{place} on: {others[place : place + 3]} instead of {ids[place : place + 3]}"
        )


@torch.no_grad()
def logit_distance(before: Llama, after: Llama) -> float:
    """‖after − before‖ / ‖before‖ of the logits of some tokens, each about its mean; of a reward model, its scores."""
    length = min(_PROBE_TOKENS, before.config.max_seq_len)
    vocabulary = min(before.config.vocab_size, after.config.vocab_size)
    tokens = torch.randint(vocabulary, (1, length), generator=torch.Generator().manual_seed(0))  # (1, T)
    expected, got = (outputs(model, tokens)[..., :vocabulary].double() for model in (before, after))
    expected, got = (logits - logits.mean(-1, keepdim=True) for logits in (expected, got))
    return float((got - expected).norm() / expected.norm().clamp(min=1e-30))


def outputs(model: Llama, tokens: Tensor) -> Tensor:
    """What a model makes of tokens (1, T): logits (1, T, V), or as a reward model scores (1, T)."""
    if SCORE in model.heads:
        return read_head(model, SCORE, model.hidden(tokens))
    logits: Tensor = model(tokens)
    return logits


def _chat_ids(tokenizer: Tokenizer) -> list[int]:
    """A rendered chat; plain text where the model has no template, or one that refuses this chat."""
    try:
        return tokenizer.encode_chat(_CHAT)
    except ArrieroError:
        return tokenizer.encode("\n".join(message["content"] for message in _CHAT))
