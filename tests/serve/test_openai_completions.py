"""Texts and token ids continued; log-probabilities of prompt and answer equal those of one forward pass."""

import pytest
import torch

from arriero.generate.engine import Engine

PATH = "/v1/completions"
TEXT = "the llamas carry"


def complete(http, prompt, **fields) -> dict:
    answer = http.post(PATH, json={"prompt": prompt, "temperature": 0, "max_tokens": 6} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def log_softmax(live, ids) -> torch.Tensor:
    """(T, V), of a model's one forward pass on another thread's weights, which nobody writes."""
    with torch.inference_mode():
        return live.model(torch.tensor([ids])).float().log_softmax(-1)[0]


def test_text_token_ids_and_lists_say_the_same(http, client, live, service):
    ids = live.tokenizer.encode(TEXT)
    text = client.completions.create(model=service.default_model, prompt=TEXT, temperature=0, max_tokens=6)
    expected = text.choices[0].text
    assert text.object == "text_completion"
    assert complete(http, ids)["choices"][0]["text"] == expected
    for prompts in ([TEXT, "rain"], [ids, live.tokenizer.encode("rain")]):
        listed = complete(http, prompts, n=2)["choices"]
        assert [choice["index"] for choice in listed] == [0, 1, 2, 3]
        assert [choice["text"] for choice in listed[:2]] == [expected] * 2
        assert listed[2]["text"] == listed[3]["text"] == complete(http, "rain")["choices"][0]["text"]


def test_a_prompt_is_counted_once_however_many_answers_it_gets(http):
    usage = complete(http, [TEXT, "rain"], n=2, ignore_eos=True)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (len(TEXT) + 4, 24)


def test_sixteen_tokens_where_nothing_is_said(http):
    answer = http.post(PATH, json={"prompt": TEXT, "ignore_eos": True}).json()
    assert answer["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize("as_ids", [False, True])
def test_an_echo_has_the_log_probabilities_of_one_forward_pass(http, live, as_ids):
    ids = live.tokenizer.encode(TEXT)
    choice = complete(http, ids if as_ids else TEXT, echo=True, logprobs=2, max_tokens=1, ignore_eos=True)["choices"][0]
    assert choice["text"].startswith(TEXT)
    told = choice["logprobs"]
    assert told["tokens"][: len(ids)] == list(TEXT)
    assert len(told["tokens"]) == len(told["token_logprobs"]) == len(told["top_logprobs"]) == len(ids) + 1
    assert told["text_offset"] == list(range(len(ids) + 1))
    assert (told["token_logprobs"][0], told["top_logprobs"][0]) == (None, None)
    rows = log_softmax(live, ids)
    expected = [float(rows[at, token]) for at, token in enumerate(ids[1:])]
    assert told["token_logprobs"][1 : len(ids)] == pytest.approx(expected, abs=1e-4)
    for place, top in enumerate(told["top_logprobs"][1:]):
        assert max(top.values()) == pytest.approx(float(rows[place].max()), abs=1e-4)
    assert told["token_logprobs"][-1] == pytest.approx(float(rows[-1].max()), abs=1e-4)  # greedy


def test_an_echo_alone_adds_nothing(http):
    answer = complete(http, TEXT, echo=True, logprobs=1, max_tokens=0)
    assert answer["choices"][0]["text"] == TEXT
    assert len(answer["choices"][0]["logprobs"]["tokens"]) == len(TEXT)
    assert answer["usage"]["completion_tokens"] == 0


def test_the_chosen_token_is_among_the_likeliest(http):
    for count in (0, 3):
        told = complete(http, TEXT, logprobs=count, temperature=1.5, seed=4)["choices"][0]["logprobs"]
        for token, logprob, top in zip(told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True):
            assert top[token] == logprob
            assert count <= len(top) <= count + 1 or count == 3  # two tokens may read alike


def test_a_stream_joined_is_the_whole(client, service):
    asked = {"model": service.default_model, "prompt": [TEXT, "rain"], "max_tokens": 6, "seed": 2, "logprobs": 1}
    whole = client.completions.create(**asked)
    texts, tokens = ["", ""], [[], []]
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    for chunk in chunks[:-1]:
        choice = chunk.choices[0]
        texts[choice.index] += choice.text
        tokens[choice.index] += choice.logprobs.tokens if choice.logprobs else []
    assert texts == [choice.text for choice in whole.choices]
    assert tokens == [choice.logprobs.tokens for choice in whole.choices]
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_a_streamed_echo_comes_first(client, service):
    asked = {"model": service.default_model, "prompt": TEXT, "max_tokens": 3, "temperature": 0, "echo": True}
    chunks = list(client.completions.create(**asked, stream=True))
    assert chunks[0].choices[0].text == TEXT
    joined = "".join(chunk.choices[0].text for chunk in chunks)
    assert joined == client.completions.create(**asked).choices[0].text


def test_an_empty_text_is_continued_from_the_beginning(http, live):
    answer = complete(http, "")
    assert answer["usage"]["prompt_tokens"] == 1
    assert answer["choices"][0]["text"] == complete(http, [live.tokenizer.bos_id])["choices"][0]["text"]


def test_a_prompt_that_was_read_before_comes_from_the_cache(http):
    long = "llamas carry wool over the pass, " * 4
    complete(http, long)
    told = complete(http, long)["usage"]
    assert 0 < told["prompt_tokens_details"]["cached_tokens"] < told["prompt_tokens"]


def test_a_live_engine_is_what_an_engine_is(http, tiny_model):
    from arriero.generate.request import Request
    from arriero.generate.sampling_config import SamplingConfig

    engine = Engine.load(str(tiny_model), device="cpu")
    sampling = SamplingConfig(max_tokens=6)
    (expected,) = engine.generate([Request(prompt_ids=engine.tokenizer.encode(TEXT), sampling=sampling)])
    assert complete(http, TEXT)["choices"][0]["text"] == expected.text
