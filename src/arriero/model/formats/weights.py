"""What all formats of weights share: filling a model tensor by tensor, and the two orders of the rows of Q and K.

A loader yields its tensors one at a time, so that at the peak one tensor exists twice, and not the model.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from arriero.common.errors import ArrieroError, FormatError
from arriero.model.coded import CodedLinear
from arriero.model.config import LlamaConfig
from arriero.model.guests import Guests
from arriero.model.heads import ScalarHead
from arriero.model.packed import PackedLinear, Weights, bits_of, check_packable, is_packable, pack_model
from arriero.model.transformer import Llama

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True)
class Weight:
    """One tensor of a file."""

    name: str
    """The file's name for it."""
    tensor: Tensor
    """Its values, in our layout."""
    file: Path
    """Where it was read."""


def check_no_live_adapter(model: Llama) -> None:
    """Whether the model's own weights are all of it, so that a file of them is the same model.

    Raises:
        ArrieroError: an adapter is on that is not merged, or a matrix is packed or quantised.
    """
    for module in model.modules():
        if isinstance(module, CodedLinear):
            raise ArrieroError(
                "the model's matrices are packed or quantised, and files of models hold them in full: load it with "
                "weights 'full', and write that"
            )
        guests = getattr(module, "adapters", None)
        if isinstance(guests, Guests) and guests.on is not None and not guests.switch.merged:
            raise ArrieroError(
                f"adapter '{guests.switch.active}' is on and not merged: merge it or switch it off before the model is "
                "written"
            )


def build_model(
    config: LlamaConfig,
    weights: Iterable[Weight],
    names: Mapping[str, str],
    *,
    source: Path,
    dtype: torch.dtype,
    device: torch.device | str,
    heads: Sequence[str] = (),
    packed: Weights = "full",
) -> Llama:
    """A model with these weights, each copied to `dtype` and `device`, or packed, as it comes.

    Args:
        names: the format's name of each parameter of ours.
        source: the file or folder that should hold them all, for the message about a missing one.
        heads: the scalar heads that are among them.
        packed: how the matrices are held.

    Raises:
        FormatError: a tensor is missing, unexpected, repeated, not of floating point, or of a wrong shape.
        ArrieroError: the shape does not allow packed weights.
    """
    model = blank_model(config)
    check_packable(model, packed)
    with torch.device("meta"):
        model.heads.update({head: ScalarHead(config.dim) for head in heads})
    ours = {theirs: name for name, theirs in names.items()}
    waiting = {name: parameter.shape for name, parameter in model.named_parameters()}  # a tied output is not among them
    for weight in weights:
        name = ours.get(weight.name, "")
        if name not in waiting:
            raise FormatError(f"{weight.file}: unexpected or repeated tensor '{weight.name}'")
        shape, found = tuple(waiting.pop(name)), tuple(weight.tensor.shape)
        if found != shape:
            raise FormatError(f"{weight.file}: tensor '{weight.name}' has shape {found}, expected {shape}")
        if weight.tensor.dtype not in _DTYPES:
            raise FormatError(
                f"{weight.file}: tensor '{weight.name}' is {weight.tensor.dtype}, expected floating point"
            )
        module, _, leaf = name.rpartition(".")
        if packed != "full" and is_packable(module, model.get_submodule(module)):
            matrix = PackedLinear.from_weight(weight.tensor.to(device=device), bits_of(module, packed))
            model.set_submodule(module, matrix)
            continue
        values = weight.tensor.to(device=device, dtype=dtype, copy=True)  # a copy: the file may change or go away
        setattr(model.get_submodule(module), leaf, nn.Parameter(values))
    if waiting:
        missing = names[next(iter(waiting))]
        raise FormatError(f"{source}: tensor '{missing}' is missing ({len(waiting)} of {len(names)} are)")
    model.tie_weights()
    return pack_model(model, packed)  # what is left: an output that was the embedding's matrix


def blank_model(config: LlamaConfig) -> Llama:
    """A model on the meta device: shapes without values."""
    with _Unfilled(), torch.device("meta"):
        return Llama(config)


class _Unfilled(TorchFunctionMode):
    """Skips random initial values: on the meta device they are nothing, but PyTorch imports for 1.5 s to make them."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        skipped = function in (nn.init.normal_, nn.init.kaiming_uniform_)
        return None if skipped else function(*args, **(kwargs or {}))


def halves_from_pairs(weight: Tensor, heads: int) -> Tensor:
    """Reorder rows of a Q or K projection (heads · D, C) from Meta's and GGUF's rotary pairs (2i, 2i + 1) to ours."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def pairs_from_halves(weight: Tensor, heads: int) -> Tensor:
    """Reorder rows of a Q or K projection (heads · D, C) from our rotary pairs (i, i + D/2) to Meta's and GGUF's."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def name_parameters(
    config: LlamaConfig, *, outer: Mapping[str, str], layer: Mapping[str, str], prefix: str
) -> dict[str, str]:
    """A format's name of each of our parameters, in the order in which they are written; a tied output is none.

    Args:
        config: how many layers, and whether the output is tied.
        outer: our names outside the layers → theirs.
        layer: our modules in a layer → theirs.
        prefix: what stands before a layer's modules, with `{}` for its number.
    """
    names = {"tok_embeddings.weight": outer["tok_embeddings.weight"]}
    for number in range(config.n_layers):
        for ours, theirs in layer.items():
            names[f"layers.{number}.{ours}.weight"] = f"{prefix.format(number)}{theirs}.weight"
    names |= outer
    if config.tied_embeddings:
        del names["output.weight"]
    return names
