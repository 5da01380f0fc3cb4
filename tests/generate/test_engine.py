"""Batch = single, cached = uncached, one reading a prompt, bounds, errors, and what a completion says."""

import dataclasses
import threading

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arriero.common.errors import ArrieroError
from arriero.generate.engine import Engine, Request, SamplingConfig
from arriero.model.paged_cache import PAGE

NO_STOP = SamplingConfig(max_tokens=12, stop_ids=())


def request(prompt: list[int], **changes) -> Request:
    return Request(prompt_ids=prompt, sampling=dataclasses.replace(NO_STOP, **changes))


MIXED = [
    request([5], max_tokens=20),
    request(list(range(40)), temperature=1.0, seed=1),
    request([7, 8, 9], temperature=0.8, top_k=20, seed=2, max_tokens=3),
    request([7, 8, 9], temperature=1.2, top_p=0.9, seed=3, logprobs=2),
    request([250] * 11, temperature=2.0, min_p=0.1, seed=4, max_tokens=1),
    request([1, 2], repetition_penalty=1.5, max_tokens=30),
    request([3, 1, 4, 1, 5], temperature=1.0, repetition_penalty=1.3, top_k=50, top_p=0.95, seed=5),
    request([5], temperature=1.0, seed=6, stop=("e", "\n"), max_tokens=60),
]


def ids(completions) -> list[tuple[int, ...]]:
    return [completion.ids for completion in completions]


def uncached_greedy(model, prompt: list[int], count: int) -> tuple[int, ...]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tuple(tokens[len(prompt) :])


def test_cached_greedy_decoding_equals_decoding_without_a_cache(engine):
    prompts = [[5], list(range(30)), [9, 8, 7, 6]]
    completions = engine.generate([request(prompt) for prompt in prompts])
    assert ids(completions) == [uncached_greedy(engine.model, prompt, 12) for prompt in prompts]
    assert [completion.prompt_tokens for completion in completions] == [1, 30, 4]
    assert {completion.finish_reason for completion in completions} == {"length"}


@pytest.mark.parametrize("max_batch", [16, 3, 1])
def test_a_request_gives_the_same_in_any_batch_as_alone(tiny_model, byte_tokenizer, max_batch):
    together = Engine(tiny_model, byte_tokenizer, max_batch=max_batch).generate(MIXED)
    for index, one in enumerate(MIXED):
        alone = Engine(tiny_model, byte_tokenizer).generate([one])[0]
        assert together[index].ids == alone.ids
        assert together[index].text == alone.text
        assert together[index].finish_reason == alone.finish_reason
        assert together[index].request == index


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(order=st.permutations(range(len(MIXED))), max_batch=st.integers(1, 9))
def test_order_and_batch_size_change_no_answer(tiny_model, byte_tokenizer, order, max_batch):
    engine = Engine(tiny_model, byte_tokenizer, max_batch=max_batch)
    shuffled = engine.generate([MIXED[i] for i in order])
    assert [ids(shuffled)[order.index(i)] for i in range(len(MIXED))] == ids(engine.generate(MIXED))


class CountingModel(torch.nn.Module):
    """Passes through to a model and notes the shape of each forward pass."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.config, self.shapes = model, model.config, []
        self.tok_embeddings, self.output = model.tok_embeddings, model.output

    def hidden(self, tokens, **rest):
        self.shapes.append(tuple(tokens.shape))
        return self.inner.hidden(tokens, **rest)


def test_samples_of_one_prompt_share_one_reading_and_equal_single_requests(tiny_model, byte_tokenizer):
    model = CountingModel(tiny_model)
    engine = Engine(model, byte_tokenizer)
    prompt = list(range(20))
    samples = engine.generate([request(prompt, n=6, temperature=1.0, seed=10, max_tokens=5)])
    assert model.shapes == [(20, 1), *[(6, 1)] * 4]
    alone = [engine.generate([request(prompt, temperature=1.0, seed=10 + i, max_tokens=5)])[0] for i in range(6)]
    assert ids(samples) == ids(alone)
    assert len(set(ids(samples))) > 1
    assert [sample.sample for sample in samples] == list(range(6))
    assert [sample.seed for sample in samples] == list(range(10, 16))


def test_equal_prompts_of_different_requests_are_read_once(tiny_model, byte_tokenizer):
    model = CountingModel(tiny_model)
    Engine(model, byte_tokenizer).generate([request([1, 2, 3], max_tokens=1, seed=i) for i in range(4)])
    assert model.shapes == [(3, 1)]


def test_finished_rows_leave_the_batch(tiny_model, byte_tokenizer):
    model = CountingModel(tiny_model)
    Engine(model, byte_tokenizer).generate([request([i], max_tokens=count) for i, count in enumerate([5, 1, 3, 5])])
    assert model.shapes == [(4, 1), (3, 1), (3, 1), (2, 1), (2, 1)]


def test_a_batch_is_bounded_in_rows_and_in_cache(tiny_model, byte_tokenizer):
    model = CountingModel(tiny_model)
    requests = [request([i], max_tokens=4) for i in range(10)]
    Engine(model, byte_tokenizer, max_batch=4).generate(requests)
    assert max(rows for rows, _ in model.shapes) == 4
    model.shapes.clear()
    bytes_for_two = Engine(model, byte_tokenizer).token_bytes * 2 * PAGE
    Engine(model, byte_tokenizer, max_cache_bytes=bytes_for_two).generate(requests)
    assert max(rows for rows, _ in model.shapes) == 2


def test_a_seed_is_drawn_when_none_is_given_and_repeats_the_sample(engine):
    first = engine.generate([request([5], temperature=1.0)])[0]
    again = engine.generate([request([5], temperature=1.0, seed=first.seed)])[0]
    other = engine.generate([request([5], temperature=1.0)])[0]
    assert first.ids == again.ids
    assert first.seed != other.seed


def test_a_stop_token_ends_the_answer_and_stays_in_the_ids_only(engine):
    free = engine.generate([request([5], temperature=1.0, seed=3)])[0]
    stop = free.ids[6]
    stopped = engine.generate([request([5], temperature=1.0, seed=3, stop_ids=(stop,))])[0]
    assert stopped.finish_reason == "stop"
    assert stopped.ids == free.ids[: free.ids.index(stop) + 1]
    assert stopped.text == engine.tokenizer.decode(stopped.ids[:-1])


def test_a_stop_token_in_the_prompt_hides_nothing(engine):
    prompt = [engine.tokenizer.eos_id, 5, engine.tokenizer.eos_id]
    assert len(engine.generate([request(prompt)])[0].ids) == 12


def test_a_stop_string_cuts_the_text_before_it(engine):
    free = engine.generate([request([5], temperature=1.0, seed=8, max_tokens=40)])[0]
    stop = free.text[10:13]  # three tokens or more
    stopped = engine.generate([request([5], temperature=1.0, seed=8, max_tokens=40, stop=(stop,))])[0]
    assert stopped.finish_reason == "stop"
    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.ids == free.ids[: len(stopped.ids)]
    assert stop in engine.tokenizer.decode(stopped.ids)


def test_the_tokenizers_stop_tokens_are_the_default(engine):
    wanted = SamplingConfig(max_tokens=100, temperature=3.0, seed=0, n=16)
    completions = engine.generate([Request(prompt_ids=[5], sampling=wanted)])
    stopped = [completion for completion in completions if completion.finish_reason == "stop"]
    assert stopped
    assert all(completion.ids.index(engine.tokenizer.eos_id) == len(completion.ids) - 1 for completion in stopped)


def test_a_cancelled_request_frees_its_row_and_keeps_what_it_had(tiny_model, byte_tokenizer):
    model = CountingModel(tiny_model)
    cancel = threading.Event()
    hidden, steps = model.hidden, iter(range(100))

    def cancelling(tokens, **rest):
        if next(steps) == 3:
            cancel.set()
        return hidden(tokens, **rest)

    model.hidden = cancelling
    requests = [request([1]), dataclasses.replace(request([2]), cancel=cancel)]
    kept, cancelled = Engine(model, byte_tokenizer).generate(requests)
    assert (kept.finish_reason, len(kept.ids)) == ("length", 12)
    assert (cancelled.finish_reason, len(cancelled.ids)) == ("cancelled", 4)
    assert model.shapes[4:] == [(1, 1)] * 8


def test_a_request_cancelled_before_it_starts_costs_no_pass(tiny_model, byte_tokenizer):
    model = CountingModel(tiny_model)
    cancel = threading.Event()
    cancel.set()
    done = Engine(model, byte_tokenizer).generate([dataclasses.replace(request([2]), cancel=cancel)])
    assert [(c.finish_reason, c.ids, c.text) for c in done] == [("cancelled", (), "")]
    assert model.shapes == []


@pytest.mark.parametrize(
    ("prompt", "changes", "message"),
    [
        ([], {}, "the prompt is empty"),
        ([1, 999], {}, "token id 999, but the model's vocabulary is 0 to 256"),
        ([-1], {}, "token id -1"),
        ([1] * 128, {}, "has 128 tokens, which leaves no room in the context of 128: shorten it by at least 1,"),
        (
            [1] * 120,
            {"max_tokens": 20},
            "120 tokens and max_tokens 20 exceed the context of 128: lower max_tokens to 8",
        ),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_in_one_line(engine, prompt, changes, message):
    with pytest.raises(ArrieroError, match=message) as caught:
        engine.generate([request([1]), request(prompt, **changes)])
    assert "\n" not in str(caught.value)
    with pytest.raises(ArrieroError, match=message):
        engine.stream(request(prompt, **changes))


def test_a_request_larger_than_the_cache_may_be_is_refused(tiny_model, byte_tokenizer):
    engine = Engine(tiny_model, byte_tokenizer, max_cache_bytes=1000)
    with pytest.raises(ArrieroError, match="bytes of KV cache, over max_cache_bytes 1,000"):
        engine.generate([request([1])])


def test_prompt_and_answer_may_fill_the_context_exactly(engine):
    assert len(engine.generate([request([1] * 100, max_tokens=28)])[0].ids) == 28


def test_no_requests_give_no_completions(engine):
    assert engine.generate([]) == []


def test_every_modules_mode_is_left_as_found(engine):
    engine.model.train()
    engine.model.layers[0].eval()
    before = [module.training for module in engine.model.modules()]
    engine.generate([request([5])])
    next(stream := engine.stream(request([5])))
    assert not any(module.training for module in engine.model.modules())
    stream.close()
    assert [module.training for module in engine.model.modules()] == before
    engine.model.eval()
