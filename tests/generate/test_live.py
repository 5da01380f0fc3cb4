"""Many threads at once: no answer is wrong, lost or another's, and room is given back."""

import copy
import dataclasses
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import pytest

from arriero.common.errors import ArrieroError, BusyError, NotFoundError
from arriero.generate.engine import Engine, Request, SamplingConfig
from arriero.generate.live import Live
from arriero.generate.row import Row
from arriero.model.adapters import Adapters
from arriero.model.lora_config import LoraConfig
from tests.generate.plain import decode_plainly

LONG = SamplingConfig(max_tokens=100, stop_ids=())


def request(prompt: list[int], **changes) -> Request:
    return Request(prompt_ids=prompt, sampling=dataclasses.replace(LONG, **{"max_tokens": 12} | changes))


@pytest.fixture
def live(tiny_model, byte_tokenizer) -> Iterator[Live]:
    live = Live(Engine(tiny_model, byte_tokenizer, max_batch=4))
    yield live
    live.close()


def wait_until(holds) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_it_answers_as_the_engine_does(live):
    requests = [
        request([5], seed=0),
        request([1, 2, 3], temperature=1.0, seed=1, n=3, logprobs=1),
        request([7] * 40, seed=2),
    ]
    answers = live.generate(requests)
    for mine, whole in zip(answers, live.engine.generate(requests), strict=True):
        assert dataclasses.replace(mine, logprobs=None) == dataclasses.replace(whole, logprobs=None)
    assert [len(answer.logprobs or ()) for answer in answers] == [0, 12, 12, 12, 0]
    assert live.generate([]) == []
    (whole,) = live.engine.generate(requests[:1])
    deltas = list(live.stream(requests[0]))
    assert "".join(delta.text for delta in deltas) == whole.text
    assert deltas[-1].completion == whole
    assert live.tokenizer is live.engine.tokenizer
    assert live.context == live.engine.context


def test_many_threads_get_their_own_answers_though_others_leave(tiny_model, byte_tokenizer):
    live = Live(Engine(tiny_model, byte_tokenizer, max_batch=5, max_cache_bytes=14 * 16 * 512, speculate=3))
    chance = random.Random(0)
    prompts = [[*range(chance.choice((3, 20, 36))), i % 7] for i in range(40)]
    requests = [request(prompt, temperature=i % 2, seed=i % 5) for i, prompt in enumerate(prompts)]
    patience = [chance.choice((1, 4, 99, 99)) for _ in requests]

    def listen(index: int) -> tuple[int, ...]:
        ids: tuple[int, ...] = ()
        stream = live.stream(requests[index])
        for heard, delta in enumerate(stream):
            ids += delta.ids
            if heard == patience[index]:
                break
        stream.close()
        return ids

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(listen, range(40)))
    for index, answer in enumerate(answers):
        expected = decode_plainly(tiny_model, requests[index])
        assert answer == expected[: len(answer)]
        assert len(answer) == 12 or patience[index] < 99
    wait_until(lambda: live.stats().running == live.stats().waiting == live.stats().cache_tokens == 0)
    live.close()


def test_bad_requests_are_refused_at_once_and_busy_ones_when_the_queue_is_full(tiny_model, byte_tokenizer):
    live = Live(Engine(tiny_model, byte_tokenizer, max_batch=1), max_waiting=1)
    with pytest.raises(ArrieroError, match="the prompt is empty"):
        live.submit(request([]), print)
    with pytest.raises(ArrieroError, match="max_tokens 200 exceed the context of 128"):
        live.stream(request([1], max_tokens=200))
    held = threading.Event()
    live.submit(request([1]), lambda _: held.wait())
    live.submit(request([2]), lambda _: None)
    with pytest.raises(BusyError, match="2 answers are being written or waited for already"):
        live.submit(request([3]), print)
    waiting = ThreadPoolExecutor(1).submit(live.generate, [request([3]), request([4])])
    held.set()
    assert [len(completion.ids) for completion in waiting.result()] == [12, 12]
    live.close()


def test_a_stream_that_was_closed_or_never_begun_leaves_nothing_running(live):
    stream = live.stream(request([5], max_tokens=120))
    next(stream)
    stream.close()
    live.stream(request([6], max_tokens=120)).close()
    wait_until(lambda: live.stats().running == 0)
    assert live.stats().generated_tokens < 240


def test_a_cancelled_request_ends_with_what_it_has(live):
    cancel = threading.Event()
    deltas = []
    for delta in live.stream(dataclasses.replace(request([5], max_tokens=120), cancel=cancel)):
        cancel.set()
        deltas.append(delta)
    assert deltas[-1].completion.finish_reason == "cancelled"


def test_a_listener_that_fails_loses_its_own_request_only(live):
    live.submit(request([1], max_tokens=120), lambda _: 1 / 0)
    assert len(live.generate([request([2])])[0].ids) == 12
    wait_until(lambda: live.stats().running == 0)


def test_a_pass_that_fails_is_told_to_all_who_wait_and_the_next_request_is_served(live):
    handle = live.between(lambda: live.model.layers[0].register_forward_hook(lambda *_: 1 / 0))
    told: SimpleQueue = SimpleQueue()
    live.submit(request([1]), told.put)
    assert isinstance(told.get(), ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        live.generate([request([2])])
    with pytest.raises(ZeroDivisionError):
        list(live.stream(request([3])))
    live.between(handle.remove)
    assert len(live.generate([request([2])])[0].ids) == 12
    assert live.stats().cache_tokens == 0


def test_adapters_come_and_go_between_steps(tiny_model, byte_tokenizer):
    model = copy.deepcopy(tiny_model)
    live = Live(Engine(model, byte_tokenizer))
    asked = dataclasses.replace(request([*range(40)]), adapter="law")
    with pytest.raises(NotFoundError, match="no adapter 'law'"):
        live.generate([asked])

    def add(seed: int) -> None:
        adapters = Adapters.of(model)
        adapters.add("law", LoraConfig(rank=4), seed=seed)
        for change in adapters.changes("law").values():
            for parameter in change.parameters():
                parameter.data += 0.3
        adapters.activate(None)

    plain = live.generate([dataclasses.replace(asked, adapter=None)])[0].ids
    live.between(lambda: add(1))
    adapted = live.generate([asked])[0]
    assert adapted.ids != plain
    assert live.generate([asked])[0].ids == adapted.ids
    running = live.stream(dataclasses.replace(asked, sampling=dataclasses.replace(LONG, max_tokens=80)))
    next(running)
    live.between(lambda: Adapters.of(model).remove("law"))
    with pytest.raises(NotFoundError, match="no adapter 'law'"):
        list(running)
    live.between(lambda: add(9))
    again = live.generate([asked])[0]
    assert again.cached_tokens == 0  # another adapter of the same name
    with pytest.raises(ZeroDivisionError):
        live.between(lambda: 1 / 0)
    live.close()
    assert live.between(lambda: 5) == 5


def test_closing_waits_for_answers_as_long_as_it_is_told_to(tiny_model, byte_tokenizer):
    for patience_s, reason in ((60.0, "length"), (0.0, "cancelled")):
        live = Live(Engine(tiny_model, byte_tokenizer, max_batch=1))
        slow = live.between(lambda live=live: live.model.register_forward_hook(lambda *_: None))
        streams = [live.stream(request([i], max_tokens=120)) for i in range(2)]
        next(streams[0])
        closing = threading.Thread(target=live.close, args=(patience_s,))
        closing.start()
        wait_until(lambda live=live: live._closing)
        with pytest.raises(BusyError, match="the engine is closing"):
            live.submit(request([1]), print)
        assert [list(stream)[-1].completion.finish_reason for stream in streams] == [reason, reason]
        closing.join()
        live.close()
        slow.remove()


def test_figures_tell_what_was_done(live):
    live.generate([request([*range(40)]), request([*range(40)])])
    stats = live.stats()
    assert (stats.prompt_tokens, stats.cached_prompt_tokens, stats.generated_tokens) in ((80, 32, 24), (80, 0, 24))
    assert stats.steps >= 12
    assert stats.cache_room == live.engine.max_pages * 16
    assert (stats.running, stats.waiting, stats.cache_tokens, stats.preempted) == (0, 0, 0, 0)


def test_an_answer_that_cannot_be_told_ends_with_the_reason_and_others_go_on(live, monkeypatch):
    def fail(self: Row) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Row, "delta", fail)
        with pytest.raises(MemoryError):
            list(live.stream(request([1])))
    assert len(live.generate([request([1])])[0].ids) == 12
    assert live.stats().cache_tokens == 0
