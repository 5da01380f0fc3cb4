"""Joined deltas are the completion's text, no delta holds half a character, and a closed stream stops the work."""

import dataclasses

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arriero.generate.engine import Request, SamplingConfig

BASE = SamplingConfig(max_tokens=60, temperature=1.0, seed=0)


def collect(engine, **changes):
    request = Request(prompt_ids=[5, 6], sampling=dataclasses.replace(BASE, **changes))
    return list(engine.stream(request)), engine.generate([request])


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(seed=st.integers(0, 2**31), stop=st.lists(st.sampled_from(["a", "xy", "�", "\n", "�z"]), max_size=2))
def test_joined_deltas_are_the_completion_that_generate_gives(engine, seed, stop):
    deltas, completions = collect(engine, seed=seed, stop=tuple(stop))
    assert "".join(delta.text for delta in deltas) == completions[0].text
    assert tuple(token for delta in deltas for token in delta.ids) == completions[0].ids
    assert deltas[-1].completion == completions[0]
    assert all(delta.completion is None for delta in deltas[:-1])


def test_without_stop_strings_the_text_is_the_tokenizers_decoding(engine):
    deltas, completions = collect(engine, stop_ids=())
    assert "".join(delta.text for delta in deltas) == engine.tokenizer.decode(completions[0].ids)


def test_each_sample_streams_its_own_text(engine):
    deltas, completions = collect(engine, n=3)
    for sample in range(3):
        mine = [delta for delta in deltas if delta.sample == sample]
        assert "".join(delta.text for delta in mine) == completions[sample].text
        assert mine[-1].completion == completions[sample]


def test_a_character_of_several_tokens_comes_whole(byte_tokenizer, tiny_model):
    from arriero.generate.row import open_rows

    ids = byte_tokenizer.encode("né 🦙 語")
    request = Request(prompt_ids=[1], sampling=dataclasses.replace(BASE, max_tokens=len(ids)))
    (row,) = open_rows(request, 0, byte_tokenizer, stream=True)
    deltas = []
    for token in ids:
        row.push(token)
        deltas.append(row.delta())
    shown = [delta.text for delta in deltas if delta is not None]
    assert "".join(shown) == "né 🦙 語"
    assert all("�" not in text for text in shown)


def test_closing_a_stream_stops_the_work(engine):
    request = Request(prompt_ids=[5], sampling=dataclasses.replace(BASE, stop_ids=()))
    calls = []
    handle = engine.model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    stream = engine.stream(request)
    assert calls == []
    next(stream)
    stream.close()
    made = len(calls)
    handle.remove()
    assert 0 < made < 60
    assert list(stream) == []


def test_log_probabilities_come_with_their_tokens(engine):
    sampling = SamplingConfig(max_tokens=8, logprobs=2)
    deltas = list(engine.stream(Request(prompt_ids=[1, 2, 3], sampling=sampling)))
    assert all(len(delta.logprobs or ()) == len(delta.ids) for delta in deltas)
    assert deltas[-1].completion is not None
    assert tuple(item for delta in deltas for item in delta.logprobs or ()) == deltas[-1].completion.logprobs
