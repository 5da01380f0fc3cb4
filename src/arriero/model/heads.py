"""Scalar heads: one number for each hidden state, a reward or a value (Llama 2, arXiv 2307.09288, section 3.2.2).

A reward model is a chat model whose next-token head gives way to a row of weights; PPO's critic is another. A head is
a part of the model that it reads, as adapters are: checkpoints, shards and formats know it by its name, and several
heads with several adapters share one base.

B batch, T tokens, C model dim.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn

from arriero.common.errors import ArrieroError
from arriero.model.transformer import Llama

SCORE = "score"
"""The head of a reward model: Hugging Face's name for it."""
VALUE = "value"
"""The head of PPO's critic."""


class ScalarHead(nn.Module):
    """h ↦ w · h, in fp32, whatever the model computes in: differences of rewards are small beside rewards."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dim))

    def forward(self, hidden: Tensor) -> Tensor:
        """Scalars (…,) of hidden states (…, C)."""
        return hidden.float() @ self.weight[0].float()


def add_head(model: Llama, name: str, *, seed: int = 0) -> ScalarHead:
    """A new head, in training, its weights normal with σ 1/√(C + 1) (Stiennon et al., arXiv 2009.01325, appendix B).

    Raises:
        ArrieroError: the model has a head of this name.
    """
    if name in model.heads:
        raise ArrieroError(f"the model has a head '{name}' already")
    head = ScalarHead(model.config.dim)
    generator = torch.Generator().manual_seed(seed)
    head.weight.data.normal_(0.0, 1 / math.sqrt(model.config.dim + 1), generator=generator)
    model.heads[name] = head.to(model.tok_embeddings.weight.device)
    return head


def head_of(model: Llama, name: str) -> ScalarHead:
    """One of a model's heads.

    Raises:
        ArrieroError: there is none of this name.
    """
    if name not in model.heads:
        raise ArrieroError(f"the model has no head '{name}': it gives no scores; expected a reward model")
    return cast(ScalarHead, model.heads[name])


def copy_heads(model: Llama, copy: Llama) -> None:
    """Give a copy heads of the model's names, without values yet."""
    for name in model.heads:
        copy.heads[name] = ScalarHead(model.config.dim)


def read_head(model: Llama, name: str, hidden: Tensor) -> Tensor:
    """Scalars (…,) in fp32 of the model's normalised hidden states (…, C)."""
    scalars: Tensor = head_of(model, name)(hidden)
    return scalars
