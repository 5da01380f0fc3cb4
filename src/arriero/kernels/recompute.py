"""Compute a tensor again in the backward pass instead of keeping it (LLaMA, arXiv 2302.13971, section 2.4).

LLaMA keeps the activations that are costly to compute, the outputs of linear layers, and computes the others again.
Those are the inputs of linear layers: a norm's output, SwiGLU's product. A linear layer keeps its input for the
gradient of its weight; inside `recomputed` it keeps a recipe.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Recipe:
    """How to make a tensor again. Made once for all who kept it, and let go when the last of them has it."""

    def __init__(self, make: Callable[[], Tensor]) -> None:
        self.make = make
        self.keepers = 0
        self.made: Tensor | None = None

    def serve(self) -> Tensor:
        """The tensor, for one of its keepers."""
        if self.made is None:
            with torch.no_grad():
                self.made = self.make()
        made = self.made
        self.keepers -= 1
        if self.keepers <= 0:
            self.made = None
        return made


@contextmanager
def recomputed(tensor: Tensor, make: Callable[[], Tensor]) -> Iterator[None]:
    """Operations run inside keep no `tensor` for their backward pass, but `make`, which must give the same again.

    A view of all of `tensor` counts as it; whatever else they keep is kept.
    """
    recipe = Recipe(make)
    place, size = tensor.data_ptr(), tensor.numel()  # autograd holds on to `pack`, which must not hold the tensor

    def pack(kept: Tensor) -> Tensor | tuple[Recipe, torch.Size]:
        if kept.data_ptr() != place or kept.numel() != size or not kept.is_contiguous():
            return kept
        recipe.keepers += 1
        return recipe, kept.shape

    def unpack(packed: Tensor | tuple[Recipe, torch.Size]) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        kept, shape = packed
        return kept.serve().view(shape)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield
