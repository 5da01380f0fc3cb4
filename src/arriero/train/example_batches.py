"""Micro-batches of examples, laid end to end without padding; endless for training, one pass for evaluation.

A micro-batch is one long row in which each example attends to itself only and counts its positions from 0: what it
computes is what each example alone would, and no token is padding. There is one sequence of units (an example, or
examples packed into a row), whatever the number of ranks, and each epoch ends with a step of its own.

N tokens of a micro-batch.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch

from arriero.common.errors import ArrieroError
from arriero.kernels.cross_entropy import IGNORED
from arriero.kernels.documents import Documents
from arriero.train.batch import Batch
from arriero.train.held_out import own_portions
from arriero.train.permutation import Permutation
from arriero.train.supervised import Supervised

B = TypeVar("B")
"""A micro-batch."""


class UnitBatches(ABC, Generic[B]):
    """An endless iterator of micro-batches of units, each epoch in an order of its own."""

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
            rows: units of a micro-batch, on each rank, on average: a step's longest ones are shared out among them.
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
        self._epoch = self._done = 0  # micro-batches of the epoch, on each rank
        digest = hashlib.blake2b(digest_size=12)
        for example in examples:
            digest.update(example.ids.tobytes() + b"/" + example.learnt.tobytes())
        digest.update(repr(list(units)).encode())
        self._fingerprint = digest.hexdigest()

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the optimizer in which every unit is seen once."""
        return -(-len(self._units) // self._batch)

    @property
    def _batch(self) -> int:
        """Units of a step, on all ranks together."""
        return self._rows * self._accumulation * self._world

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> B:
        """This rank's next micro-batch; at an epoch's end it may hold fewer examples, or none."""
        step, number = divmod(self._done, self._accumulation)
        own, count = self._rows * self._accumulation, len(self._units)
        first = (step * self._world + self._rank) * own
        places = np.arange(min(first, count), min(first + own, count))
        order = Permutation(count, f"{self._seed}/{self._epoch}").at(places)
        chosen = self._deal([self._units[unit] for unit in order.tolist()])[number]
        self._done += 1
        if self._done == self.steps_per_epoch * self._accumulation:
            self._epoch, self._done = self._epoch + 1, 0
        return self._lay_out(chosen)

    @property
    def largest(self) -> B:
        """The micro-batch of a step with the longest units: the most that one can take."""
        own = self._rows * self._accumulation
        longest = sorted(self._units, key=self._tokens, reverse=True)[:own]
        most = max(self._deal(longest), key=self._tokens)
        return self._lay_out(most)

    @abstractmethod
    def _lay_out(self, chosen: Sequence[int]) -> B:
        """A micro-batch of the examples of these numbers, unit after unit."""

    def _deal(self, units: Sequence[tuple[int, ...]]) -> list[list[int]]:
        """A step's units shared out among its micro-batches, so that all have about as many tokens."""
        hands: list[list[int]] = [[] for _ in range(self._accumulation)]
        for unit in sorted(units, key=self._tokens, reverse=True):
            min(hands, key=self._tokens).extend(unit)
        return hands

    def _tokens(self, examples: Sequence[int]) -> int:
        return sum(len(self._examples[i]) for i in examples)

    def state_dict(self) -> dict[str, Any]:
        """The position, the same on every rank."""
        step, micro_batch = divmod(self._done, self._accumulation)
        return {
            "fingerprint": self._fingerprint,
            "seed": self._seed,
            "batch": self._batch,
            "epoch": self._epoch,
            "step": step,
            "micro_batch": micro_batch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on at a saved position; between two steps, on any number of ranks and with any rows of a micro-batch.

        Raises:
            ArrieroError: it is one of other examples, of another seed or of steps with another number of units.
        """
        own = {"fingerprint": self._fingerprint, "seed": self._seed, "batch": self._batch}
        named = {"fingerprint": "the examples", "seed": "the seed", "batch": "the number of examples a step"}
        if differing := [named[name] for name, value in own.items() if state[name] != value]:
            raise ArrieroError(f"resume: {differing[0]} changed since the run began; choose another folder")
        self._epoch, self._done = state["epoch"], state["step"] * self._accumulation + state["micro_batch"]


class ExampleBatches(UnitBatches[Batch]):
    """Micro-batches to learn the answers of."""

    def _lay_out(self, chosen: Sequence[int]) -> Batch:
        return lay_out([self._examples[i] for i in chosen], self._multiple)


class EvaluationBatches:
    """One pass over the held-out examples, the same number of micro-batches on every rank."""

    bytes = 0
    """Of text: not counted, as answers alone have a loss."""

    def __init__(
        self, examples: Sequence[Supervised], *, rows: int, rank: int = 0, world: int = 1, multiple: int = 1
    ) -> None:
        self._examples = sorted(examples, key=len)
        self._rows, self._rank, self._world, self._multiple = rows, rank, world, multiple

    def __iter__(self) -> Iterator[Batch]:
        for own in own_portions(len(self._examples), rows=self._rows, rank=self._rank, world=self._world):
            yield lay_out([self._examples[i] for i in own], self._multiple)


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
