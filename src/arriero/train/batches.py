"""Micro-batches of packed rows, endless for training and finite for validation, shared out among ranks.

There is one sequence of rows, whatever the number of ranks: micro-batch j of R rows a rank on W ranks is the rows from
j·W·R on, and rank r has R of them from r·R on. So a global batch holds the same rows however it is divided, every rank
has the same state, and a run goes on with another number of ranks where it stopped.

B rows, T tokens a row.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from arriero.common.errors import ArrieroError, FormatError
from arriero.kernels.cross_entropy import IGNORED
from arriero.kernels.documents import Documents
from arriero.train.batch import Batch
from arriero.train.mixture import Dealer, PlanRow, check_weights, plan_mixture
from arriero.train.packing import Piece, SourceStream, StreamPosition
from arriero.train.shards import ShardReader


@dataclass(frozen=True, kw_only=True)
class RowLayout:
    """How rows are shared out."""

    rows: int
    """Rows of a micro-batch on one rank."""
    tokens: int
    """Tokens of a row."""
    rank: int = 0
    """This process, among those that see different rows; those that share a row's work have the same rank."""
    world: int = 1
    """How many see different rows."""
    across_documents: bool = False
    """Attend and predict across the documents of a row, as the LLaMA papers did."""

    def __post_init__(self) -> None:
        if self.rows < 1 or self.tokens < 1:
            raise ArrieroError(f"expected at least 1 row of 1 token, got {self.rows} rows of {self.tokens}")
        if not 0 <= self.rank < self.world:
            raise ArrieroError(f"expected a rank from 0 to {self.world - 1}, got {self.rank}")


class PackedBatches:
    """An endless iterator of a mixture's micro-batches, whose position is a small, JSON-ready state."""

    def __init__(
        self,
        sources: Mapping[str, ShardReader],
        weights: Mapping[str, float],
        layout: RowLayout,
        *,
        seed: int = 0,
        normalise: bool = False,
    ) -> None:
        """Begin at the first row.

        Args:
            sources: the shards by name; a token's source is numbered in this order.
            weights: the share of each source's tokens in the whole.
            layout: how rows are shared out.
            seed: of the documents' order; a source's order depends on it, the source's name and the epoch alone.
            normalise: divide the weights by their sum.

        Raises:
            ArrieroError: a source is empty, or the weights do not fit the sources or do not sum to 1.
        """
        self._weights = check_weights(weights, normalise=normalise)
        self._available = {name: reader.tokens for name, reader in sources.items()}
        self.plan(0)  # raises where sources and weights do not match
        self._layout, self._seed = layout, seed
        self._readers = dict(sources)
        self._streams = [SourceStream(reader, f"{seed}/{name}") for name, reader in sources.items()]
        self._dealer = Dealer([self._weights[name] for name in sources])
        self._drawn = [0] * len(sources)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        """This rank's next micro-batch.

        Raises:
            FormatError: a shard is corrupt.
        """
        layout = self._layout
        packer = _Packer(layout, [reader.manifest.vocab_size for reader in self._readers.values()])
        for number in range(layout.rows * layout.world):
            source = self._dealer.deal()
            stream = self._streams[source]
            if number // layout.rows == layout.rank:
                packer.add(stream, source, layout.tokens)
            else:
                stream.skip(layout.tokens)
            self._drawn[source] += layout.tokens
        return packer.batch()

    @property
    def source_tokens(self) -> dict[str, int]:
        """Tokens drawn so far of each source, by all ranks together."""
        return dict(zip(self._readers, self._drawn, strict=True))

    def plan(self, total_tokens: int) -> list[PlanRow]:
        """The table of a run of so many tokens, in the order of the weights."""
        return plan_mixture(self._weights, self._available, total_tokens)

    def state_dict(self) -> dict[str, Any]:
        """The position, the same on every rank, between two micro-batches."""
        streams = {}
        for number, (name, reader) in enumerate(self._readers.items()):
            streams[name] = {
                "fingerprint": reader.fingerprint,
                "position": list(self._streams[number].position),
                "credit": self._dealer.credits[number],
                "tokens": self._drawn[number],
            }
        return {"seed": self._seed, "sources": streams}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on at a saved position; rows, ranks, row length and weights may be others than when it was saved.

        Raises:
            ArrieroError: it is of other sources, of other shards, or of another seed; the message says which.
        """
        saved = state["sources"]
        if list(saved) != list(self._readers):
            raise ArrieroError(f"resume: expected the sources {', '.join(saved)}, got {', '.join(self._readers)}")
        if state["seed"] != self._seed:
            raise ArrieroError(f"resume: expected the data seed {state['seed']}, got {self._seed}")
        changed = [name for name, reader in self._readers.items() if reader.fingerprint != saved[name]["fingerprint"]]
        if changed:
            raise ArrieroError(f"resume: the shards of {', '.join(changed)} are not those that the run began with")
        self._streams = [
            SourceStream(reader, f"{self._seed}/{name}", position=StreamPosition(*saved[name]["position"]))
            for name, reader in self._readers.items()
        ]
        self._dealer.credits = [float(saved[name]["credit"]) for name in self._readers]
        self._drawn = [int(saved[name]["tokens"]) for name in self._readers]


class ValidationBatches:
    """One pass through a source in the shards' order, the same number of micro-batches on every rank.

    The rows after the last document are filled up with tokens that have no loss.
    """

    def __init__(self, reader: ShardReader, layout: RowLayout, *, source: int = 0, max_rows: int | None = None) -> None:
        """Prepare a pass.

        Args:
            reader: the source.
            layout: how rows are shared out.
            source: the number that tokens of this source get.
            max_rows: only so many of the first rows, of all ranks together.
        """
        self._reader, self._layout, self._source = reader, layout, source
        rows = -(-reader.tokens // layout.tokens)
        self._rows = rows if max_rows is None else min(rows, max_rows)
        self.tokens = min(reader.tokens, self._rows * layout.tokens)
        """Of the pass, by all ranks together."""
        self.bytes = reader.manifest.bytes * self.tokens // reader.tokens
        """UTF-8 bytes of the text of the pass; in proportion to its tokens where `max_rows` ends it early."""

    def __len__(self) -> int:
        return -(-self._rows // (self._layout.rows * self._layout.world))

    def __iter__(self) -> Iterator[Batch]:
        layout, left = self._layout, self.tokens
        stream = SourceStream(self._reader, "", shuffle=False)
        for _ in range(len(self)):
            packer = _Packer(layout, [self._reader.manifest.vocab_size] * (self._source + 1))
            for number in range(layout.rows * layout.world):
                count = min(layout.tokens, left)
                left -= count
                if number // layout.rows == layout.rank:
                    packer.add(stream, self._source, count)
                elif count:
                    stream.skip(count)
            yield packer.batch()


class _Packer:
    """One micro-batch in the making."""

    def __init__(self, layout: RowLayout, vocab_sizes: Sequence[int]) -> None:
        shape = (layout.rows, layout.tokens)
        self._layout, self._vocab_sizes = layout, vocab_sizes
        self._tokens: NDArray[np.int64] = np.zeros(shape, np.int64)
        self._targets: NDArray[np.int64] = np.full(shape, IGNORED, np.int64)
        self._sources: list[int] = []
        self._bounds = [0]

    def add(self, stream: SourceStream, source: int, count: int) -> None:
        """Fill the next row with `count` tokens of a stream; what is left of it has no loss."""
        number, size = len(self._sources), self._layout.tokens
        across, pieces = self._layout.across_documents, list[Piece]()
        row, targets = self._tokens[number, :count], self._targets[number, :count]
        if count:
            pieces = stream.fill(row, targets, across=across)
            if (largest := int(row.max())) >= self._vocab_sizes[source]:
                raise FormatError(
                    f"a shard of {stream.folder} is corrupt: it holds the id {largest}, and its vocabulary ends "
                    f"at {self._vocab_sizes[source] - 1}"
                )
        self._sources.append(source)
        self._bounds += [number * size + piece.end for piece in pieces]
        if count < size:
            self._bounds.append((number + 1) * size)

    def batch(self) -> Batch:
        """The batch, all rows filled."""
        rows, tokens = self._tokens.shape
        sources = torch.tensor(self._sources).unsqueeze(1).repeat(1, tokens)  # (B, T)
        documents = None
        if not self._layout.across_documents:
            documents = Documents.from_cu_seqlens(torch.tensor(self._bounds), rows, tokens)
        return Batch(
            tokens=torch.from_numpy(self._tokens),
            targets=torch.from_numpy(self._targets),
            documents=documents,
            sources=sources,
        )
