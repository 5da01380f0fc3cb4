"""Requests that cannot be served: OpenAI's error shape, the field named, nothing of the server's inside."""

import dataclasses
import threading

import openai
import pytest
from pydantic import ValidationError

from arriero.generate.request import Request
from arriero.generate.sampling_config import SamplingConfig
from arriero.serve.chat_schema import ChatRequest
from arriero.serve.errors import as_api_error, name_field

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
HELLO = {"messages": [{"role": "user", "content": "hello"}]}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}


def message(**fields) -> dict:
    return {"messages": [{"role": "user", "content": "hello"} | fields]}


@pytest.mark.parametrize(
    ("path", "body", "param", "says"),
    [
        (CHAT, {}, "messages", "required"),
        (CHAT, {"messages": []}, "messages", "at least 1"),
        (CHAT, {"messages": "hello"}, "messages", "list"),
        (CHAT, message(role="robot"), "messages[0].role", "'assistant'"),
        (CHAT, message(content=None), "messages[0].content", "string"),
        (CHAT, message(content=[IMAGE]), "messages[0].content[0].type", "images are not supported"),
        (CHAT, message(tool_calls=[{}]), "messages[0].tool_calls", "not supported"),
        (CHAT, message(colour="red"), "messages[0].colour", "unknown field"),
        (CHAT, HELLO | {"tools": [{"type": "function"}]}, "tools", "not supported"),
        (CHAT, HELLO | {"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        (CHAT, HELLO | {"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
        (CHAT, HELLO | {"presence_penalty": 0.5}, "presence_penalty", "not supported"),
        (CHAT, HELLO | {"temprature": 1}, "temprature", "unknown field"),
        (CHAT, HELLO | {"top-p": 1}, "top-p", "unknown field top-p"),
        (CHAT, message(str=1), "messages[0].str", "unknown field"),
        (CHAT, HELLO | {"metadata": {str(i): "" for i in range(17)}}, "metadata", "16"),
        (CHAT, HELLO | {"temperature": "1"}, "temperature", "number"),
        (CHAT, HELLO | {"temperature": 3}, "temperature", "less than or equal to 2"),
        (CHAT, HELLO | {"top_p": 0}, "top_p", "greater than 0"),
        (CHAT, HELLO | {"n": 0}, "n", "greater than or equal to 1"),
        (CHAT, HELLO | {"n": True}, "n", "integer"),
        (CHAT, HELLO | {"max_tokens": 0}, "max_tokens", "greater"),
        (CHAT, HELLO | {"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "differ"),
        (CHAT, HELLO | {"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
        (CHAT, HELLO | {"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
        (CHAT, HELLO | {"stop": ""}, "stop[0]", "at least 1"),
        (CHAT, HELLO | {"stop": ["x"] * 17}, "stop", "16"),
        (CHAT, HELLO | {"stream_options": {"usage": True}}, "stream_options.usage", "unknown field"),
        (CHAT, HELLO | {"model": "gpt-4"}, "model", "no model 'gpt-4'"),
        (CHAT, HELLO | {"model": "arriero:none"}, "model", "no collection 'none'"),
        (CHAT, message(content="x" * 300), "messages", "exceed the context of 256"),
        (CHAT, HELLO | {"max_tokens": 250}, "messages", "ask for fewer"),
        (COMPLETIONS, {"prompt": "x", "suffix": "y"}, "suffix", "not supported"),
        (COMPLETIONS, {"prompt": "x", "best_of": 2}, "best_of", "not supported"),
        (COMPLETIONS, {"prompt": ["x", 1]}, "prompt", "list of token ids"),
        (COMPLETIONS, {"prompt": []}, "prompt", "none of them empty"),
        (COMPLETIONS, {"prompt": [-1]}, "prompt", "token ids"),
        (COMPLETIONS, {"prompt": [261]}, "prompt", "vocabulary of 0 to 260"),
        (COMPLETIONS, {"prompt": [[1], [999]]}, "prompt[1]", "vocabulary"),
        (COMPLETIONS, {"prompt": "x" * 300}, "prompt", "context of 256"),
        (COMPLETIONS, {"prompt": "x", "max_tokens": 0}, "max_tokens", "echo"),
        (COMPLETIONS, {"prompt": "x", "echo": True, "logprobs": 1, "stream": True}, "stream", "cannot be streamed"),
        (EMBEDDINGS, {"input": [1, 2]}, "input", "token ids are not supported"),
        (EMBEDDINGS, {"input": []}, "input", "at least 1"),
        (EMBEDDINGS, {"input": ["x", ""]}, "input[1]", "at least 1"),
        (EMBEDDINGS, {"input": "x", "dimensions": 3}, "dimensions", "has 16"),
        (EMBEDDINGS, {"input": "x", "encoding_format": "hex"}, "encoding_format", "'base64'"),
        (EMBEDDINGS, {"input": "x", "model": "ada"}, "model", "no encoder 'ada'"),
        (EMBEDDINGS, {"input": ["rain", "rain " * 600]}, "input[1]", "reads 128"),
        ("/v1/load_lora_adapter", {"lora_name": "a b", "lora_path": "x"}, "lora_name", "pattern"),
        ("/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "../.."}, "lora_path", "no adapter"),
        ("/v1/unload_lora_adapter", {"lora_name": "a"}, "lora_name", "no adapter 'a'"),
    ],
)
def test_the_field_is_named(http, path, body, param, says):
    answer = http.post(path, json=body)
    assert answer.status_code in (400, 404), answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert says in error["message"]
    assert "\n" not in error["message"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b"[" * 50_000, b'{"n": ' + b"9" * 5_000 + b"}"],
)
def test_a_body_that_is_no_object_is_refused(http, body):
    answer = http.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "messages[0].content"),
        (b'{"messages": [{"role": "user", "content": "x", "\\ud800": 1}]}', "messages[0]"),
        (b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}', "temperature"),
        (b'{"messages": [{"role": "user", "content": "x"}], "model": "\\ud800"}', "model"),
    ],
)
def test_text_that_is_no_unicode_and_numbers_that_are_none_are_refused(http, body, param):
    answer = http.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["param"] == param


NEUTRAL = [
    {"tools": []},
    {"tools": None},
    {"presence_penalty": 0.0},
    {"logit_bias": {}},
    {"response_format": {"type": "text"}},
    {"tool_choice": "none"},
    {"user": "me"},
    {"store": False},
    {"n": None},
]


@pytest.mark.parametrize("neutral", NEUTRAL)
def test_what_asks_for_nothing_is_taken(http, neutral):
    assert http.post(CHAT, json=HELLO | {"max_tokens": 1} | neutral).status_code == 200


def test_openais_client_raises_its_own_errors(client):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="", messages=[], temperature=9)
    assert refused.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4", messages=HELLO["messages"])
    assert missing.value.code == "model_not_found"


def test_unknown_paths_and_methods_are_told_in_the_same_shape(http):
    assert http.get("/v1/none").json()["error"]["message"] == "there is no GET /v1/none"
    assert http.get(CHAT).status_code == 405
    assert http.get(CHAT).json()["error"]["message"] == f"GET {CHAT} is not allowed"


def test_of_a_defect_a_client_learns_nothing_but_that_there_is_one(http, service, monkeypatch):
    monkeypatch.setattr(service, "models", {"broken": None})
    answer = http.post(CHAT, json=HELLO)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "NoneType" not in answer.text
    assert as_api_error(RuntimeError("secret")).message.count("secret") == 0


def test_a_full_queue_is_503_with_a_time_to_try_again(http, live, stalled, monkeypatch):
    monkeypatch.setattr(live, "max_waiting", 1 - live.engine.max_batch)
    with stalled():
        waiting = threading.Event()
        live.submit(Request(prompt_ids=[1], sampling=SamplingConfig(max_tokens=1), cancel=waiting), lambda delta: None)
        answer = http.post(CHAT, json=HELLO)
        waiting.set()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["code"] == "queue_full"


@pytest.mark.parametrize(("path", "body"), [(CHAT, HELLO | {"n": 2}), (COMPLETIONS, {"prompt": ["x", "y"]})])
def test_more_answers_than_the_server_ever_takes_are_no_reason_to_try_again(http, live, monkeypatch, path, body):
    monkeypatch.setattr(live, "max_waiting", 1 - live.engine.max_batch)
    answer = http.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "too_many")


def test_a_request_that_takes_too_long_is_ended(http, live, service, stalled, monkeypatch):
    monkeypatch.setattr(service, "settings", dataclasses.replace(service.settings, request_timeout_s=0.05))
    with stalled():
        answer = http.post(CHAT, json=HELLO)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
        streamed = http.post(CHAT, json=HELLO | {"stream": True})
        assert '"code": "timeout"' in streamed.text
        assert not streamed.text.endswith("[DONE]\n\n")
    assert live.generate([]) == []


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (("messages", 0, "content"), "messages[0].content"),
        (("messages", 0, "content", "list[TextPart]", 1, "type"), "messages[0].content[1].type"),
        (("prompt", "str"), "prompt"),
        ((), None),
    ],
)
def test_a_place_is_told_as_it_is_written(place, name):
    assert name_field(place) == name


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [1] * 300_000},
        {"messages": [{"role": "user", "content": [1] * 9000}] * 100},
        HELLO | {f"a{i}": 1 for i in range(300_000)},
        HELLO | {"metadata": {str(i): 1 for i in range(300_000)}},
    ],
    ids=["messages", "parts", "unknown", "metadata"],
)
def test_of_a_body_full_of_faults_one_is_told(body):
    with pytest.raises(ValidationError) as told:
        ChatRequest.model_validate(body)
    assert told.value.error_count() <= 10_000  # of the first message's parts
