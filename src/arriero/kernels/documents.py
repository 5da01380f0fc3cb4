"""Documents packed one after the other into rows of tokens, each attending to itself only.

Training on packed rows wastes nothing on padding (LLaMA packs its training text so). Attention between documents is
prevented without an N×N mask: every implementation visits each document's own block of scores, and no other.

B rows, T tokens a row.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from arriero.common.errors import ArrieroError


@dataclass(frozen=True, kw_only=True, eq=False)
class Documents:
    """Where the documents of packed rows lie; compute it once a step, not once a layer."""

    spans: tuple[tuple[int, int, int], ...]
    """(row, start, end) of each document, in order, covering every token once."""
    shape: tuple[int, int]
    """B and T of the rows."""
    table: Tensor
    """(3, documents), int32, on the device of the rows: each document's row, first token, and number of tokens."""

    @classmethod
    def from_segments(cls, segments: Tensor) -> "Documents":
        """From `segments` (B, T), the number of the document that each token belongs to.

        Raises:
            ArrieroError: a document number comes back after another one in the same row.
        """
        if segments.dim() != 2:
            raise ArrieroError(f"segments: expected 2 dimensions (rows, tokens), got shape {tuple(segments.shape)}")
        spans: list[tuple[int, int, int]] = []
        for row, numbers in enumerate(segments.tolist()):
            starts = [i for i, number in enumerate(numbers) if i == 0 or number != numbers[i - 1]]
            if len({numbers[i] for i in starts}) != len(starts):
                raise ArrieroError(
                    f"segments: row {row} returns to a document after leaving it; "
                    "a document's tokens must be neighbours"
                )
            spans += [(row, start, end) for start, end in zip(starts, [*starts[1:], len(numbers)], strict=True)]
        return cls._from_spans(spans, tuple(segments.shape), segments.device)

    @classmethod
    def from_cu_seqlens(cls, cu_seqlens: Tensor, batch: int, tokens: int) -> "Documents":
        """From `cu_seqlens` (documents + 1,), where documents begin if the B rows are read one after the other.

        The first number is 0, the last B · T, as other implementations have it; a row ends with its last document.

        Raises:
            ArrieroError: the numbers are no integers, do not rise from 0 to B · T, or a document crosses a row's end.
        """
        if tokens == 0:
            raise ArrieroError("cu_seqlens: expected rows of 1 token or more, got rows of 0")
        if cu_seqlens.dim() != 1 or cu_seqlens.is_floating_point() or cu_seqlens.is_complex() or len(cu_seqlens) < 2:
            raise ArrieroError(
                "cu_seqlens: expected a row of at least 2 integers, "
                f"got shape {tuple(cu_seqlens.shape)} of {cu_seqlens.dtype}"
            )
        bounds = cu_seqlens.tolist()
        if bounds[0] != 0 or bounds[-1] != batch * tokens:
            raise ArrieroError(
                f"cu_seqlens: expected 0 first and batch · tokens = {batch * tokens} last, "
                f"got {bounds[0]} and {bounds[-1]}"
            )
        for i, (start, end) in enumerate(pairwise(bounds)):
            if end <= start:
                raise ArrieroError(f"cu_seqlens: expected rising numbers, got {end} after {start} at index {i + 1}")
        spans = []
        for start, end in pairwise(bounds):
            row, first = divmod(start, tokens)
            if first + end - start > tokens:
                raise ArrieroError(
                    f"cu_seqlens: expected a document to end within its row of {tokens} tokens, "
                    f"got the one from {start} to {end}; add {(row + 1) * tokens} as a boundary"
                )
            spans.append((row, first, first + end - start))
        return cls._from_spans(spans, (batch, tokens), cu_seqlens.device)

    def to(self, device: torch.device) -> "Documents":
        """The same documents for rows on a device."""
        return Documents(spans=self.spans, shape=self.shape, table=self.table.to(device))

    @property
    def max_length(self) -> int:
        """Tokens of the longest document."""
        return max((end - start for _, start, end in self.spans), default=0)

    @property
    def typical_length(self) -> float:
        """Tokens of the document that a token is in, on average: where most of the work is."""
        lengths = [end - start for _, start, end in self.spans]
        return sum(length * length for length in lengths) / max(sum(lengths), 1)

    def numbers(self) -> Tensor:
        """(B, T) number of each token's document, counted through all rows."""
        lengths = self.table[2].long()
        return torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths).view(self.shape)

    def positions(self) -> Tensor:
        """(B, T) place of each token in its document, from 0."""
        starts = self.table[1].long().repeat_interleave(self.table[2].long()).view(self.shape)
        return torch.arange(self.shape[1], device=starts.device) - starts  # (B, T)

    @classmethod
    def _from_spans(
        cls, spans: list[tuple[int, int, int]], shape: tuple[int, ...], device: torch.device
    ) -> "Documents":
        rows, starts = [row for row, _, _ in spans], [start for _, start, _ in spans]
        lengths = [end - start for _, start, end in spans]
        table = torch.tensor([rows, starts, lengths], dtype=torch.int32, device=device)
        return cls(spans=tuple(spans), shape=(shape[0], shape[1]), table=table)
