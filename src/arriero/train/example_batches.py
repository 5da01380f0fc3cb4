"""Micro-batches of examples, laid end to end without padding; endless for training, one pass for evaluation.

A micro-batch is one long row in which each example attends to itself only and counts its positions from 0: what it
computes is what each example alone would, and no token is padding. There is one sequence of units (an example, or
examples packed into a row), whatever the number of ranks, and each epoch ends with a step of its own.

N tokens of a micro-batch.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch

from arriero.common.errors import ArrieroError
from arriero.kernels.cross_entropy import IGNORED
from arriero.kernels.documents import Documents
from arriero.train.batch import Batch
from arriero.train.permutation import Permutation
from arriero.train.supervised import Supervised


class ExampleBatches:
    """An endless iterator of micro-batches, each epoch in an order of its own."""

    def __init__(
        self,
        examples: Sequence[Supervised],
        units: Sequence[tuple[int, ...]],
        *,
        rows: int,
        accumulation: int = 1,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
        multiple: int = 1,
    ) -> None:
        """Begin at the first unit.

        Args:
            examples: as tokens.
            units: numbers of the examples in each unit.
            rows: units of a micro-batch, on each rank.
            accumulation: micro-batches of a step, on each rank; an epoch's last step may have less in them.
            rank: this process, among those that see different examples.
            world: their number.
            seed: of the order.
            multiple: the tokens of a micro-batch are filled up to a multiple of this.
        """
        if not units:
            raise ArrieroError("no example is left to train on: see what became of them above")
        self._examples, self._units = examples, units
        self._rows, self._accumulation, self._rank, self._world = rows, accumulation, rank, world
        self._seed, self._multiple = seed, multiple
        self._epoch = self._done = 0  # units of the epoch, by all ranks together
        digest = hashlib.blake2b(digest_size=12)
        for example in examples:
            digest.update(example.ids.tobytes() + b"/" + example.learnt.tobytes())
        self._fingerprint = digest.hexdigest()

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the optimizer in which every unit is seen once."""
        return -(-len(self._units) // (self._rows * self._accumulation * self._world))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        """This rank's next micro-batch; at an epoch's end it may hold fewer examples, or none."""
        each, count = self._rows * self._world, len(self._units)
        first = self._done + self._rank * self._rows
        places = np.arange(min(first, count), min(first + self._rows, count))
        order = Permutation(count, f"{self._seed}/{self._epoch}").at(places)
        self._done += each
        if self._done >= self.steps_per_epoch * self._accumulation * each:
            self._epoch, self._done = self._epoch + 1, 0
        chosen = [self._examples[example] for unit in order.tolist() for example in self._units[unit]]
        return lay_out(chosen, self._multiple)

    @property
    def largest(self) -> Batch:
        """The micro-batch of the longest units: the most that one can take."""
        units = sorted(self._units, key=lambda unit: -sum(len(self._examples[i]) for i in unit))[: self._rows]
        return lay_out([self._examples[i] for unit in units for i in unit], self._multiple)

    def state_dict(self) -> dict[str, Any]:
        """The position, the same on every rank, between two micro-batches."""
        return {"fingerprint": self._fingerprint, "seed": self._seed, "epoch": self._epoch, "done": self._done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on at a saved position.

        Raises:
            ArrieroError: it is one of other examples or of another seed.
        """
        for name, own in (("fingerprint", self._fingerprint), ("seed", self._seed)):
            if state[name] != own:
                what = "the examples" if name == "fingerprint" else "the seed"
                raise ArrieroError(f"resume: {what} are not those that the run began with; choose another folder")
        self._epoch, self._done = int(state["epoch"]), int(state["done"])


class EvaluationBatches:
    """One pass over the held-out examples, the same number of micro-batches on every rank."""

    def __init__(
        self, examples: Sequence[Supervised], *, rows: int, rank: int = 0, world: int = 1, multiple: int = 1
    ) -> None:
        self._examples = sorted(examples, key=len)
        self._rows, self._rank, self._world, self._multiple = rows, rank, world, multiple

    def __iter__(self) -> Iterator[Batch]:
        each = self._rows * self._world
        for first in range(0, len(self._examples), each):
            start = first + self._rank * self._rows
            yield lay_out(self._examples[start : start + self._rows], self._multiple)


def lay_out(examples: Sequence[Supervised], multiple: int = 1) -> Batch:
    """Examples end to end as one row (1, N), filled up with a stretch without a loss; all of it, if there are none."""
    lengths = [len(example) for example in examples]
    fill = -sum(lengths) % multiple or (0 if examples else multiple)
    tokens = torch.zeros(1, sum(lengths) + fill, dtype=torch.int64)  # (1, N)
    targets = torch.full_like(tokens, IGNORED)  # (1, N)
    start = 0
    for example, length in zip(examples, lengths, strict=True):
        ids = torch.from_numpy(example.ids.astype(np.int64))  # (T,)
        learnt = torch.from_numpy(example.learnt[1:])  # (T − 1,)
        tokens[0, start : start + length] = ids
        targets[0, start : start + length - 1] = torch.where(learnt, ids[1:], IGNORED)
        start += length
    bounds = torch.tensor([0, *lengths, *([fill] if fill else [])]).cumsum(0)
    documents = Documents.from_cu_seqlens(bounds, 1, tokens.shape[1])
    return Batch(tokens=tokens, targets=targets, documents=documents, sources=torch.zeros_like(tokens))
