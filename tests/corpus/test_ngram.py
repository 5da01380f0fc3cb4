"""Kneser-Ney: against the formulas word by word, NLTK and KenLM; sums of 1; blocks decide nothing; ARPA and back."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arriero.common.errors import ArrieroError, FormatError
from arriero.corpus.arpa import read_arpa, write_arpa
from arriero.corpus.kneser_ney import FALLBACK, _discounts, train
from arriero.corpus.ngram import NGramModel

BOS, EOS = -1, -2
Probability = Callable[[int, tuple[int, ...]], float]


def by_formula(
    sentences: Sequence[Sequence[int]], order: int, discounts: Callable[[list[int]], Sequence[float]]
) -> Probability:
    """Interpolated modified Kneser-Ney by dictionaries."""
    raw: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(order + 1)]
    for sentence in sentences:
        padded = (BOS, *sentence, EOS)
        for n in range(1, order + 1):
            raw[n].update(padded[start : start + n] for start in range(len(padded) - n + 1))
    adjusted: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(order + 1)]
    for n in range(1, order + 1):
        if n == order:
            adjusted[n] = raw[n].copy()
        else:
            adjusted[n] = Counter(gram[1:] for gram in raw[n + 1])
            adjusted[n].update({gram: count for gram, count in raw[n].items() if gram[0] == BOS})
    adjusted[1].pop((BOS,), None)
    taken = [discounts(list(counts.values())) for counts in adjusted]
    by_context: list[dict[tuple[int, ...], dict[int, int]]] = [defaultdict(dict) for _ in range(order + 1)]
    for n in range(1, order + 1):
        for gram, count in adjusted[n].items():
            by_context[n][gram[:-1]][gram[-1]] = count
    size = len(adjusted[1]) + 1

    def probability(word: int, context: tuple[int, ...]) -> float:
        n = len(context) + 1
        lower = 1 / size if n == 1 else probability(word, context[1:])
        seen = by_context[n].get(context)
        if not seen:
            return lower
        total = sum(seen.values())
        held = sum(taken[n][min(count, 3) - 1] for count in seen.values())
        count = seen.get(word, 0)
        own = count - taken[n][min(count, 3) - 1] if count else 0.0
        return own / total + held / total * lower

    return probability


def text(seed: int, sentences: int = 60, words: int = 9) -> list[list[int]]:
    source = np.random.default_rng(seed)
    return [(source.geometric(0.35, source.integers(0, 12)) % words).tolist() for _ in range(sentences)]


def own_discounts(counts: list[int]) -> Sequence[float]:
    return _discounts(np.array(counts or [0]))


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("discount", [None, 0.75])
def test_it_is_what_the_formulas_say(order: int, discount: float | None) -> None:
    sentences = text(order)
    model = train(sentences, 9, order, None if discount is None else (discount,) * order)
    rule = own_discounts if discount is None else (lambda counts: (discount,) * 3)
    probability = by_formula(sentences, order, rule)
    others = [*text(99, 30), [], [0], [8, 8, 8, 8, 8, 8]]
    for sentence, score in zip(others, model.score(others), strict=True):
        padded = (BOS, *sentence, EOS)
        expected = sum(
            math.log10(probability(word, padded[max(0, at - order + 1) : at])) for at, word in enumerate(padded) if at
        )
        assert score == pytest.approx(expected, abs=1e-5)  # logarithms are kept in 32 bits


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_sum_to_one_after_any_words(order: int) -> None:
    """Over nine words that were seen, one that was not and stands for all such, and the end."""
    model = train([*text(5, 200), list(range(9))], 10, order)
    for context in ([], [0], [3, 1], [0, 0, 0, 0], [7, 8, 7], [9], [2, 9, 1], [2, 4, 1, 0, 0, 3]):
        before = _begun(model, context)
        each = [10 ** (_begun(model, [*context, word]) - before) for word in (*range(10), model.eos)]
        assert sum(each) == pytest.approx(1, abs=1e-5), context


def _begun(model: NGramModel, words: list[int]) -> float:
    """log10 probability of a sentence that begins so."""
    joined = np.array([model.bos, *words], np.int64)
    return float(model.score_words(joined, np.zeros(len(joined), np.int64)).sum())


@pytest.mark.parametrize("block", [1, 7, 100])
def test_blocks_decide_nothing(block: int) -> None:
    whole, parts = train(text(3), 9, 4), train(text(3), 9, 4, block=block)
    for theirs, ours in zip(whole.orders, parts.orders, strict=True):
        assert np.array_equal(ours.keys, theirs.keys)
        assert np.allclose(ours.log_prob, theirs.log_prob, atol=1e-6)
        assert np.allclose(ours.backoff, theirs.backoff, atol=1e-6)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_nltk_agrees_where_it_has_the_same_smoothing(order: int) -> None:
    """One discount, none for unigrams; it has no counts of shorter contexts that a sentence begins with."""
    lm = pytest.importorskip("nltk.lm")
    sentences = text(11, 200)
    theirs = lm.KneserNeyInterpolated(order, discount=0.6)
    padded = [["<s>", *map(str, sentence), "</s>"] for sentence in sentences]
    grams = [
        [tuple(words[at : at + n]) for n in range(1, order + 1) for at in range(len(words) - n + 1)] for words in padded
    ]
    theirs.fit(grams, [word for words in padded for word in words])
    model = train(sentences, 9, order, (0.0, *(0.6,) * (order - 1)))
    for sentence in text(12, 40):
        words = ["<s>", *map(str, sentence), "</s>"]
        numbers = np.array([model.bos, *sentence, model.eos], np.int64)
        ours = model.score_words(numbers, np.zeros(len(numbers), np.int64))
        for at in range(order, len(words)):
            context = words[at - order + 1 : at]
            expected = theirs.score(words[at], context)
            assert 10 ** ours[at] == pytest.approx(expected, abs=1e-6), (words[at], context)


@pytest.mark.parametrize("suffix", ["arpa", "arpa.gz"])
def test_arpa_gives_the_model_back(tmp_path: Path, suffix: str) -> None:
    words = ["▁a", "b", "ü", "世", "x y", "<x>", "q", "r", "s"]
    model = train(text(4), 9, 4)
    write_arpa(model, words, tmp_path / f"x.{suffix}")
    again, named = read_arpa(tmp_path / f"x.{suffix}", ["▁".join(word.split(" ")) for word in words])
    assert len(named) == 9
    others = text(7, 20)
    assert again.score(others) == pytest.approx(model.score(others), abs=1e-4)


def test_an_arpa_file_brings_its_own_words(tmp_path: Path) -> None:
    write_arpa(train([[0, 1], [1, 0]], 2, 2), ["no", "yes"], tmp_path / "x.arpa")
    _, words = read_arpa(tmp_path / "x.arpa")
    assert sorted(words) == ["no", "yes"]
    with pytest.raises(FormatError, match="none of the vocabulary's words"):
        read_arpa(tmp_path / "x.arpa", ["maybe"])


def test_kenlm_reads_it_and_agrees(tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm")
    words = [f"w{number}" for number in range(9)]
    model = train(text(6), 9, 5)
    write_arpa(model, words, tmp_path / "x.arpa")
    theirs = kenlm.Model(str(tmp_path / "x.arpa"))
    for sentence, score in zip(text(8, 20), model.score(text(8, 20)), strict=True):
        assert theirs.score(" ".join(words[word] for word in sentence)) == pytest.approx(score, abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=1, max_size=5), st.integers(1, 5))
def test_any_text_gives_a_model(sentences: list[list[int]], order: int) -> None:
    model = train(sentences, 4, order)
    assert np.isfinite(model.score([[0, 1, 2, 3], [], *sentences])).all()
    assert (model.score(sentences) <= 1e-9).all()


def test_few_counts_fall_back() -> None:
    assert _discounts(np.array([1, 1, 5])) == FALLBACK


def test_nothing_to_train_on_is_told() -> None:
    with pytest.raises(ArrieroError, match="at least one sentence"):
        train([], 5)
    with pytest.raises(ArrieroError, match="order: expected 1 or more"):
        train([[1]], 5, 0)


NO_ARPA = [
    "",
    "hello",
    "\\1-grams:\n-1\ta\n\\end\\\n",
    "\\data\\\nngram 1=1\n\\1-grams:\n-1\ta\n",
    "\\data\\\nngram 1=2\n\\1-grams:\n-1\ta\n\\end\\\n",
    "\\data\\\nngram 1=1\n\\1-grams:\nx\ta\n\\end\\\n",
    "\\data\\\nngram 1=1\n\\1-grams:\n-1\ta b\n\\end\\\n",
    "\\data\\\nngram 1=1\nngram 2=1\n\\1-grams:\n-1\ta\n\\3-grams:\n-1\ta a\n\\end\\\n",
]


@pytest.mark.parametrize("content", NO_ARPA)
def test_what_is_no_arpa_file_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.arpa").write_text(content)
    with pytest.raises(FormatError, match=r"x\.arpa: expected an ARPA file"):
        read_arpa(tmp_path / "x.arpa")
