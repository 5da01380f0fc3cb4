"""A source's stream: each token once an epoch, targets within the document, any position regained."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arriero.common.errors import ArrieroError
from arriero.kernels.cross_entropy import IGNORED
from arriero.train import packing
from arriero.train.packing import SourceStream, StreamPosition
from arriero.train.shards import ShardReader
from tests.train.shard_folders import write_shards

lengths_of_documents = st.lists(st.integers(1, 12), min_size=1, max_size=20)


def numbered(folder: str | Path, lengths: list[int], shard_documents: int = 3) -> ShardReader:
    """Shards in which every token is another number, neighbours in a document differing by one."""
    ends = np.cumsum(lengths).tolist()
    documents = [list(range(end - length, end)) for end, length in zip(ends, lengths, strict=True)]
    return write_shards(Path(folder), documents, vocab_size=70_000, shard_documents=shard_documents)


def take(stream: SourceStream, size: int, **options: Any) -> tuple[list[int], list[int], list[packing.Piece]]:
    row, targets = np.empty(size, np.int64), np.empty(size, np.int64)
    pieces = stream.fill(row, targets, **options)
    return row.tolist(), targets.tolist(), pieces


@settings(max_examples=60, deadline=None)
@given(lengths=lengths_of_documents, size=st.integers(1, 15), ahead=st.integers(1, 5))
def test_each_token_comes_once_an_epoch_and_its_target_is_the_next_of_its_document(
    lengths: list[int], size: int, ahead: int
) -> None:
    total, last = sum(lengths), {end - 1 for end in np.cumsum(lengths).tolist()}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "AHEAD", ahead)
        stream = SourceStream(numbered(folder, lengths), "key")
        tokens: list[int] = []
        while len(tokens) < 3 * total:
            row, targets, pieces = take(stream, size)
            assert targets == [IGNORED if token in last else token + 1 for token in row]
            assert [piece.start for piece in pieces] == [0, *(piece.end for piece in pieces[:-1])]
            assert pieces[-1].end == size
            assert all(
                row[p.start : p.end] == list(range(row[p.start], row[p.start] + p.end - p.start)) for p in pieces
            )
            assert all(row[p.end - 1] in last for p in pieces[:-1])
            tokens += row
    for epoch in range(3):
        assert sorted(tokens[epoch * total : (epoch + 1) * total]) == list(range(total))


@settings(max_examples=40, deadline=None)
@given(lengths=lengths_of_documents, size=st.integers(1, 15))
def test_across_documents_every_target_is_the_next_token_of_the_stream(lengths: list[int], size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stream = SourceStream(numbered(folder, lengths), "key")
        rows = [take(stream, size, across=True) for _ in range(2 * sum(lengths) // size + 2)]
    tokens = [token for row, _, _ in rows for token in row]
    targets = [target for _, row, _ in rows for target in row]
    assert targets[:-1] == tokens[1:]


@settings(max_examples=60, deadline=None)
@given(lengths=lengths_of_documents, steps=st.lists(st.integers(1, 40), max_size=6), ahead=st.integers(1, 5))
def test_skipping_is_taking_and_a_position_is_regained(lengths: list[int], steps: list[int], ahead: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "AHEAD", ahead)
        reader = numbered(folder, lengths)
        taking, skipping = SourceStream(reader, "key"), SourceStream(reader, "key")
        for step in steps:
            take(taking, step)
            skipping.skip(step)
            assert skipping.position == taking.position
        again = SourceStream(reader, "key", position=skipping.position)
        assert take(taking, 30) == take(skipping, 30) == take(again, 30)


def test_each_epoch_and_each_key_has_an_order_of_its_own(tmp_path: Path) -> None:
    reader = numbered(tmp_path, [2] * 50)
    stream = SourceStream(reader, "key")
    first, second = take(stream, 100)[0], take(stream, 100)[0]
    assert sorted(first) == sorted(second)
    assert first != second
    assert take(SourceStream(reader, "other"), 100)[0] != first
    assert take(SourceStream(reader, "key", shuffle=False), 100)[0] == list(range(100))


def test_a_position_outside_the_source_is_refused(tmp_path: Path) -> None:
    reader = numbered(tmp_path, [2, 2])
    for place in ((0, 2, 0), (0, 0, 2), (0, -1, 0)):
        with pytest.raises(ArrieroError, match="is outside"):
            SourceStream(reader, "key", position=StreamPosition(*place))


def test_a_source_without_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArrieroError, match="is empty: it has no documents"):
        SourceStream(write_shards(tmp_path, []), "key")
