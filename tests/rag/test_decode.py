"""Both models' decoders find what enumerating every answer finds, and say what it rests on."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from arriero.common.errors import ArrieroError
from arriero.rag.decode import RagAnswer, RagHypothesis, decode, decode_closed_book
from arriero.rag.decoding_config import DecodingConfig
from arriero.rag.generator import RagDocument
from tests.rag.toy_generator import STOP, ToyGenerator

VOCAB, TOKENS = 4, 3
EVERY = VOCAB**TOKENS
"""Beams that keep every answer."""
QUESTION = "Who carries the load? 你好吗"
DOCUMENTS = [
    RagDocument(text="Llamas do.", score=1.3, title="llamas"),
    RagDocument(text="Mules do.", score=0.4),
    RagDocument(text="Nobody does.", score=-0.8),
]


def every_answer() -> list[tuple[int, ...]]:
    """All that may be said in up to three tokens: what ends, and what is cut off at the last."""
    return [
        answer
        for length in range(1, TOKENS + 1)
        for answer in itertools.product(range(VOCAB), repeat=length)
        if STOP not in answer[:-1] and (length == TOKENS or answer[-1] == STOP)
    ]


def token_probabilities(question: str, documents: Sequence[RagDocument], answer: Sequence[int]) -> np.ndarray:
    """p(y_i | x, z, y_<i), (k, T), in double precision."""
    generator = ToyGenerator(VOCAB)
    table = np.empty((len(documents), len(answer)))
    for z, document in enumerate(documents):
        prompt = generator.prompt(question, document, reserve=0)
        for i, token in enumerate(answer):
            logits = generator.logits(prompt, answer[:i]).double().numpy()
            table[z, i] = np.exp(logits[token]) / np.exp(logits).sum()
    return table


def prior(documents: Sequence[RagDocument]) -> np.ndarray:
    weights = np.exp([document.score for document in documents])
    return weights / weights.sum()


def by_sequence(question: str, documents: Sequence[RagDocument], answer: Sequence[int]) -> float:
    """RAG-Sequence as the paper writes it: Σ_z p(z|x) Π_i p(y_i | x, z, y_<i)."""
    return float((prior(documents) * token_probabilities(question, documents, answer).prod(axis=1)).sum())


def by_token(question: str, documents: Sequence[RagDocument], answer: Sequence[int]) -> float:
    """RAG-Token as the paper writes it: Π_i Σ_z p(z|x) p(y_i | x, z, y_<i)."""
    return float((prior(documents)[:, None] * token_probabilities(question, documents, answer)).sum(axis=0).prod())


def answer_one(documents: Sequence[RagDocument] = DOCUMENTS, **settings) -> RagAnswer:
    settings = {"max_tokens": TOKENS, "beams": EVERY, "num_return": EVERY} | settings
    return decode(ToyGenerator(VOCAB), [QUESTION], [documents], DecodingConfig(**settings))[0]


@pytest.mark.parametrize(
    ("kind", "decoding", "formula"),
    [("sequence", "thorough", by_sequence), ("sequence", "fast", by_sequence), ("token", "beam", by_token)],
)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_beams_that_keep_every_answer_rank_all_as_enumeration_does(kind, decoding, formula: Callable, k):
    documents = DOCUMENTS[:k]
    expected = {answer: formula(QUESTION, documents, answer) for answer in every_answer()}
    assert sum(expected.values()) == pytest.approx(1)  # the answers are all there are
    found = answer_one(documents, kind=kind, decoding=decoding)
    assert len(found.hypotheses) == len(expected)
    for hypothesis in found.hypotheses:
        assert abs(hypothesis.logprob - math.log(expected[hypothesis.ids])) < 1e-6
    probabilities = [expected[hypothesis.ids] for hypothesis in found.hypotheses]
    assert probabilities == sorted(probabilities, reverse=True)


def test_thorough_decoding_scores_an_answer_by_documents_whose_beams_missed_it():
    generator = ToyGenerator(VOCAB)
    config = DecodingConfig(beams=2, max_tokens=TOKENS, num_return=100)
    found = decode(generator, [QUESTION], [DOCUMENTS], config)[0]
    assert generator.scored > 0
    assert len({hypothesis.ids for hypothesis in found.hypotheses}) == len(found.hypotheses)
    for hypothesis in found.hypotheses:
        assert abs(hypothesis.logprob - math.log(by_sequence(QUESTION, DOCUMENTS, hypothesis.ids))) < 1e-6


def test_fast_decoding_counts_a_missing_answer_as_impossible_and_runs_nothing_more():
    generator = ToyGenerator(VOCAB)
    both = {}
    for way in ("thorough", "fast"):
        config = DecodingConfig(beams=2, max_tokens=TOKENS, num_return=100, decoding=way)
        before = generator.scored
        found = decode(generator, [QUESTION], [DOCUMENTS], config)[0]
        both[way] = {hypothesis.ids: hypothesis for hypothesis in found.hypotheses}
    assert generator.scored == before
    assert both["fast"].keys() == both["thorough"].keys()
    lower = 0
    for ids, fast in both["fast"].items():
        each = prior(DOCUMENTS) * token_probabilities(QUESTION, DOCUMENTS, ids).prod(axis=1)
        counted = np.array(fast.posterior) > 0
        assert abs(fast.logprob - math.log(each[counted].sum())) < 1e-6
        assert fast.logprob <= both["thorough"][ids].logprob + 1e-6
        lower += fast.logprob < both["thorough"][ids].logprob - 1e-6
    assert lower > 0


def test_greedy_rag_token_takes_the_likeliest_token_of_the_mixture_at_each_step():
    ids: list[int] = []
    while len(ids) < 6 and STOP not in ids:
        mixed = [
            float((prior(DOCUMENTS) * token_probabilities(QUESTION, DOCUMENTS, [*ids, token])[:, -1]).sum())
            for token in range(VOCAB)
        ]
        ids.append(int(np.argmax(mixed)))
    found = answer_one(kind="token", decoding="greedy", max_tokens=6, num_return=1)
    assert found.best.ids == tuple(ids)
    assert abs(found.best.logprob - math.log(by_token(QUESTION, DOCUMENTS, ids))) < 1e-6


def test_greedy_rag_sequence_is_thorough_decoding_with_one_beam():
    assert answer_one(decoding="greedy") == answer_one(decoding="thorough", beams=1)


def test_samples_of_rag_token_follow_its_distribution():
    expected = {answer: by_token(QUESTION, DOCUMENTS, answer) for answer in every_answer()}
    found = answer_one(kind="token", decoding="sample", num_return=2000).hypotheses
    assert len(found) == 2000
    for answer, probability in expected.items():
        share = sum(hypothesis.ids == answer for hypothesis in found) / len(found)
        assert abs(share - probability) < 5 * math.sqrt(probability * (1 - probability) / len(found)) + 1e-3
    assert abs(found[0].logprob - math.log(expected[found[0].ids])) < 1e-5


def test_a_sample_is_that_of_its_seed_whatever_is_drawn_beside_it():
    five = answer_one(kind="token", decoding="sample", num_return=5, seed=7).hypotheses
    third = answer_one(kind="token", decoding="sample", num_return=1, seed=9).hypotheses
    assert five[2].ids == third[0].ids
    cold = answer_one(kind="token", decoding="sample", num_return=1, temperature=1e-6).best
    assert cold.ids == answer_one(kind="token", decoding="greedy").best.ids


@pytest.mark.parametrize("decoding", ["thorough", "fast", "beam", "greedy", "sample"])
def test_questions_of_a_batch_get_the_answers_that_each_gets_alone(decoding):
    kind = "sequence" if decoding in ("thorough", "fast") else "token"
    config = DecodingConfig(kind=kind, decoding=decoding, beams=2, max_tokens=4, num_return=2, rows=13)
    questions = [f"question {number}" for number in range(7)]
    documents = [DOCUMENTS[: 1 + number % 3] for number in range(7)]
    together = decode(ToyGenerator(VOCAB), questions, documents, config)
    for question, own, answer in zip(questions, documents, together, strict=True):
        alone = decode(ToyGenerator(VOCAB), [question], [own], config)[0]
        assert answer.question == question
        assert answer.documents == tuple(own)
        assert [hypothesis.ids for hypothesis in answer.hypotheses] == [each.ids for each in alone.hypotheses]


@pytest.mark.parametrize("kind", ["sequence", "token"])
def test_posteriors_are_bayes_rule_and_sum_to_one(kind):
    found = answer_one(kind=kind)
    np.testing.assert_allclose(found.prior, prior(DOCUMENTS), atol=1e-6)
    for hypothesis in found.hypotheses[:20]:
        each = token_probabilities(QUESTION, DOCUMENTS, hypothesis.ids)
        joint = prior(DOCUMENTS)[:, None] * (each.cumprod(axis=1) if kind == "sequence" else each)
        shares = (joint / joint.sum(axis=0)).T
        np.testing.assert_allclose(hypothesis.token_posterior, shares, atol=1e-5)
        expected = shares[-1] if kind == "sequence" else shares.mean(axis=0)
        np.testing.assert_allclose(hypothesis.posterior, expected, atol=1e-5)
        assert sum(hypothesis.posterior) == pytest.approx(1)


def test_with_one_document_both_models_are_the_generator():
    sequence, token = (answer_one(DOCUMENTS[:1], kind=kind).hypotheses for kind in ("sequence", "token"))
    assert [each.ids for each in sequence] == [each.ids for each in token]
    assert sequence[0].posterior == token[0].posterior == (1.0,)


def test_a_closed_book_is_answered_by_the_generator_alone():
    generator = ToyGenerator(VOCAB)
    config = DecodingConfig(beams=2, max_tokens=TOKENS, rows=2)
    first, second = decode_closed_book(generator, ["Who?", "Why?"], config)
    assert (first.question, second.question) == ("Who?", "Why?")
    assert (first.documents, first.prior, first.best.posterior) == ((), (1.0,), (1.0,))
    logprobs = generator.logprobs([generator.prompt("Why?", None, reserve=0)], [second.best.ids])
    assert abs(second.best.logprob - float(logprobs.sum())) < 1e-5


def test_the_order_of_documents_plays_no_part():
    def plain(answer: RagAnswer, order: Sequence[int]) -> list[tuple[tuple[int, ...], list[float]]]:
        def restore(each: RagHypothesis) -> list[float]:
            return [round(each.posterior[order.index(z)], 5) for z in range(3)]

        return [(each.ids, restore(each)) for each in answer.hypotheses[:10]]

    for kind in ("sequence", "token"):
        straight = plain(answer_one(kind=kind), [0, 1, 2])
        assert plain(answer_one([DOCUMENTS[2], DOCUMENTS[0], DOCUMENTS[1]], kind=kind), [2, 0, 1]) == straight


def test_fewer_answers_than_asked_for_come_back_where_fewer_are_found():
    found = answer_one(DOCUMENTS[:1], kind="token", beams=2, num_return=9)
    assert len(found.hypotheses) == 2


def test_documents_that_the_caller_scored_need_no_retriever_and_all_take_part():
    many = [RagDocument(text=f"document {number}", score=-number / 50) for number in range(50)]
    found = answer_one(many, beams=1, num_return=1)
    assert len(found.prior) == len(found.best.posterior) == 50
    assert abs(found.best.logprob - math.log(by_sequence(QUESTION, many, found.best.ids))) < 1e-6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "both"}, "expected sequence or token, got 'both'"),
        ({"kind": "token", "decoding": "fast"}, "RAG-Token takes beam, greedy, sample, not 'fast'"),
        ({"decoding": "beam"}, "RAG-Sequence takes thorough, fast, greedy, not 'beam'"),
        ({"beams": 0}, "beams: expected 1 or more, got 0"),
        ({"kind": "token", "decoding": "sample", "temperature": -1.0}, "temperature must be"),
        ({"kind": "token", "decoding": "sample", "temperature": 0.0}, "decode greedily instead"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ArrieroError, match=message):
        DecodingConfig(**settings)


def test_a_question_without_documents_is_refused_by_its_name():
    with pytest.raises(ArrieroError, match="no document for the question 'Why'"):
        decode(ToyGenerator(), ["Who", "Why"], [DOCUMENTS, []], DecodingConfig())
