"""A sketch of a model's weights, by which an adapter knows its base again.

A few hundred weights from fixed places. The same base stored in fewer bits has nearly the same sketch; another base of
the same shape has one that points elsewhere.
"""

import json
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from arriero.common.errors import ArrieroError
from arriero.model.transformer import Llama

_PLACES = 64
"""Weights of each matrix."""
_LEAST_COSINE = 0.9
"""Four bits a weight keep 0.99; what is unrelated has about 0."""


def sketch(model: Llama) -> list[float]:
    """Weights of the embedding and of matrices of the first and the last layer; each matrix's part has length 1."""
    parts: list[float] = []
    last = len(model.layers) - 1
    for name in ("tok_embeddings", "layers.0.attention.wq", "layers.0.feed_forward.w1", f"layers.{last}.attention.wo"):
        weight = cast(Tensor, model.get_submodule(name).weight)
        places = torch.linspace(0, weight.numel() - 1, _PLACES, dtype=torch.float64).long()
        values = weight.detach().flatten()[places.to(weight.device)].double().cpu()
        values = values / values.norm().clamp(min=1e-30)
        parts += [float(f"{value:.4g}") for value in values.tolist()]
    return parts


def compare_sketch(model: Llama, saved: str, made_for: str) -> None:
    """Whether a sketch, as JSON, is of this model.

    Args:
        made_for: begins the error: which model the adapter was made for, and which one this is.

    Raises:
        ArrieroError: it is not.
    """
    own = sketch(model)
    try:
        other = [float(value) for value in json.loads(saved)]
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ArrieroError(f"{made_for}: the sketch of its base is damaged") from error
    if len(other) != len(own) or not _cosine(own, other) >= _LEAST_COSINE:
        raise ArrieroError(f"{made_for}: their weights differ; give the adapter its own base")


def _cosine(x: Sequence[float], y: Sequence[float]) -> float:
    norms = math.hypot(*x) * math.hypot(*y)
    return sum(a * b for a, b in zip(x, y, strict=True)) / norms if norms else 0.0
