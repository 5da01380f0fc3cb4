"""Which tiles of the scores an attention computes, and what is hidden within them: the loops of `tiled.py`.

A tile is some queries of the heads that share a KV head, times some keys. Tiles that nobody sees are not visited
(causal, window, documents, key lengths, block mask); only those at the edge of what is seen have anything hidden.

B batch, T query tokens, S key tokens, H heads, K KV heads, G heads of a tile, D head dim; of a tile: t queries, s keys,
and R = G · t rows, one head after the other.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from arriero.kernels.block_mask import BlockMask
from arriero.kernels.dropout import dropout_keep
from arriero.kernels.options import Options

Keys = slice | Tensor
"""Places of a tile's keys: neighbours, or whichever a block mask shows. An index either way, for reading and adding."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sequence:
    """One row of the batch, or one document packed in it. Places in it count from its start."""

    number: int
    row: int
    first: int
    queries: int
    keys: int
    heads: int
    kv_heads: int
    options: Options
    block_queries: int
    block_keys: int
    dtype: torch.dtype
    device: torch.device
    transposed: bool
    """Whether tiles are laid out as (s, R), not (R, s)."""
    masks: dict[tuple[int, int, int], Tensor] = field(default_factory=dict)
    """Those of tiles at an edge, by how they lie to it: most such tiles lie alike."""

    def load_keys(self, x: Tensor, kv_head: int) -> Tensor:
        """The sequence's part of `x` (B, S, K, D), as (keys, D) in memory of its own."""
        return x[self.row, self.first : self.first + self.keys, kv_head].to(self.dtype).contiguous()

    def store_keys(self, x: Tensor, kv_head: int, values: Tensor) -> None:
        """Write `values` (keys, D) where `load_keys` would read."""
        x[self.row, self.first : self.first + self.keys, kv_head] = values

    def query_tiles(self, kv_head: int) -> Iterator["QueryTile"]:
        """All queries of the heads that share this KV head; one head at a time where a block mask differs by head."""
        group, mask = self.heads // self.kv_heads, self.options.block_mask
        together = 1 if mask is not None and len(mask.rows.starts) > 1 else group
        size = self.block_queries if mask is None else mask.size
        for head in range(kv_head * group, (kv_head + 1) * group, together):
            for start in range(0, self.queries, size):
                yield QueryTile(self, slice(head, head + together), start, min(start + size, self.queries))

    def blocks_seen(self, head: int, row: int) -> list[int]:
        """The key blocks that this row of the block mask shows."""
        assert self.options.block_mask is not None
        lists = self.options.block_mask.rows
        line = lists.starts[head if len(lists.starts) > 1 else 0]
        return lists.members[int(line[row]) : int(line[row + 1])].tolist()


@dataclass(frozen=True, eq=False)
class QueryTile:
    """The queries start ≤ t < stop of some heads."""

    sequence: Sequence
    heads: slice
    start: int
    stop: int

    @property
    def tokens(self) -> slice:
        """Where the queries lie in the row."""
        return slice(self.sequence.first + self.start, self.sequence.first + self.stop)

    def load(self, x: Tensor) -> Tensor:
        """The tile's part of `x` (B, T, H, …), as (R, …); not to be written to."""
        part = x[self.sequence.row, self.tokens, self.heads].transpose(0, 1)  # (G, t, …)
        return part.to(self.sequence.dtype).contiguous().flatten(0, 1)  # (R, …)

    def store(self, x: Tensor, values: Tensor) -> None:
        """Write `values` (R, …) where `load` would read."""
        by_head = values.view(-1, self.stop - self.start, *values.shape[1:])  # (G, t, …)
        x[self.sequence.row, self.tokens, self.heads] = by_head.transpose(0, 1)  # (t, G, …)

    def by_head(self, scores: Tensor) -> Tensor:
        """A tile's scores (R, s) as (G, t, s); transposed, (s, R) as (s, G, t)."""
        if self.sequence.transposed:
            return scores.view(len(scores), -1, self.stop - self.start)
        return scores.view(-1, self.stop - self.start, scores.shape[1])

    def key_tiles(self) -> Iterator[tuple[Keys, Tensor | None]]:
        """The tiles of keys that some query sees, and what to add to the scores: 0, or −∞ where a key is hidden.

        The addend broadcasts to what `by_head` gives; it is None where every query sees every key.
        """
        low, high = self._seen_by_any()
        if self.sequence.options.block_mask is not None:
            for keys in self._keys_of_blocks(self.sequence.options.block_mask, low, high):
                yield keys, self._hidden(keys, int(keys[0]), int(keys[-1]) + 1)
            return
        for start in range(low, high, self.sequence.block_keys):
            stop = min(start + self.sequence.block_keys, high)
            yield slice(start, stop), self._hidden(slice(start, stop), start, stop)

    def kept(self, keys: Keys) -> Tensor:
        """Which weights dropout keeps, bool, as `by_head` has them."""
        seq = self.sequence
        stream = seq.number * seq.heads + torch.arange(self.heads.start, self.heads.stop, device=seq.device)  # (G,)
        query, key = torch.arange(self.start, self.stop, device=seq.device), self._places(keys)
        if seq.transposed:
            stream, query, key = stream[:, None], query, key[:, None, None]
        else:
            stream, query = stream[:, None, None], query[:, None]
        return dropout_keep(seq.options.seed, seq.options.dropout, stream, query, key)

    def _seen_by_any(self) -> tuple[int, int]:
        """The keys low ≤ s < high that some query of the tile may see."""
        seq, options = self.sequence, self.sequence.options
        shift = seq.keys - seq.queries  # query t stands at t + shift among the keys
        low, high = 0, seq.keys
        if options.causal:
            high = min(high, self.stop + shift)
        if options.window is not None:
            low = max(low, self.start + shift - options.window + 1)
            high = min(high, self.stop - 1 + shift + options.window)
        return low, high

    def _seen_by_all(self, start: int, stop: int) -> bool:
        """Whether every query of the tile sees all keys from start to stop, as far as their places go."""
        seq, options = self.sequence, self.sequence.options
        shift = seq.keys - seq.queries
        if options.causal and stop - 1 > self.start + shift:
            return False
        if options.window is None:
            return True
        return self.stop - 1 + shift - start < options.window and stop - 1 - (self.start + shift) < options.window

    def _keys_of_blocks(self, mask: BlockMask, low: int, high: int) -> Iterator[Tensor]:
        """The keys between low and high that the block mask shows, as many blocks at a time as make a tile."""
        seq = self.sequence
        seen = [
            torch.arange(max(block * mask.size, low), min((block + 1) * mask.size, high), device=seq.device)
            for block in seq.blocks_seen(self.heads.start, self.start // mask.size)
            if block * mask.size < high and (block + 1) * mask.size > low
        ]
        at_once = max(1, seq.block_keys // mask.size)
        for i in range(0, len(seen), at_once):
            yield torch.cat(seen[i : i + at_once])

    def _hidden(self, keys: Keys, start: int, stop: int) -> Tensor | None:
        seq = self.sequence
        hidden = None if self._seen_by_all(start, stop) else self._hidden_by_place(keys)
        if seq.options.key_mask is None:
            return hidden
        shown = seq.options.key_mask[seq.row, seq.first : seq.first + seq.keys][keys]  # (s,)
        missing = torch.zeros(len(shown), dtype=seq.dtype, device=seq.device).masked_fill_(~shown, -torch.inf)
        if seq.transposed:
            missing = missing[:, None, None]
        return missing if hidden is None else missing + hidden

    def _hidden_by_place(self, keys: Keys) -> Tensor:
        """(t, s), or transposed (s, 1, t): −∞ where causal or window hide a key from a query."""
        seq, options = self.sequence, self.sequence.options
        position = self.start + seq.keys - seq.queries
        if isinstance(keys, slice):
            kind = keys.start - position, keys.stop - keys.start, self.stop - self.start
            if kind in seq.masks:
                return seq.masks[kind]
        query = torch.arange(self.stop - self.start, device=seq.device) + position  # (t,)
        key = self._places(keys)  # (s,)
        ahead = key[:, None, None] - query if seq.transposed else key - query[:, None]
        hidden = torch.zeros_like(ahead, dtype=torch.bool)
        if options.causal:
            hidden |= ahead > 0
        if options.window is not None:
            hidden |= ahead.abs() >= options.window
        addend = torch.zeros_like(ahead, dtype=seq.dtype).masked_fill_(hidden, -torch.inf)
        if isinstance(keys, slice):
            seq.masks[kind] = addend
        return addend

    def _places(self, keys: Keys) -> Tensor:
        if isinstance(keys, Tensor):
            return keys
        return torch.arange(keys.start, keys.stop, device=self.sequence.device)


def sequences(
    q: Tensor, k: Tensor, options: Options, blocks: tuple[int, int], transposed: bool = False
) -> Iterator[Sequence]:
    """All sequences of `q` (B, T, H, D) and `k` (B, S, K, D); `blocks` are the queries and the keys of a tile."""
    if options.documents is not None:
        spans = [(row, start, end - start, end - start) for row, start, end in options.documents.spans]
    else:
        lengths = [k.shape[1]] * len(q) if options.key_lengths is None else options.key_lengths.tolist()
        spans = [(row, 0, q.shape[1], max(0, min(length, k.shape[1]))) for row, length in enumerate(lengths)]
    for number, (row, first, queries, keys) in enumerate(spans):
        yield Sequence(
            number=number,
            row=row,
            first=first,
            queries=queries,
            keys=keys,
            heads=q.shape[2],
            kv_heads=k.shape[2],
            options=options,
            block_queries=blocks[0],
            block_keys=blocks[1],
            dtype=torch.promote_types(q.dtype, torch.float32),
            device=q.device,
            transposed=transposed,
        )
