"""Adapters written for other tools, and read back before they get their name."""

from pathlib import Path

import torch

from arriero.common.errors import ArrieroError
from arriero.common.files import atomic_folder
from arriero.model.adapters import Adapters
from arriero.model.export import compare_tokenizers, logit_distance
from arriero.model.formats.gguf_adapter import read_adapter_gguf, save_adapter_gguf
from arriero.model.formats.peft import load_peft, save_peft
from arriero.model.heads import SCORE
from arriero.model.lora import LowRank
from arriero.model.source import LoadedModel, base_of, load_model, put_on
from arriero.model.staging import staged
from arriero.tokenizer.load import load_tokenizer

_BOUND = 1e-5


def open_adapter(folder: Path, model: str | None = None) -> tuple[LoadedModel, str]:
    """The base in fp32, with the folder's adapter on by the name `adapter`; and the base's source."""
    base = base_of(folder, model)
    return put_on(load_model(base, device="cpu", dtype="float32"), folder, as_trained=False), base


@torch.no_grad()
def export_peft(
    loaded: LoadedModel, name: str, target: Path, base: str, *, quantised: str = "none", told: str | None = None
) -> None:
    """Write one of a model's adapters as PEFT's folder, with the tokenizer.

    Args:
        base: the model source that the adapter is for.
        quantised: to what the base was quantised while the adapter was trained.
        told: what the folder calls the base; by default its source.

    Raises:
        ArrieroError: read back, it makes another model, or renders a chat as other tokens.
    """
    adapters = Adapters.of(loaded.model)
    adapters.activate(name)
    with staged(target) as written, atomic_folder(written) as folder:
        head = SCORE if SCORE in loaded.model.heads else None
        save_peft(loaded.model, name, folder, base=told or base, quantised=quantised, head=head)
        loaded.tokenizer.save(folder)
        again = load_model(base, device="cpu", dtype="float32")
        load_peft(again.model, folder, name, base=again.name)
        Adapters.of(again.model).activate(name)
        if not (distance := logit_distance(loaded.model, again.model)) <= _BOUND:
            raise ArrieroError(f"{target}: not written: read back, it differs by {distance:.2g} of its outputs' spread")
        compare_tokenizers(loaded.tokenizer, load_tokenizer(folder), target)


def export_gguf(loaded: LoadedModel, name: str, target: Path) -> None:
    """Write one of a model's adapters as a GGUF file for llama.cpp's `--lora`.

    Raises:
        ArrieroError: it is more than plain LoRA, or reads back as another one.
    """
    changes = Adapters.of(loaded.model).changes(name)
    pairs = {}
    for module, change in changes.items():
        if not isinstance(change, LowRank) or change.magnitude is not None:
            raise ArrieroError(
                f"GGUF adapters are plain LoRA, and {module} has DoRA or is a whole matrix: merge the adapter into its "
                "base with `arriero adapter merge`"
            )
        a, b = (factor.detach() for factor in change.factors())
        pairs[module] = (a, change.scale * len(a) * b)  # llama.cpp scales by α over the rank; α is 1
    with staged(target) as written:
        save_adapter_gguf(pairs, written, alpha=1.0, config=loaded.model.config, name=target.stem)
        again, alpha = read_adapter_gguf(written, loaded.model.config)
        same = alpha == 1.0 and again.keys() == pairs.keys()
        if not same or any(not torch.equal(x, y) for m in pairs for x, y in zip(pairs[m], again[m], strict=True)):
            raise ArrieroError(f"{target}: not written: it reads back as another adapter")
