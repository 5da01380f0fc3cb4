"""Whatever is cut into which spans, over whatever pages, gives what the whole rows give at once."""

import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arriero.common.errors import ArrieroError
from arriero.kernels.documents import Documents
from arriero.model.paged_cache import PAGE, PagedCache, Span
from arriero.model.transformer import Llama

ROWS = torch.randint(101, (4, 60), generator=torch.Generator().manual_seed(5)).tolist()


class Pages:
    """A cache, and pages for rows out of it in a random order."""

    def __init__(self, model: Llama, seed: int = 0) -> None:
        self.model, self.cache = model, PagedCache(model.config, 20)
        self.free = torch.randperm(20, generator=torch.Generator().manual_seed(seed)).tolist()
        self.tables = [[self.free.pop() for _ in range(4)] for _ in ROWS]
        self.lengths = [0] * len(ROWS)

    @torch.no_grad()
    def read(self, counts: dict[int, int], **changes) -> list[torch.Tensor]:
        """So many more tokens of each of these rows; their logits."""
        spans = []
        for row, count in counts.items():
            start = self.lengths[row]
            spans.append(Span(ROWS[row][start : start + count], start, self.tables[row], prompt=len(ROWS[row])))
            self.lengths[row] += count
        spans = [dataclasses.replace(span, **changes) for span in spans]
        tokens = torch.tensor([token for span in spans for token in span.tokens])[:, None]
        self.cache.begin(spans)
        return list(self.model(tokens, cache=self.cache)[:, 0].split(list(counts.values())))


@torch.no_grad()
def whole(model: Llama) -> torch.Tensor:
    return model(torch.tensor(ROWS))


def check(read: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for a, b in zip(read, expected, strict=True):
        torch.testing.assert_close(a, b, atol=3e-5, rtol=1e-4)


def test_chunks_and_single_tokens_equal_whole_rows_for_every_variant(variant, make_model):
    model = make_model(variant)
    expected, pages = whole(model), Pages(model)
    check(pages.read({0: 37, 2: 5}), [expected[0, :37], expected[2, :5]])
    check(pages.read({0: 1, 1: 20, 2: 1}), [expected[0, 37:38], expected[1, :20], expected[2, 5:6]])
    check(pages.read({2: 4, 0: 4, 1: 1}), [expected[2, 6:10], expected[0, 38:42], expected[1, 20:21]])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.dictionaries(st.integers(0, 3), st.integers(1, 25), min_size=1), min_size=1, max_size=6))
def test_any_cut_into_spans_equals_whole_rows(steps, tiny, make_model):
    model = make_model(tiny)
    expected, pages = whole(model), Pages(model, seed=len(steps))
    for step in steps:
        counts = {row: count for row, count in step.items() if pages.lengths[row] + count <= len(ROWS[row])}
        before = list(pages.lengths)
        if counts:
            read = pages.read(counts)
            check(read, [expected[row, before[row] : before[row] + count] for row, count in counts.items()])


def test_rows_of_very_different_lengths_are_attended_to_apart_and_alike(tiny, make_model):
    model = make_model(dataclasses.replace(tiny, max_seq_len=4096))
    cache = PagedCache(model.config, 150)
    long = torch.randint(101, (2000,), generator=torch.Generator().manual_seed(1)).tolist()
    tables = [list(range(126)), *[[130 + i] for i in range(8)]]
    rows = [long, *[long[i : i + 9] for i in range(8)]]
    with torch.no_grad():
        for start, end in ((0, 8), (8, 9)):
            spans = [Span(row[start:end], start, table) for row, table in zip(rows[1:], tables[1:], strict=True)]
            spans += [Span(long[:-1], 0, tables[0])] if start == 0 else [Span(long[-1:], 1999, tables[0])]
            cache.begin(spans)
            logits = model(torch.tensor([token for span in spans for token in span.tokens])[:, None], cache=cache)
        expected = [model(torch.tensor([row]))[0, -1] for row in (*rows[1:], long)]
    check(list(logits[:, 0]), expected)


def test_what_another_row_left_in_a_cleared_page_does_no_harm(tiny, make_model):
    model = make_model(tiny)
    pages = Pages(model)
    pages.cache.k.fill_(torch.nan)
    pages.cache.v.fill_(torch.nan)
    pages.cache.clear([page for table in pages.tables for page in table])
    pages.read({0: 20, 1: 3})
    assert all(bool(logits.isfinite().all()) for logits in pages.read({0: 1, 1: 1}))


def test_a_copied_page_is_as_good_as_the_first(tiny, make_model):
    model = make_model(tiny)
    expected, pages = whole(model), Pages(model)
    pages.read({0: PAGE + 3})
    other = pages.free.pop()
    pages.cache.copy(pages.tables[0][1], other)
    pages.tables[0][1] = other
    check(pages.read({0: 2}), [expected[0, PAGE + 3 : PAGE + 5]])


def test_tokens_that_were_not_placed_are_refused(tiny, make_model):
    model, cache = make_model(tiny), PagedCache(tiny, 4)
    cache.begin([Span([1, 2], 0, [0])])
    with pytest.raises(ArrieroError, match=r"tokens: expected shape \(2, 1\) as placed in the pages, .* got \(1, 2\)"):
        model(torch.tensor([[1, 2]]), cache=cache)
    with pytest.raises(ArrieroError, match="without documents"):
        model(torch.tensor([[1], [2]]), cache=cache, documents=Documents.from_segments(torch.zeros(2, 1)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_reads_the_pages_where_they_lie(tiny, make_model):
    model = make_model(dataclasses.replace(tiny, head_dim=16)).cuda()
    cache, tokens = PagedCache(model.config, 8, device="cuda"), torch.tensor([ROWS[0]], device="cuda")
    with torch.no_grad():
        for start, end in ((0, 21), (21, 40), (40, 41)):
            cache.begin([Span(ROWS[0][start:end], start, [3, 1, 6])])
            logits = model(tokens[0, start:end, None], cache=cache)[:, 0]
            torch.testing.assert_close(logits, model(tokens[:, :end])[0, start:], atol=1e-4, rtol=1e-3)
