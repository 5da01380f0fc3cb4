"""Whenever rows join and leave, whatever is shared, cut, guessed or read again: each says what it would say alone."""

import dataclasses
import threading

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arriero.generate.engine import Engine, Request, SamplingConfig
from arriero.generate.row import Row, open_rows
from arriero.generate.scheduler import Scheduler
from arriero.model.config import RopeScaling
from arriero.model.kv_cache import KVCache
from arriero.model.paged_cache import PAGE
from arriero.model.transformer import Llama
from tests.generate.plain import decode_plainly

START = [i * 7 % 250 for i in range(40)]
"""What several prompts begin with: two pages and a half."""


def request(prompt: list[int], **changes) -> Request:
    return Request(prompt_ids=prompt, sampling=SamplingConfig(**{"max_tokens": 12, "stop_ids": ()} | changes))


REQUESTS = [
    request([*START, 1, 2], max_tokens=20),
    request([*START, 3], temperature=1.0, seed=1),
    request(START[:33], temperature=0.9, top_p=0.9, seed=2, n=3),
    request([5], max_tokens=40, repetition_penalty=1.3),
    request([9, 8, 7] * 6, max_tokens=30),
    request([*START, *START, 4], temperature=1.5, min_p=0.02, repetition_penalty=1.2, seed=3, max_tokens=8),
    request(START[:32], max_tokens=1),
]


@pytest.fixture(scope="module")
def expected(tiny_model) -> list[list[tuple[int, ...]]]:
    return [[decode_plainly(tiny_model, one, i) for i in range(one.sampling.n)] for one in REQUESTS]


def make(model, **changes) -> Scheduler:
    return Scheduler(model, **{"pages": 40, "max_rows": 6, "step_tokens": 64} | changes)


def opened(tokenizer, one: Request, index: int = 0) -> list[Row]:
    return open_rows(one, index, tokenizer, stream=False)


def run(scheduler: Scheduler) -> None:
    while scheduler.busy:
        scheduler.step()
    assert scheduler.stats().cache_tokens == 0


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_rows_that_join_and_leave_at_any_step_say_what_they_would_alone(data, tiny_model, byte_tokenizer, expected):
    scheduler = make(
        tiny_model,
        pages=data.draw(st.integers(6, 30), "pages"),
        max_rows=data.draw(st.integers(1, 8), "rows"),
        step_tokens=data.draw(st.integers(1, 100), "tokens a step"),
        speculate=data.draw(st.integers(0, 4), "speculate"),
    )
    joining = data.draw(st.lists(st.integers(0, 15), min_size=len(REQUESTS), max_size=len(REQUESTS)), "joining")
    leaving = data.draw(st.dictionaries(st.integers(0, len(REQUESTS) - 1), st.integers(0, 25), max_size=3), "leaving")
    rows = [opened(byte_tokenizer, one, i) for i, one in enumerate(REQUESTS)]
    moment = 0
    while scheduler.busy or moment <= max(joining):
        scheduler.add([row for i, own in enumerate(rows) if joining[i] == moment for row in own])
        for i, when in leaving.items():
            if when == moment:
                rows[i][-1].dropped = True
        scheduler.step()
        moment += 1
    assert scheduler.stats().cache_tokens == 0
    for own, answers in zip(rows, expected, strict=True):
        for row, answer in zip(own, answers, strict=True):
            assert tuple(row.ids) == answer[: len(row.ids)]
            assert (row.finish_reason == "length") == (len(row.ids) == len(answer)) or row.dropped


@pytest.mark.parametrize("step_tokens", [1, 16, 33, 48, 1000])
def test_a_prompt_read_in_chunks_of_any_size_is_the_same(step_tokens, tiny_model, byte_tokenizer, expected):
    scheduler = make(tiny_model, step_tokens=step_tokens)
    (row,) = opened(byte_tokenizer, REQUESTS[5])
    scheduler.add([row])
    run(scheduler)
    assert tuple(row.ids) == expected[5][0]


def test_a_long_prompt_holds_up_nobody_who_decodes(tiny_model, byte_tokenizer):
    scheduler = make(tiny_model, step_tokens=16)
    (early,) = opened(byte_tokenizer, request([5], max_tokens=20))
    (late,) = opened(byte_tokenizer, request(START + START + START[:30], max_tokens=2))
    scheduler.add([early])
    scheduler.step()
    scheduler.add([late])
    while not late.ids:
        before = len(early.ids)
        scheduler.step()
        assert len(early.ids) == before + 1
    assert len(early.ids) > 6


def test_what_was_read_before_is_not_read_again(tiny_model, byte_tokenizer, expected):
    scheduler = make(tiny_model)
    for index in (0, 1, 5, 6):
        (row,) = opened(byte_tokenizer, REQUESTS[index])
        scheduler.add([row])
        run(scheduler)
        assert tuple(row.ids) == expected[index][0]
        assert row.completion().cached_tokens == {0: 0, 1: 32, 5: 32, 6: 16}[index]  # its last token is always read
    assert scheduler.stats().cached_prompt_tokens == 32 + 32 + 16
    scheduler.forget()
    (row,) = opened(byte_tokenizer, REQUESTS[0])
    scheduler.add([row])
    run(scheduler)
    assert row.completion().cached_tokens == 0


def test_an_answer_too_is_found_in_the_cache(tiny_model, byte_tokenizer):
    scheduler = make(tiny_model)
    (first,) = opened(byte_tokenizer, REQUESTS[0])
    scheduler.add([first])
    run(scheduler)
    (again,) = opened(byte_tokenizer, request([*REQUESTS[0].prompt_ids, *first.ids, 7]))
    scheduler.add([again])
    run(scheduler)
    assert again.completion().cached_tokens == 48
    assert tuple(again.ids) == decode_plainly(tiny_model, again.request)


def test_samples_share_the_pages_of_their_prompt(tiny_model, byte_tokenizer):
    scheduler = make(tiny_model)
    rows = opened(byte_tokenizer, request(START, n=5, temperature=1.0, seed=4))
    scheduler.add(rows)
    scheduler.step()
    assert scheduler.stats().cache_tokens == 3 * PAGE
    scheduler.step()
    assert scheduler.stats().cache_tokens == (2 + 5) * PAGE  # each has its own last page
    run(scheduler)
    assert [tuple(row.ids) for row in rows] == [decode_plainly(tiny_model, rows[0].request, i) for i in range(5)]


def test_where_pages_run_out_the_youngest_gives_way_and_says_the_same_later(tiny_model, byte_tokenizer):
    scheduler = make(tiny_model, pages=8)
    wanted = [request([i] * 20, max_tokens=60, temperature=1.0, seed=i) for i in range(3)]
    rows = [row for i, one in enumerate(wanted) for row in opened(byte_tokenizer, one, i)]
    scheduler.add(rows)
    ended = []
    while scheduler.busy:
        ended += [row for row in scheduler.step() if row.finish_reason]
        assert scheduler.stats().cache_tokens <= 8 * PAGE
    assert scheduler.stats().preempted > 0
    assert [tuple(row.ids) for row in rows] == [decode_plainly(tiny_model, one) for one in wanted]
    assert ended == rows  # the older first


@pytest.mark.parametrize("changes", [{}, {"temperature": 0.05, "seed": 4}, {"repetition_penalty": 1.05}])
def test_right_guesses_save_passes_and_change_nothing(changes, tiny_model, byte_tokenizer):
    one = request([3, 4, 5, 6] * 5, max_tokens=60, logprobs=1, **changes)
    reports, passes = [], []
    for speculate in (0, 5):
        scheduler = make(tiny_model, speculate=speculate)
        (row,) = opened(byte_tokenizer, one)
        scheduler.add([row])
        run(scheduler)
        reports.append(row.completion())
        passes.append(scheduler.stats().steps)
    assert reports[0].ids == reports[1].ids == decode_plainly(tiny_model, one)
    assert [x.id for x in reports[1].logprobs] == list(reports[1].ids)
    for a, b in zip(reports[0].logprobs, reports[1].logprobs, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-3)
    assert passes[0] == 60
    assert passes[1] < 60


def test_a_guess_ends_where_the_answer_does(tiny_model, byte_tokenizer):
    one = request([3, 4, 5, 6] * 5, max_tokens=60)
    ids = decode_plainly(tiny_model, one)
    for changes in ({"max_tokens": 31}, {"stop_ids": (ids[30],)}):
        scheduler = make(tiny_model, speculate=8)
        (row,) = opened(byte_tokenizer, dataclasses.replace(one, sampling=dataclasses.replace(one.sampling, **changes)))
        scheduler.add([row])
        run(scheduler)
        assert tuple(row.ids) == ids[: len(row.ids)]
        assert len(row.ids) == changes.get("max_tokens", ids.index(ids[30]) + 1)


@pytest.mark.parametrize("step_tokens", [16, 1000])
def test_log_probabilities_of_a_prompt_are_the_models(step_tokens, tiny_model, byte_tokenizer):
    scheduler = make(tiny_model, step_tokens=step_tokens)
    plain, asking = REQUESTS[0], dataclasses.replace(REQUESTS[2], prompt_logprobs=2)
    scheduler.add(opened(byte_tokenizer, plain))
    run(scheduler)
    rows = opened(byte_tokenizer, asking)
    scheduler.add(rows)
    run(scheduler)
    with torch.no_grad():
        logprobs = tiny_model(torch.tensor([asking.prompt_ids]))[0].log_softmax(-1)
    for row in rows:
        completion = row.completion()
        assert completion.cached_tokens == 0
        assert completion.prompt_logprobs[0] is None
        for place, told in enumerate(completion.prompt_logprobs[1:], start=1):
            assert told.id == asking.prompt_ids[place]
            assert told.logprob == pytest.approx(float(logprobs[place - 1, told.id]), abs=1e-4)
            assert [i for i, _ in told.top] == logprobs[place - 1].topk(2).indices.tolist()


def test_rows_cancelled_before_and_while_their_prompt_is_read_leave_it_to_the_others(tiny_model, byte_tokenizer):
    scheduler = make(tiny_model, step_tokens=16)
    rows = opened(byte_tokenizer, request(START, n=4, temperature=1.0, seed=4))
    scheduler.add(rows)
    rows[0].dropped = True
    assert scheduler.step() == [rows[0]]
    rows[1].dropped = rows[2].dropped = True
    run(scheduler)
    assert [row.finish_reason for row in rows] == ["cancelled"] * 3 + ["length"]
    assert tuple(rows[3].ids) == decode_plainly(tiny_model, rows[3].request, 3)


def test_a_request_cancelled_while_it_waits_never_runs(tiny_model, byte_tokenizer):
    scheduler, cancel = make(tiny_model, max_rows=1), threading.Event()
    scheduler.add(opened(byte_tokenizer, request([1])))
    (row,) = opened(byte_tokenizer, dataclasses.replace(request([2]), cancel=cancel))
    scheduler.add([row])
    scheduler.step()
    cancel.set()
    assert row in scheduler.step()
    assert (row.finish_reason, row.ids) == ("cancelled", [])
    run(scheduler)


def test_dynamic_positions_are_those_of_the_whole_prompt(tiny_model, byte_tokenizer):
    scaling = RopeScaling(kind="dynamic", factor=2.0, original_max_seq_len=24)
    model = Llama(dataclasses.replace(tiny_model.config, rope_scaling=scaling)).eval()
    model.load_state_dict(tiny_model.state_dict())
    scheduler = make(model, step_tokens=16, pages=8)
    prompts = [START[:20], START[:39], [*START[:38], 1], [*START[:38], 1, 2]]
    rows = [row for prompt in prompts for row in opened(byte_tokenizer, request(prompt, max_tokens=24))]
    scheduler.add(rows)
    run(scheduler)
    for row in rows:
        cache, new, ids = KVCache(model.config, 1, 80), row.prompt, []
        for _ in range(24):
            with torch.no_grad():
                ids.append(int(model(torch.tensor([new]), cache=cache)[0, -1].argmax()))
            new = ids[-1:]
        assert row.ids == ids


def test_a_batch_in_half_precision_runs(tiny_model, byte_tokenizer):
    model = Llama(tiny_model.config).eval()
    model.load_state_dict(tiny_model.state_dict())
    completions = Engine(model.bfloat16(), byte_tokenizer).generate(REQUESTS)
    assert [len(completion.ids) for completion in completions] == [20, 12, 12, 12, 12, 40, 30, 8, 1]
