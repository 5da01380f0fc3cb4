"""Micro-batches of pairs: both responses of a pair lie in one row, end to end with others and without padding.

The order, the sharing out among micro-batches and ranks, and the place to resume from are those of fine-tuning; a unit
is a pair, of the two dialogues 2i and 2i + 1.

N tokens of a micro-batch, P pairs in it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arriero.align.reward_config import Margins
from arriero.align.reward_data import TokenPair
from arriero.align.reward_loss import margin_of
from arriero.kernels.documents import Documents
from arriero.train.example_batches import UnitBatches, lay_out
from arriero.train.held_out import own_portions
from arriero.train.supervised import Supervised


@dataclass(frozen=True, kw_only=True, eq=False)
class PairBatch:
    """Pairs, and how far their scores are to be apart."""

    tokens: Tensor
    """(1, N) int64."""
    documents: Documents
    ends: Tensor
    """(2P,) the place of each dialogue's last token: chosen and rejected by turns."""
    margins: Tensor
    """(P,) fp32."""
    safe: Tensor
    """(2P,) labels of the responses: 1 safe, 0 unsafe, or `UNKNOWN`."""

    def to(self, device: torch.device) -> "PairBatch":
        """The same batch on a device."""
        tokens, ends, margins, safe = (part.to(device) for part in (self.tokens, self.ends, self.margins, self.safe))
        return PairBatch(tokens=tokens, documents=self.documents.to(device), ends=ends, margins=margins, safe=safe)


class PairBatches(UnitBatches[PairBatch]):
    """An endless iterator of micro-batches of pairs."""

    def __init__(
        self,
        pairs: Sequence[TokenPair],
        margins: Margins,
        *,
        rows: int,
        accumulation: int = 1,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
    ) -> None:
        """Begin at the first pair.

        Args:
            margins: which table.
            rows: pairs of a micro-batch, on each rank.
            accumulation: micro-batches of a step, on each rank.
            rank: this process, among those that see different pairs.
            world: their number.
            seed: of the order.
        """
        self._pairs, self._margins = pairs, margins
        dialogues = [_dialogue(ids) for pair in pairs for ids in (pair.chosen, pair.rejected)]
        units = [(2 * i, 2 * i + 1) for i in range(len(pairs))]
        super().__init__(dialogues, units, rows=rows, accumulation=accumulation, rank=rank, world=world, seed=seed)
        told = repr([(pair.degree, pair.safe) for pair in pairs])
        self._fingerprint = hashlib.blake2b((self._fingerprint + told).encode(), digest_size=12).hexdigest()

    def _lay_out(self, chosen: Sequence[int]) -> PairBatch:
        return lay_out_pairs([self._pairs[i // 2] for i in chosen[::2]], self._margins)


def evaluation_batches(
    pairs: Sequence[TokenPair], margins: Margins, *, rows: int, rank: int = 0, world: int = 1
) -> Iterator[PairBatch]:
    """One pass over pairs, those of like length together, the same number of micro-batches on every rank."""
    ordered = sorted(pairs, key=len)
    for own in own_portions(len(ordered), rows=rows, rank=rank, world=world):
        yield lay_out_pairs([ordered[i] for i in own], margins)


def lay_out_pairs(pairs: Sequence[TokenPair], margins: Margins) -> PairBatch:
    """Pairs end to end as one row; without any, one token that is none's."""
    dialogues = [_dialogue(ids) for pair in pairs for ids in (pair.chosen, pair.rejected)]
    row = lay_out(dialogues)
    assert row.documents is not None
    return PairBatch(
        tokens=row.tokens,
        documents=row.documents,
        ends=torch.tensor([len(dialogue) for dialogue in dialogues], dtype=torch.int64).cumsum(0) - 1,  # (2P,)
        margins=torch.tensor([margin_of(pair.degree, margins) for pair in pairs], dtype=torch.float32),  # (P,)
        safe=torch.tensor([label for pair in pairs for label in pair.safe], dtype=torch.int64),  # (2P,)
    )


def _dialogue(ids: NDArray[np.int32]) -> Supervised:
    """Tokens without a loss of their own."""
    return Supervised(ids, np.zeros(len(ids), np.bool_))
