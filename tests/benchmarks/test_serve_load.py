"""What benchmarks/serve_load.py calls right, wrong and lost."""

import asyncio
from argparse import Namespace
from types import SimpleNamespace

import pytest

from benchmarks.serve_load import Case, Seen, events, is_level, percentiles, summarise

GREEDY = Case("/v1/completions", {"temperature": 0.0, "n": 2}, ["one two", "one two"])
SAMPLED = Case("/v1/completions", {"temperature": 0.8, "n": 1}, ["one two"])
OPTIONS = Namespace(clients=1, seconds=10.0)


@pytest.mark.parametrize(
    ("texts", "whole", "wrong"),
    [
        (["one two", "one two"], True, 0),
        (["one two", "one"], True, 1),
        (["one", ""], False, 0),
        (["one two three", ""], False, 1),
        (["two", ""], False, 1),
    ],
)
def test_an_answer_is_the_right_one_or_its_beginning_where_the_client_left(texts, whole, wrong):
    seen = Seen()
    seen.judge(GREEDY, texts, whole=whole)
    assert seen.counts["wrong answers"] == len(seen.faults) == wrong


def test_few_sampled_answers_may_turn():
    seen = Seen()
    for _ in range(60):
        seen.judge(SAMPLED, ["one two"], whole=True)
    seen.judge(SAMPLED, ["one three"], whole=True)
    assert summarise(seen, [100.0] * 8, OPTIONS)["failures"] == []
    seen.judge(SAMPLED, ["one four"], whole=True)
    assert summarise(seen, [100.0] * 8, OPTIONS)["failures"] == ["sampled answers that turned"]


def test_memory_may_not_grow():
    assert summarise(Seen(), [50.0, 100.0, 100.0, 100.0, 104.0], OPTIONS)["failures"] == []
    assert summarise(Seen(), [50.0, 100.0, 100.0, 100.0, 106.0], OPTIONS)["failures"] == ["memory"]


def test_percentiles_are_by_nearest_rank():
    assert percentiles([float(n) for n in range(200, 0, -1)]) == {"p50": 100, "p95": 190, "p99": 198}
    assert percentiles([3.0]) == {"p50": 3, "p95": 3, "p99": 3}
    assert percentiles([]) == {}


def test_tokens_nearly_as_likely_are_level():
    assert is_level([(1, -1.0), (2, -1.004)])
    assert not is_level([(1, -1.0), (2, -1.1)])


def test_a_stream_that_breaks_off_is_lost():
    async def read(*lines):
        async def aiter_lines():
            for line in lines:
                yield line

        return [chunk async for chunk in events(SimpleNamespace(aiter_lines=aiter_lines))]

    assert asyncio.run(read('data: {"a": 1}', "", ": ping", "data: [DONE]")) == [{"a": 1}]
    with pytest.raises(ValueError, match="ended without"):
        asyncio.run(read('data: {"a": 1}'))
    with pytest.raises(ValueError, match="the engine is closing"):
        asyncio.run(read('data: {"error": {"message": "the engine is closing"}}'))
