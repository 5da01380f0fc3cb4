"""One sequence of rows for any number of ranks, from any saved position."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arriero.common.errors import ArrieroError, FormatError
from arriero.kernels.cross_entropy import IGNORED
from arriero.train.batch import Batch
from arriero.train.batches import PackedBatches, RowLayout, ValidationBatches
from arriero.train.shards import ShardReader
from tests.train.shard_folders import write_shards

WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ShardReader]:
    """Three sources whose tokens are all different, documents of 1 to 40 tokens."""
    folder, lengths, made, first = tmp_path_factory.mktemp("sources"), np.random.default_rng(0), {}, 0
    for name, documents in (("a", 30), ("b", 90), ("c", 11)):
        ends = (first + np.cumsum(lengths.integers(1, 40, documents))).tolist()
        ranges = [list(range(begin, end)) for begin, end in zip([first, *ends[:-1]], ends, strict=True)]
        made[name] = write_shards(folder / name, ranges, vocab_size=10_000, shard_documents=25)
        first = ends[-1]
    return made


def rows_of(batch: Batch) -> list[tuple[list[int], list[int], list[int], list[int] | None]]:
    positions = [None] * len(batch.tokens) if batch.documents is None else batch.documents.positions().tolist()
    return list(zip(batch.tokens.tolist(), batch.targets.tolist(), batch.sources.tolist(), positions, strict=True))


def test_a_batch_is_what_the_loop_wants(sources: dict[str, ShardReader]) -> None:
    batch = next(PackedBatches(sources, WEIGHTS, RowLayout(rows=4, tokens=50)))
    for part in (batch.tokens, batch.targets, batch.sources):
        assert part.shape == (4, 50)
        assert part.dtype == torch.int64
    assert batch.documents is not None
    assert batch.documents.shape == (4, 50)
    positions = batch.documents.positions()
    starts = positions == 0
    inside = ~starts[:, 1:]
    assert (batch.tokens[:, 1:][inside] == batch.tokens[:, :-1][inside] + 1).all()
    assert (batch.targets[:, :-1][inside] == batch.tokens[:, 1:][inside]).all()
    assert (batch.targets[:, :-1][~inside] == IGNORED).all()
    assert starts[:, 0].all()
    assert (batch.sources == batch.sources[:, :1]).all()
    moved = batch.to(torch.device("cpu"))
    assert moved.documents is not None
    assert moved.documents.spans == batch.documents.spans


def test_across_documents_rows_are_plain(sources: dict[str, ShardReader]) -> None:
    batch = next(PackedBatches(sources, WEIGHTS, RowLayout(rows=4, tokens=50, across_documents=True)))
    assert batch.documents is None
    assert (batch.targets[:, :-1] == batch.tokens[:, 1:]).all()
    assert (batch.targets != IGNORED).all()


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 3),
    world=st.integers(1, 4),
    accumulate=st.integers(1, 3),
    tokens=st.integers(1, 60),
    across=st.booleans(),
)
def test_ranks_share_out_what_one_process_sees(
    sources: dict[str, ShardReader], rows: int, world: int, accumulate: int, tokens: int, across: bool
) -> None:
    whole = PackedBatches(
        sources, WEIGHTS, RowLayout(rows=rows * world * accumulate, tokens=tokens, across_documents=across)
    )
    ranks = [
        PackedBatches(
            sources, WEIGHTS, RowLayout(rows=rows, tokens=tokens, rank=rank, world=world, across_documents=across)
        )
        for rank in range(world)
    ]
    for _ in range(4):
        shared = [row for _ in range(accumulate) for batches in ranks for row in rows_of(next(batches))]
        assert shared == rows_of(next(whole))
    assert all(batches.state_dict() == whole.state_dict() for batches in ranks)
    assert all(batches.source_tokens == whole.source_tokens for batches in ranks)


@settings(max_examples=12, deadline=None)
@given(before=st.integers(0, 30), worlds=st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4])))
def test_a_saved_position_is_regained_with_any_number_of_ranks(
    sources: dict[str, ShardReader], before: int, worlds: tuple[int, int]
) -> None:
    def make(world: int) -> PackedBatches:
        return PackedBatches(
            sources, WEIGHTS, RowLayout(rows=8 // world, tokens=33, rank=world - 1, world=world), seed=3
        )

    first, after = make(worlds[0]), make(worlds[1])
    for _ in range(before):
        next(first)
    saved = json.dumps(first.state_dict())
    assert len(saved) < 1000
    after.load_state_dict(json.loads(saved))
    share = 8 // max(worlds)
    for _ in range(20):
        assert rows_of(next(first))[-share:] == rows_of(next(after))[-share:]
    assert first.state_dict() == after.state_dict()


def test_shares_epochs_and_counts_are_as_planned(sources: dict[str, ShardReader]) -> None:
    batches = PackedBatches(sources, WEIGHTS, RowLayout(rows=5, tokens=20))
    counted = dict.fromkeys(sources, 0)
    seen = {name: np.zeros(10_000, int) for name in sources}
    for _ in range(400):
        batch = next(batches)
        for row, numbers in zip(batch.tokens, batch.sources, strict=True):
            name = list(sources)[int(numbers[0])]
            counted[name] += len(row)
            np.add.at(seen[name], row.numpy(), 1)
    assert counted == batches.source_tokens
    for row in batches.plan(400 * 100):
        assert abs(counted[row.source] - row.planned_tokens) <= 20
        times = seen[row.source][seen[row.source] > 0]
        assert len(times) == sources[row.source].tokens
        assert times.max() - times.min() <= 1  # every token of a source equally often, to within the epoch at hand


def test_the_seed_gives_the_order(sources: dict[str, ShardReader]) -> None:
    layout = RowLayout(rows=4, tokens=50)
    one, same, other = (next(PackedBatches(sources, WEIGHTS, layout, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one.tokens, same.tokens)
    assert not torch.equal(one.tokens, other.tokens)


def test_a_state_of_other_data_is_refused(sources: dict[str, ShardReader], tmp_path: Path) -> None:
    layout = RowLayout(rows=1, tokens=10)
    state = PackedBatches(sources, WEIGHTS, layout).state_dict()
    with pytest.raises(ArrieroError, match="resume: expected the data seed 0, got 1"):
        PackedBatches(sources, WEIGHTS, layout, seed=1).load_state_dict(state)
    with pytest.raises(ArrieroError, match="resume: expected the sources a, b, c, got a"):
        PackedBatches({"a": sources["a"]}, {"a": 1.0}, layout).load_state_dict(state)
    other = sources | {"b": write_shards(tmp_path, [[1, 2]])}
    with pytest.raises(ArrieroError, match="resume: the shards of b are not those"):
        PackedBatches(other, WEIGHTS, layout).load_state_dict(state)
    PackedBatches(sources, {"a": 0.1, "b": 0.1, "c": 0.8}, RowLayout(rows=3, tokens=20)).load_state_dict(state)


def test_bad_mixtures_and_layouts_are_refused(sources: dict[str, ShardReader]) -> None:
    layout = RowLayout(rows=1, tokens=10)
    with pytest.raises(ArrieroError, match="only one for d"):
        PackedBatches(sources, WEIGHTS | {"c": 0.1, "d": 0.1}, layout)
    with pytest.raises(ArrieroError, match=r"weights sum to 1\.5"):
        PackedBatches(sources, WEIGHTS | {"a": 1.0}, layout)
    PackedBatches(sources, WEIGHTS | {"a": 1.0}, layout, normalise=True)
    for wrong in ({"rows": 0}, {"tokens": 0}, {"rank": 1}, {"world": 0}):
        with pytest.raises(ArrieroError, match="expected"):
            RowLayout(**({"rows": 1, "tokens": 1} | wrong))


def test_an_id_beyond_the_vocabulary_is_a_corrupt_shard(tmp_path: Path) -> None:
    reader = write_shards(tmp_path, [[1, 2, 65_000]])
    with pytest.raises(FormatError, match="is corrupt: it holds the id 65000, and its vocabulary ends at 999"):
        next(PackedBatches({"a": reader}, {"a": 1.0}, RowLayout(rows=1, tokens=5)))


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=20),
    rows=st.integers(1, 3),
    world=st.integers(1, 3),
    tokens=st.integers(1, 30),
    limit=st.one_of(st.none(), st.integers(1, 5)),
)
def test_validation_sees_each_token_once_and_ranks_as_many_batches(
    lengths: list[int], rows: int, world: int, tokens: int, limit: int | None
) -> None:
    ends = np.cumsum(lengths).tolist()
    documents = [list(range(end - length, end)) for end, length in zip(ends, lengths, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        reader = write_shards(Path(folder), documents)
        passes = [
            ValidationBatches(
                reader, RowLayout(rows=rows, tokens=tokens, rank=r, world=world), source=2, max_rows=limit
            )
            for r in range(world)
        ]
        assert len({len(one) for one in passes}) == 1
        batches = [list(one) for one in passes]
        assert [len(one) for one in batches] == [len(one) for one in passes]
        counted = passes[0].tokens
        assert passes[0].bytes == 3 * counted
        wanted = {token: token + 1 for token in range(counted) if token + 1 not in ends}
        found = {}
        for batch in (batch for one in batches for batch in one):
            scored = batch.targets != IGNORED
            found |= dict(zip(batch.tokens[scored].tolist(), batch.targets[scored].tolist(), strict=True))
            assert batch.sources.unique().tolist() == [2]
            assert batch.documents is not None
            assert batch.documents.numbers().shape == batch.tokens.shape
    assert found == wanted
    assert counted == (sum(lengths) if limit is None else min(sum(lengths), limit * tokens))
