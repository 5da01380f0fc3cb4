"""An evaluation answers every question by every system, goes on where it was stopped, and sums up with intervals."""

import pytest

from arriero.common.errors import ArrieroError, FormatError
from arriero.rag.evaluation import choose_questions, does_answer, evaluate
from arriero.rag.evaluation_config import EvaluationConfig
from arriero.rag.evaluation_records import SYSTEMS, Record, read_records
from arriero.rag.evaluation_summary import summarise
from arriero.rag.generator import RagDocument, RagPrompt
from arriero.rag.questions import Question
from tests.rag.toy_generator import STOP, ToyGenerator

QUESTIONS = [
    Question(id="1", question="what do llamas carry", answers=("wool",)),
    Question(id="2", question="what is bread baked from", answers=("flour",)),
    Question(id="3", question="where do whales sing", answers=()),
    Question(id="4", question="why do stars shine", answers=("a word that is nowhere",)),
]


class Reader(ToyGenerator):
    """Says 'wool' or 'flour' where it reads the word, and nothing else."""

    vocabulary = ("", "wool", "flour")

    def __init__(self) -> None:
        super().__init__(vocab_size=3)
        self.asked = 0

    def prompt(self, question: str, document: RagDocument | None, *, reserve: int) -> RagPrompt:
        self.asked += 1
        return super().prompt(question, document, reserve=reserve)

    def pieces(self, ids):
        return [self.vocabulary[token] for token in ids]

    def logits(self, prompt, answer):
        logits = super().logits(prompt, answer)
        read = bytes(prompt.ids).decode()
        for token, word in enumerate(self.vocabulary):
            if token != STOP and word in read and not answer:
                logits[token] += 30
        logits[STOP] += 15 if answer else -30
        return logits


@pytest.fixture
def filled(collection, docs):
    collection.add(docs)
    return collection


def run(collection, generator, folder, questions=QUESTIONS, **settings):
    config = EvaluationConfig(**({"max_tokens": 3} | settings))
    return evaluate(collection, generator, questions, config, k=2, scale=1.0, records=folder / "questions.jsonl")


def test_every_system_answers_what_can_be_answered_and_nothing_else(filled, tmp_path):
    records = run(filled, Reader(), tmp_path)
    assert [record.question for record in records] == [question.question for question in QUESTIONS]
    first = records[0]
    assert tuple(first.given) == SYSTEMS
    for system in ("retrieve-then-read", "concatenated", "rag-sequence", "rag-token"):
        assert first.given[system].text == "wool"
        assert (first.given[system].em, first.given[system].f1) == (1, 1)
    assert first.rank == 1
    assert sum(read.prior for read in first.documents) == pytest.approx(1)
    assert sum(first.given["rag-sequence"].posterior) == pytest.approx(1)
    assert 0.9 < first.given["rag-sequence"].faithfulness <= 1.0001
    assert records[2].given == {}
    assert records[3].rank is None


def test_an_evaluation_that_was_stopped_goes_on_and_comes_to_the_same(filled, tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = run(filled, Reader(), tmp_path / "whole")
    run(filled, Reader(), tmp_path / "parts", limit=2)
    with (tmp_path / "parts" / "questions.jsonl").open("a") as file:
        file.write('{"id": "3", "quest')  # a kill in the middle of a line
    reader = Reader()
    assert run(filled, reader, tmp_path / "parts") == whole
    assert 0 < reader.asked < 30
    assert read_records(tmp_path / "parts" / "questions.jsonl") == whole
    with pytest.raises(ArrieroError, match="holds other questions"):
        run(filled, Reader(), tmp_path / "parts", questions=QUESTIONS[1:])


def test_the_summary_counts_recall_answers_gains_and_refusals(filled, tmp_path):
    records = run(filled, Reader(), tmp_path)
    summary = summarise(records, SYSTEMS, k=2, threshold=0.3)
    assert (summary.questions, summary.answerable) == (4, 3)
    assert summary.recall[1].mean == pytest.approx(2 / 3)
    assert summary.in_context.mean == pytest.approx(2 / 3)
    by_name = {one.name: one for one in summary.systems}
    assert by_name["closed-book"].em_gain is None
    assert by_name["retrieve-then-read"].em.mean == pytest.approx(2 / 3)
    assert by_name["retrieve-then-read"].em_gain.mean == pytest.approx(
        by_name["retrieve-then-read"].em.mean - by_name["closed-book"].em.mean
    )
    assert by_name["rag-token"].faithfulness is not None
    assert summary.refusals.unanswerable == 1
    nothing = summarise(run(filled, Reader(), tmp_path / "..", limit=1), ("rag-token",), k=2, threshold=0.3)
    assert nothing.questions == 1


def test_a_passage_answers_if_it_holds_the_answer_and_is_of_the_paragraph():
    question = Question(id="1", question="?", answers=("30 kg",), context="Llamas carry\n30 kg. They are tall.")
    assert does_answer("Llamas carry 30 kg.", question)
    assert not does_answer("Mules carry 30 kg.", question)
    assert not does_answer("They are tall.", question)
    assert does_answer("before. Llamas carry 30 kg. They are tall. after", question)


def test_a_passage_may_begin_and_end_within_paragraphs():
    context = "In winter the llamas of this valley carry loads of thirty kilos and more over the pass to the salt lake."
    question = Question(id="1", question="?", answers=("salt",), context=context)
    assert does_answer("of thirty kilos and more over the pass to the salt lake. Bread is baked from salt.", question)
    assert not does_answer("Bread is baked from flour, water and salt, in the hot oven of this valley.", question)


def test_whoever_has_no_document_to_read_says_nothing_and_is_counted(filled, tmp_path):
    unheard = [Question(id="1", question="xyzzy", answers=("wool",)), QUESTIONS[0]]
    records = run(filled, Reader(), tmp_path, questions=unheard, retrieval="bm25")
    first = records[0]
    assert first.documents == ()
    assert first.given["closed-book"].logprob is not None
    assert (first.given["rag-token"].text, first.given["rag-token"].em) == ("", 0)
    summary = summarise(records, SYSTEMS, k=2, threshold=0.3)
    assert [(one.em.count, one.em.mean) for one in summary.systems if one.name == "rag-token"] == [(2, 0.5)]
    assert read_records(tmp_path / "questions.jsonl") == records


def test_the_prior_is_told_whichever_systems_answer(filled, tmp_path):
    [record] = run(filled, Reader(), tmp_path, questions=QUESTIONS[:1], systems=("closed-book",))
    assert sum(read.prior for read in record.documents) == pytest.approx(1)


def test_texts_with_strange_line_ends_are_read_back(filled, tmp_path):
    odd = [Question(id="1", question="what do\u2028llamas\x85carry", answers=("wool",))]
    assert run(filled, Reader(), tmp_path, questions=odd) == read_records(tmp_path / "questions.jsonl")


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "questions.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(FormatError, match="line 1: damaged"):
        read_records(tmp_path / "questions.jsonl")


def test_a_seed_shuffles_and_a_smaller_limit_begins_a_larger_one():
    many = [Question(id=str(n), question=f"q{n}", answers=("a",)) for n in range(30)]
    ten, twenty = (choose_questions(many, EvaluationConfig(seed=1, limit=limit)) for limit in (10, 20))
    assert twenty[:10] == ten != many[:10]
    assert choose_questions(many, EvaluationConfig(limit=10)) == many[:10]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"systems": ("rag",)}, "expected some of closed-book"),
        ({"systems": ()}, "expected one or more"),
        ({"k": 0}, "k: expected 1 or more"),
        ({"limit": 0}, "limit: expected 1 or more"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ArrieroError, match=message):
        EvaluationConfig(**settings)


def test_a_question_of_an_empty_set_has_a_summary_too():
    record = Record(id="1", question="?", answers=(), rank=None, dense=-1.0, documents=())
    summary = summarise([record], SYSTEMS, k=5, threshold=0.3)
    assert (summary.answerable, summary.mrr.count, summary.refusals.recall) == (0, 0, 1.0)
