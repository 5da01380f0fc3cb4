"""Answers end to end, with an engine that says what the test wants."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from arriero.common.errors import ArrieroError
from arriero.generate.request import Completion, Delta, Request
from arriero.generate.sampling_config import SamplingConfig
from arriero.parsers.document import Document, Section
from arriero.rag.answer import REFUSAL, Answer, ask, retrieve, stream_answer
from arriero.rag.answer_config import AnswerConfig
from arriero.rag.collection import Collection
from arriero.rag.prompt import Turn

DOCUMENTS = [
    Document("llamas.pdf", (Section("Llamas carry wool over the mountains of Peru.", page=7, title="Animals"),)),
    Document("ships.txt", (Section("The ship left the port of Callao in 1912 with 2,000 people."),)),
    Document("rain.txt", (Section("Rain falls on the green hills in winter."),)),
]

EASY = AnswerConfig(threshold=-1)  # random directions of words are no measure of what can be answered


class ScriptedEngine:
    """Says the same to every prompt, three characters a token, and remembers what it was asked."""

    def __init__(self, tokenizer, says: str, context: int = 4000) -> None:
        self.tokenizer, self.says, self.context = tokenizer, says, context
        self.requests: list[Request] = []

    def stream(self, request: Request) -> Iterator[Delta]:
        self.requests.append(request)
        pieces = [self.says[at : at + 3] for at in range(0, len(self.says), 3)]
        for number, text in enumerate(pieces):
            stopped = request.cancel is not None and request.cancel.is_set()
            done = None
            if stopped or number == len(pieces) - 1:
                done = Completion(
                    request=0,
                    sample=0,
                    ids=tuple(range(number + 1)),
                    text="".join(pieces[: number + 1]),
                    finish_reason="cancelled" if stopped else "stop",
                    logprobs=None,
                    prompt_tokens=len(request.prompt_ids),
                    seed=0,
                )
            yield Delta(request=0, sample=0, text=text, ids=(number,), completion=done)
            if stopped:
                return

    def prompt(self) -> str:
        return self.tokenizer.decode(self.requests[-1].prompt_ids)


@pytest.fixture
def encoder(encoder):
    encoder.dim = 512  # in few dimensions the directions of unrelated words are not far enough from right angles
    return encoder


@pytest.fixture
def collection(tmp_path, encoder) -> Iterator[Collection]:
    with Collection.open(tmp_path / "collection", encoder) as opened:
        opened.add_documents(DOCUMENTS)
        yield opened


@pytest.fixture
def engine(byte_tokenizer):
    return lambda says, **more: ScriptedEngine(byte_tokenizer, says, **more)


def test_an_answer_cites_what_supports_it(collection, engine):
    answer = ask(collection, engine("Llamas carry wool over the mountains [3]."), "What do llamas carry?", EASY)
    assert answer.text == "Llamas carry wool over the mountains. [1]"
    assert (answer.grounded, answer.refused, answer.finish_reason) == ("full", False, "stop")
    (citation,) = answer.citations
    assert citation.place == "llamas.pdf, page 7, Animals"
    assert citation.quote == "Llamas carry wool over the mountains of Peru."


def test_what_no_passage_supports_is_said_to_be_so(collection, engine):
    answer = ask(collection, engine("Llamas carry gold to Chile."), "What do llamas carry?", EASY)
    assert (answer.text, answer.citations, answer.grounded) == ("Llamas carry gold to Chile.", (), "none")


@pytest.mark.parametrize("question", ["你好吗 llamas?", "WHICH  Llamas\tcarry?", "llamas [1] <|im_end|>"])
def test_the_model_sees_the_question_as_typed(collection, engine, question):
    model = engine("x")
    ask(collection, model, question, EASY)
    assert f"Question: {question}" in model.prompt()


def test_a_question_far_from_every_document_is_refused_without_the_model(collection, engine):
    model = engine("never said")
    answer = ask(collection, model, "zebra quantum xylophone", AnswerConfig(threshold=0.9))
    assert (answer.text, answer.refused, answer.citations, answer.finish_reason) == (REFUSAL, True, (), "refused")
    assert model.requests == []


def test_an_empty_collection_refuses(tmp_path, encoder, engine):
    with Collection.open(tmp_path / "empty", encoder) as empty:
        empty.add_documents([])
        assert ask(empty, engine("x"), "why?").refused


def test_after_removal_a_document_is_neither_shown_nor_cited(collection, engine):
    collection.remove(["llamas.pdf"])
    model = engine("Llamas carry wool over the mountains of Peru.")
    answer = ask(collection, model, "What do llamas carry?", EASY)
    assert answer.citations == ()
    assert "Llamas carry wool over" not in model.prompt()
    assert all(hit.passage.document != "llamas.pdf" for hit in answer.passages)


def test_the_pieces_of_a_stream_join_to_the_answer(collection, engine):
    says = "Llamas carry wool over the mountains. They fly [2]. The ship left the port of Callao in 1912."
    *pieces, answer = stream_answer(collection, engine(says), "What do llamas carry in 1912?", EASY)
    assert isinstance(answer, Answer)
    assert "".join(pieces) == answer.text
    assert answer.text == (
        "Llamas carry wool over the mountains. [1] They fly. The ship left the port of Callao in 1912. [2]"
    )
    assert len(pieces) > 1
    assert answer.grounded == "partial"


def test_only_passages_of_the_prompt_are_in_the_answer(collection, engine):
    model = engine("x")
    answer = ask(collection, model, "llamas carry wool", AnswerConfig(threshold=-1, sentences=1))
    assert [hit.passage.document for hit in answer.passages] == ["llamas.pdf"]
    assert "Rain" not in model.prompt()


def test_whole_passages_where_asked(collection, engine):
    model = engine("x")
    answer = ask(collection, model, "llamas carry wool", AnswerConfig(threshold=-1, sentences=0))
    assert len(answer.passages) == 3
    assert "Rain falls" in model.prompt()


def test_the_k_of_the_call_holds(collection, engine):
    assert len(ask(collection, engine("x"), "wool", AnswerConfig(threshold=-1, k=2, sentences=0)).passages) == 2
    assert len(ask(collection, engine("x"), "wool", AnswerConfig(threshold=-1, k=50, sentences=0)).passages) == 3


def test_filters_that_no_document_matches_are_an_error_and_no_refusal(collection, engine):
    with pytest.raises(ArrieroError, match=r"no document matches document=absent\.txt"):
        ask(collection, engine("x"), "wool", EASY, filters={"document": "absent.txt"})


def test_filters_choose_documents(collection, engine):
    answer = ask(
        collection, engine("x"), "wool", AnswerConfig(threshold=-1, sentences=0), filters={"document": "rain.txt"}
    )
    assert [hit.passage.document for hit in answer.passages] == ["rain.txt"]


def test_an_answer_can_be_stopped(collection, engine):
    stop = threading.Event()
    stop.set()
    *_, answer = stream_answer(collection, engine("Llamas carry wool."), "llamas carry wool", cancel=stop)
    assert (answer.finish_reason, answer.text) == ("cancelled", "Lla")


def test_a_follow_up_is_searched_with_the_question_before_it(collection):
    config = AnswerConfig(k=1)
    history = [Turn("When did the ship leave the port of Callao?", "In 1912.")]
    found = retrieve(collection, "With how many people?", config, history=history)
    assert (found.hits[0].passage.document, found.is_follow_up) == ("ships.txt", True)
    own = retrieve(collection, "What do llamas carry over the mountains of Peru?", config, history=history)
    assert (own.hits[0].passage.document, own.is_follow_up) == ("llamas.pdf", False)


def test_another_subject_is_no_follow_up_and_is_refused(collection, engine):
    history = [Turn("When did the ship leave the port of Callao?", "In 1912.")]
    question = "Who painted Mona Lisa, what museum owns it, why does nobody steal it, what might it cost?"
    assert not retrieve(collection, question, AnswerConfig(), history=history).is_follow_up
    assert ask(collection, engine("In 1912."), question, history=history).refused


def test_the_turn_before_is_in_the_prompt_of_a_follow_up_alone(collection, engine):
    model = engine("x")
    history = [Turn("Who sings?", "Nobody."), Turn("When did the ship leave the port of Callao?", "In 1912.")]
    ask(collection, model, "With how many people?", EASY, history=history)
    assert "leave the port of Callao?" in model.prompt()
    assert "Who sings?" not in model.prompt()
    assert "Question: With how many people?\n" in model.prompt()
    ask(collection, model, "What do llamas carry over the mountains of Peru?", EASY, history=history)
    assert "In 1912" not in model.prompt()


def test_a_model_that_repeats_itself_is_stopped(collection, engine):
    answer = ask(collection, engine("Llamas carry wool over the mountains. " * 50), "What do llamas carry?", EASY)
    assert answer.text == "Llamas carry wool over the mountains. [1]"
    assert answer.finish_reason == "repetition"
    assert answer.completion_tokens < 40


def test_a_small_context_still_answers(collection, engine):
    model = engine("x", context=450)
    ask(collection, model, "llamas carry wool", EASY)
    request = model.requests[-1]
    assert len(request.prompt_ids) + request.sampling.max_tokens <= 450


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question_is_refused_by_name(collection, engine, question):
    with pytest.raises(ArrieroError, match="the question is empty"):
        ask(collection, engine("x"), question)


def test_a_question_too_long_for_the_model_is_refused_by_name(collection, engine):
    with pytest.raises(ArrieroError, match="the question takes"):
        ask(collection, engine("x"), "llamas carry wool " * 500, EASY)


def test_a_collection_of_another_encoder_is_refused_by_both_names(tmp_path, collection, other_encoder, engine):
    with (
        Collection.open(collection.folder, other_encoder) as other,
        pytest.raises(ArrieroError, match=r"'words'.*'other words'"),
    ):
        ask(other, engine("x"), "llamas?")


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"k": 0}, {"sentences": -1}, {"sampling": SamplingConfig(n=2)}):
        with pytest.raises(ArrieroError):
            replace(AnswerConfig(), **wrong)


def test_the_json_form_holds_everything(collection, engine):
    answer = ask(collection, engine("Llamas carry wool over the mountains."), "What do llamas carry?", EASY)
    plain = json.loads(json.dumps(answer.to_dict()))
    assert plain["citations"][0]["quote"] == "Llamas carry wool over the mountains of Peru."
    assert plain["passages"][0]["text"]
    assert set(plain) == {
        *("question", "text", "citations", "passages", "refused", "grounded", "finish_reason"),
        *("prompt_tokens", "completion_tokens"),
    }
