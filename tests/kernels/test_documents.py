"""Documents packed in rows: found from segments or cu_seqlens, refused when they make no sense."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arriero.common.errors import ArrieroError
from arriero.kernels.documents import Documents


def test_spans_are_the_runs():
    documents = Documents.from_segments(torch.tensor([[0, 0, 1], [4, 4, 4]]))
    assert documents.spans == ((0, 0, 2), (0, 2, 3), (1, 0, 3))
    assert documents.table.tolist() == [[0, 0, 1], [0, 2, 0], [2, 1, 3]]
    assert documents.max_length == 3


def test_cu_seqlens_read_the_rows_one_after_the_other():
    documents = Documents.from_cu_seqlens(torch.tensor([0, 2, 3, 6], dtype=torch.int32), 2, 3)
    assert documents.spans == Documents.from_segments(torch.tensor([[0, 0, 1], [4, 4, 4]])).spans
    assert documents.shape == (2, 3)


@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=3))
def test_numbers_and_positions_follow_the_lengths(rows):
    tokens = max(sum(lengths) for lengths in rows)
    rows = [[*lengths, tokens - sum(lengths)] if sum(lengths) < tokens else lengths for lengths in rows]
    bounds = torch.tensor([0, *(n for lengths in rows for n in lengths)]).cumsum(0)
    documents = Documents.from_cu_seqlens(bounds, len(rows), tokens)
    flat = [n for lengths in rows for n in lengths]
    assert documents.numbers().flatten().tolist() == [i for i, n in enumerate(flat) for _ in range(n)]
    assert documents.positions().flatten().tolist() == [t for n in flat for t in range(n)]
    assert Documents.from_segments(documents.numbers()).spans == documents.spans


BAD = [
    ([0, 4, 2, 6], "cu_seqlens: expected rising numbers, got 2 after 4 at index 2"),
    ([0, 3, 3, 6], "cu_seqlens: expected rising numbers, got 3 after 3 at index 2"),
    ([1, 3, 6], "cu_seqlens: expected 0 first and .* = 6 last, got 1 and 6"),
    ([0, 3, 5], "cu_seqlens: expected 0 first and .* = 6 last, got 0 and 5"),
    ([0, 2, 4, 6], "within its row of 3 tokens, got the one from 2 to 4; add 3 as a boundary"),
    ([0.0, 6.0], "cu_seqlens: expected a row of at least 2 integers, got shape .* of torch.float32"),
    ([0], r"cu_seqlens: expected a row of at least 2 integers, got shape \(1,\)"),
    ([[0, 3, 6]], r"cu_seqlens: expected .* got shape \(1, 3\)"),
]


@pytest.mark.parametrize(("bounds", "message"), BAD)
def test_bad_cu_seqlens_are_named(bounds, message):
    with pytest.raises(ArrieroError, match=message) as caught:
        Documents.from_cu_seqlens(torch.tensor(bounds), 2, 3)
    assert "\n" not in str(caught.value)


def test_bad_segments_are_named():
    with pytest.raises(ArrieroError, match="segments: row 0 returns to a document"):
        Documents.from_segments(torch.tensor([[0, 1, 0, 1]]))
    with pytest.raises(ArrieroError, match=r"segments: expected 2 dimensions .* got shape \(3,\)"):
        Documents.from_segments(torch.tensor([0, 1, 1]))
    with pytest.raises(ArrieroError, match="cu_seqlens: expected rows of 1 token or more"):
        Documents.from_cu_seqlens(torch.tensor([0, 0]), 2, 0)
