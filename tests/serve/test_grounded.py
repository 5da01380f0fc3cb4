"""Chats with a collection: the answer of `arriero rag ask`, its sources, and what does not go with documents."""

import dataclasses
import threading

import pytest
from fastapi.testclient import TestClient

from arriero.rag.answer import REFUSAL, ask
from arriero.rag.answer_config import AnswerConfig
from arriero.rag.collection import Collection
from arriero.serve.app import create_app
from arriero.serve.service import Service
from arriero.serve.settings import ServeSettings
from tests.serve.conftest import DOCUMENTS

QUESTION = [{"role": "user", "content": "who carry wool"}]
ANY = {"threshold": -1.0}
SHORT = 24
"""Tokens of an answer: a token is a byte, and the model takes 256 of them in all."""
PATH = "/v1/chat/completions"


def test_an_answer_tells_what_it_stands_on(client, service):
    answer = client.chat.completions.create(
        model="arriero:notes", messages=QUESTION, max_tokens=SHORT, extra_body={"arriero": ANY}
    )
    sources = answer.arriero
    assert sources["collection"] == "notes"
    assert sources["refused"] is False
    assert {passage["document"] for passage in sources["passages"]} <= DOCUMENTS.keys()
    shares = [passage["posterior"] for passage in sources["passages"]]
    assert sum(shares) == pytest.approx(1)
    assert len(shares) > 1
    assert {"passage_id", "page", "section", "text", "score"} <= sources["passages"][0].keys()
    assert answer.model == "arriero:notes"
    assert answer.usage.completion_tokens > 0
    live = service.models[service.default_model]
    default = AnswerConfig()
    sampling = dataclasses.replace(default.sampling, max_tokens=SHORT)
    config = dataclasses.replace(default, threshold=-1.0, sampling=sampling)
    expected = ask(service.collection("notes").collection, live, "who carry wool", config)
    assert answer.choices[0].message.content == expected.text
    assert sources["grounded"] == expected.grounded


def test_a_stream_joined_is_the_answer_and_its_end_has_the_sources(client, service):
    grounded = {"arriero": ANY | {"collection": "notes"}}
    asked = {"model": service.default_model, "messages": QUESTION, "max_tokens": SHORT, "extra_body": grounded}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-2].arriero == whole.arriero
    assert all("arriero" not in chunk.model_extra for chunk in chunks[:-2])
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_what_the_documents_do_not_say_is_refused(client):
    far = {"arriero": {"threshold": 1e6, "k": 2}}
    answer = client.chat.completions.create(model="arriero:notes", messages=QUESTION, extra_body=far)
    assert answer.choices[0].message.content == REFUSAL
    assert (answer.arriero["refused"], answer.arriero["grounded"], answer.arriero["citations"]) == (True, "none", [])
    assert len(answer.arriero["passages"]) == 2


def test_a_talk_goes_on_under_an_instruction(client):
    talk = [{"role": "system", "content": "Answer like a pirate."}, *QUESTION]
    talk += [{"role": "assistant", "content": "Llamas do. [1]"}, {"role": "user", "content": "what else"}]
    answer = client.chat.completions.create(
        model="arriero:notes", messages=talk, max_tokens=SHORT, extra_body={"arriero": ANY}
    )
    assert answer.arriero["refused"] is False


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"messages": [*QUESTION, {"role": "system", "content": "x"}, *QUESTION]}, "messages[1].role"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [*QUESTION, {"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages[0].content"),
        ({"arriero": {"collection": "other"}}, "arriero.collection"),
        ({"arriero": {"model": "none"}}, "arriero.model"),
        ({"arriero": {"k": 0}}, "arriero.k"),
        ({"arriero": {"retrieval": "best"}}, "arriero.retrieval"),
        ({"arriero": {"depth": 3}}, "arriero.depth"),
        ({"model": "arriero:none"}, "model"),
        ({"model": None, "arriero": {"collection": "none"}}, "arriero.collection"),
        ({"model": None, "arriero": {"collection": "notes", "model": "x"}}, "arriero.model"),
    ],
)
def test_what_does_not_go_with_documents_is_named(http, change, param):
    answer = http.post(PATH, json={"model": "arriero:notes", "messages": QUESTION} | change)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["param"] == param


def test_a_question_too_many_is_503(http, service, monkeypatch):
    monkeypatch.setattr(service, "questions", threading.Semaphore(0))
    answer = http.post(PATH, json={"model": "arriero:notes", "messages": QUESTION})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_a_question_that_takes_too_long_is_ended(http, service, live, stalled, monkeypatch):
    monkeypatch.setattr(service, "settings", dataclasses.replace(service.settings, request_timeout_s=0.2))
    asked = {"model": "arriero:notes", "messages": QUESTION, "max_tokens": SHORT, "arriero": ANY}
    with stalled():
        assert http.post(PATH, json=asked).json()["error"]["code"] == "timeout"
    monkeypatch.undo()
    assert http.post(PATH, json=asked).status_code == 200


@pytest.mark.weights
@pytest.mark.slow
def test_the_default_model_answers_from_a_document_with_its_quote(smollm2_gguf, minilm_folder, tmp_path):
    (tmp_path / "caravan.txt").write_text("The caravan reached Potosí in 1612. It carried the silver of the mint.")
    with Collection.open(tmp_path / "collections" / "andes", minilm_folder) as collection:
        collection.add(tmp_path / "caravan.txt")
    settings = ServeSettings(models=(str(smollm2_gguf),), collections=tmp_path / "collections", device="cpu")
    service = Service.load(settings)
    asked = {"model": "arriero:andes", "messages": [{"role": "user", "content": "When did it reach Potosí?"}]}
    with TestClient(create_app(service), base_url="http://localhost") as http:
        answer = http.post(PATH, json=asked).json()
    service.close()
    assert "1612 [1]" in answer["choices"][0]["message"]["content"].replace('"', "").replace(".", "")
    (citation,) = answer["arriero"]["citations"]
    assert (citation["marker"], citation["document"]) == (1, "caravan.txt")
    assert citation["quote"] == "The caravan reached Potosí in 1612."
    assert answer["arriero"]["grounded"] == "full"
