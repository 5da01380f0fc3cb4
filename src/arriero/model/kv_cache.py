"""Keys and values of the tokens seen so far, preallocated, with rows of different lengths.

A step has three parts, of which the model is the only caller: `place` gives the step's tokens their places, `attend`
stores one layer's keys and values there and attends to them, `finish` counts the tokens. Rows are right-padded: a row's
tokens lie at 0, 1, 2, … and the padding of a ragged step, behind its last real token, is overwritten by its next step.

L layers, B batch, T new tokens, S cached tokens, H heads, K KV heads, D head dim.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from arriero.common.errors import ArrieroError
from arriero.kernels.attention import attention
from arriero.kernels.documents import Documents
from arriero.model.config import LlamaConfig


class Cache(Protocol):
    """What the model asks of a cache, of whatever kind."""

    def place(
        self, tokens: Tensor, documents: Documents | None, prompt_lengths: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        """Positions of a step's tokens, (B, T), and each row's length with them, (B,)."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store new `k` and `v` (B, T, K, D), and attend from `q` (B, T, H, D) to all that the rows have."""

    def finish(self, new_lengths: Sequence[int] | None = None) -> None:
        """All layers have attended."""


class KVCache:
    """Room for `max_len` tokens in each of `batch` rows. Lengths live on the host, so that no step waits for a GPU."""

    def __init__(
        self,
        config: LlamaConfig,
        batch: int,
        max_len: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        # Heads before tokens: a decoding step reads each head's keys as one contiguous matrix.
        shape = (config.n_layers, batch, config.n_kv_heads, max_len, config.head_dim)
        # Zeros and not garbage: a masked key has weight 0, but 0 · NaN would be NaN.
        self.k = torch.zeros(shape, dtype=dtype, device=device)  # (L, B, K, max_len, D)
        self.v = torch.zeros(shape, dtype=dtype, device=device)  # (L, B, K, max_len, D)
        self._lengths = [0] * batch
        self._new_tokens = 0
        self._rows = self._positions = torch.empty(0, device=device)  # (B, 1) and (B, T) of the step under way
        self._key_lengths: Tensor | None = None

    @property
    def batch(self) -> int:
        """Rows."""
        return self.k.shape[1]

    @property
    def max_len(self) -> int:
        """Tokens that a row has room for."""
        return self.k.shape[3]

    @property
    def lengths(self) -> Tensor:
        """Tokens in each row: (B,) long."""
        return torch.tensor(self._lengths, device=self.k.device)

    def place(
        self, tokens: Tensor, documents: Documents | None, prompt_lengths: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        """Positions of the tokens (B, T) behind each row's end, (B, T), and each row's length with its real ones, (B,).

        Raises:
            ArrieroError: a row has no room, or tokens or prompt_lengths do not fit the cache, or there are documents.
        """
        rows, new_tokens = tokens.shape
        if documents is not None:
            raise ArrieroError("documents: expected None together with a cache: packed rows are for training")
        if rows != self.batch:
            raise ArrieroError(f"tokens: expected {self.batch} rows, as the cache has, got {rows}")
        real = [new_tokens] * rows if prompt_lengths is None else list(prompt_lengths)
        if len(real) != rows or not all(0 <= length <= new_tokens for length in real):
            raise ArrieroError(f"prompt_lengths: expected {rows} numbers from 0 to {new_tokens}, got {real}")
        lengths = self.lengths + torch.tensor(real, device=tokens.device)  # (B,)
        return self.begin(new_tokens), lengths

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store a layer's new `k` and `v` (B, T, K, D), and attend from `q` (B, T, H, D) to all that the rows have."""
        k, v, key_lengths = self.update(layer, k, v)  # (B, S, K, D)
        return attention(q, k, v, key_lengths=key_lengths)  # (B, T, H, D)

    def begin(self, new_tokens: int) -> Tensor:
        """Place `new_tokens` behind each row's end; returns their positions (B, T).

        Raises:
            ArrieroError: a row has no room for them.
        """
        longest = max(self._lengths, default=0) + new_tokens
        if longest > self.max_len:
            raise ArrieroError(f"cache: {new_tokens} more tokens make {longest}, more than its room for {self.max_len}")
        self._new_tokens = new_tokens
        lengths = self.lengths
        self._rows = torch.arange(self.batch, device=lengths.device)[:, None]  # (B, 1)
        self._positions = lengths[:, None] + torch.arange(new_tokens, device=lengths.device)  # (B, T)
        self._key_lengths = None if self._aligned else lengths + new_tokens  # (B,)
        return self._positions

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Store a layer's new `k` and `v` (B, T, K, D); returns all of its keys and values, (B, S, K, D).

        The third result is the number of keys of each row, (B,), or None when every row has S of them.
        """
        keys, values = self.k[layer], self.v[layer]  # (B, K, max_len, D)
        end = max(self._lengths) + self._new_tokens
        if self._key_lengths is None:
            keys[:, :, end - self._new_tokens : end] = k.transpose(1, 2)
            values[:, :, end - self._new_tokens : end] = v.transpose(1, 2)
        else:
            keys[self._rows, :, self._positions] = k
            values[self._rows, :, self._positions] = v
        return keys[:, :, :end].transpose(1, 2), values[:, :, :end].transpose(1, 2), self._key_lengths

    def finish(self, new_lengths: Sequence[int] | None = None) -> None:
        """Count the step's tokens: all of them, or the first `new_lengths[b]` of row b where the rest was padding."""
        new_lengths = [self._new_tokens] * self.batch if new_lengths is None else new_lengths
        self._lengths = [length + new for length, new in zip(self._lengths, new_lengths, strict=True)]

    def select(self, rows: Tensor | Sequence[int], *, max_len: int | None = None) -> "KVCache":
        """A new cache with these rows, in this order, repeats allowed: beams that live on, n samples of one prompt.

        Raises:
            ArrieroError: `max_len` is too short for a row.
        """
        index = torch.as_tensor(rows, device=self.k.device)  # (B',)
        lengths = [self._lengths[row] for row in index.tolist()]
        longest, room = max(lengths, default=0), self.max_len if max_len is None else max_len
        if room < longest:
            raise ArrieroError(f"max_len: expected at least {longest}, got {room}")
        chosen = KVCache.__new__(KVCache)
        shape = (self.k.shape[0], len(lengths), self.k.shape[2], room, self.k.shape[4])
        chosen.k, chosen.v = self.k.new_zeros(shape), self.v.new_zeros(shape)
        chosen.k[:, :, :, :longest] = self.k[:, index, :, :longest]
        chosen.v[:, :, :, :longest] = self.v[:, index, :, :longest]
        chosen._lengths, chosen._new_tokens = lengths, 0
        chosen._rows, chosen._positions, chosen._key_lengths = self._rows, self._positions, None
        return chosen

    def reorder(self, rows: Sequence[int], start: int) -> None:
        """Take each row's tokens from `start` on from another of the rows, which before `start` holds the same."""
        longest = max(self._lengths)
        for stored in (self.k, self.v):
            tail = stored[:, :, :, start:longest]  # (L, B, K, longest − start, D)
            tail.copy_(tail[:, list(rows)])
        self._lengths = [self._lengths[row] for row in rows]

    def adopt(self, source: "KVCache", row: int, rows: Sequence[int]) -> None:
        """Make each of these `rows` a copy of `source`'s `row`: a prompt read once, continued by several samples."""
        length = source._lengths[row]
        self.k[:, rows, :, :length] = source.k[:, row : row + 1, :, :length]
        self.v[:, rows, :, :length] = source.v[:, row : row + 1, :, :length]
        for target in rows:
            self._lengths[target] = length

    def truncate(self, lengths: Sequence[int]) -> None:
        """Forget each row's tokens from `lengths[b]` on; a row already shorter stays as it is."""
        self._lengths = [min(old, new) for old, new in zip(self._lengths, lengths, strict=True)]

    @property
    def _aligned(self) -> bool:
        return len(set(self._lengths)) <= 1
