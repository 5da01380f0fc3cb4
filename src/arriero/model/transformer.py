"""LLaMA: a decoder-only transformer (LLaMA, arXiv 2302.13971, section 2.2; Llama 2, arXiv 2307.09288, section 2.2).

Modules carry Meta's names. The model knows no files, formats or devices: `formats/` fills it.

B batch, T tokens, C model dim, V vocabulary.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from arriero.kernels.cross_entropy import cross_entropy
from arriero.kernels.documents import Documents
from arriero.kernels.linear import Linear
from arriero.model.config import LlamaConfig
from arriero.model.kv_cache import Cache
from arriero.model.layers import Block, RMSNorm
from arriero.model.rope import rotation

_T = TypeVar("_T")


class Llama(nn.Module):
    """A LLaMA of the shape `config`. Its weights mean nothing until `init_weights` or a loader sets them."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = Linear(config.dim, config.vocab_size, bias=False)
        self.heads = nn.ModuleDict()
        """What `arriero.model.heads` keeps here."""
        self.adapters: object = None
        """What `arriero.model.adapters` keeps here."""
        self.tie_weights()

    def forward(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        cache: Cache | None = None,
        documents: Documents | None = None,
        prompt_lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of the token after each of `tokens` (B, T); the arguments of `hidden`."""
        hidden = self.hidden(
            tokens, positions=positions, cache=cache, documents=documents, prompt_lengths=prompt_lengths
        )  # (B, T, C)
        logits: Tensor = self.output(hidden)
        return logits

    def hidden(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        cache: Cache | None = None,
        documents: Documents | None = None,
        prompt_lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Normalised hidden states (B, T, C), from which `output` makes logits.

        Args:
            tokens: (B, T) token ids; shorter rows are padded on the right, with any id.
            positions: (B, T), by default behind what the cache holds, and from 0 within each document.
            cache: holds the tokens before these, and receives these. For pages the tokens are flat: (N, 1).
            documents: documents packed into the rows; a token sees its own only.
            prompt_lengths: (B,) real tokens of each row, for padded rows that go into a cache; by default all T.

        Raises:
            ArrieroError: the cache is too short, has another number of rows, or was given together with documents; or
                prompt_lengths do not fit the tokens.
        """
        if cache is None:
            lengths = None
            positions = _positions(tokens, documents) if positions is None else positions  # (B, T)
        else:
            placed, lengths = cache.place(tokens, documents, prompt_lengths)  # (B, T), (B,)
            positions = placed if positions is None else positions
        turn = rotation(self.config, positions, lengths)
        x = self.tok_embeddings(tokens)  # (B, T, C)
        for layer in self.layers:
            x = layer(x, turn, cache, documents)
        if cache is not None:
            cache.finish(prompt_lengths)
        normed: Tensor = self.norm(x)
        return normed

    def loss(
        self,
        tokens: Tensor,
        targets: Tensor,
        *,
        documents: Documents | None = None,
        token_weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Sum of the losses of `targets` (B, T), each the token after that of `tokens`, and each loss, (B, T).

        The logits are never whole in memory: these are the results of `arriero.kernels.cross_entropy.cross_entropy`.
        """
        hidden = self.hidden(tokens, documents=documents).flatten(0, 1)  # (B·T, C)
        weights = None if token_weights is None else token_weights.flatten()  # (B·T,)
        total, losses = cross_entropy(hidden, self.output_weight, targets.flatten(), weights)
        return total, losses.view(targets.shape)

    def compute(self, function: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
        """`function(self, …)` as one forward pass of the model: for losses that are not `loss`, under FSDP too."""
        return function(self, *args, **kwargs)

    @property
    def output_weight(self) -> Tensor:
        """The output layer's matrix (V, C), with what the active adapter does to it, differentiable."""
        guests = getattr(self.output, "adapters", None)
        weight: Tensor = self.output.weight if guests is None else guests.weight(self.output)
        return weight.to(self.norm.weight.dtype)  # a packed one is dequantised to fp32

    @property
    def n_params(self) -> int:
        """Number of parameters without those of adapters and heads; a tied embedding counts once."""
        guest = re.compile(r".*\.adapters\.|heads\.")
        return sum(parameter.numel() for name, parameter in self.named_parameters() if not guest.match(name))

    def tie_weights(self) -> None:
        """Make the output layer share the embedding's parameter, if the config says so; loaders call it at the end."""
        if self.config.tied_embeddings:
            self.output.weight = self.tok_embeddings.weight

    @torch.no_grad()
    def init_weights(self, seed: int) -> "Llama":
        """Random weights, the same for the same seed: normal with σ 0.02, and RMSNorm weights 1.

        The papers do not say. The projections into the residual stream have σ 0.02 / √(2 n_layers), as in GPT-2
        (section 2.3), so that the stream's variance does not grow with depth.
        """
        generator = torch.Generator(self.tok_embeddings.weight.device).manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                into_stream = name.endswith(("wo.weight", "w2.weight"))
                std = 0.02 / (2 * self.config.n_layers) ** 0.5 if into_stream else 0.02
                parameter.normal_(0.0, std, generator=generator)
        return self


def _positions(tokens: Tensor, documents: Documents | None) -> Tensor:
    if documents is not None:
        return documents.positions()  # (B, T)
    return torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)  # (B, T)
