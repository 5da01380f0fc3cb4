"""The n-gram model that benchmarks/tinyshakespeare.py compares with."""

import math
from collections import Counter

import numpy as np
import pytest

from benchmarks.kneser_ney import KneserNey

VOCAB_SIZE = 7


@pytest.fixture(scope="module")
def words():
    """A text in which a word depends on those before it."""
    random, text = np.random.default_rng(0), [0, 1]
    for _ in range(2000):
        text.append(int(random.choice([text[-1] + text[-2], text[-1], random.integers(VOCAB_SIZE)])) % VOCAB_SIZE)
    return np.array(text)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_the_probabilities_of_all_words_sum_to_1(words, order):
    model = KneserNey(words, VOCAB_SIZE + 1, order)
    never_seen = np.full(order - 1, VOCAB_SIZE)
    for context in (words[10 : 9 + order], words[-order + 1 :][: order - 1], never_seen):
        distribution = model.distribution(context)
        assert distribution.sum() == pytest.approx(1.0, abs=1e-12)
        assert (distribution > 0).all()


def test_unigrams_by_hand():
    model = KneserNey(np.array([0, 0, 0, 1, 1, 2]), vocab_size=4, order=1)
    rest = 0.5 / 4  # the discounts 1.5, 1 and 0.5 of six words, shared by four
    assert np.exp(model.log_probs(np.arange(4))) == pytest.approx(
        [1.5 / 6 + rest, 1 / 6 + rest, 0.5 / 6 + rest, rest], abs=1e-12
    )


def test_trigrams_as_the_formula_says(words):
    text = words.tolist()
    counts = {
        3: Counter(zip(text, text[1:], text[2:])),  # noqa: B905 - they end with the last n-gram
        2: Counter((b, c) for _, b, c in set(zip(text, text[1:], text[2:]))),  # noqa: B905
    }
    counts[1] = Counter((c,) for _, c in counts[2])

    def discount(length: int, count: int) -> float:
        n1, n2, n3, n4 = (sum(c == k for c in counts[length].values()) for k in (1, 2, 3, 4))
        if not (n1 and n2 and n3 and n4):
            return (0, 0.5, 1.0, 1.5)[min(count, 3)]
        y = n1 / (n1 + 2 * n2)
        return (0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)[min(count, 3)]

    def probability(gram: tuple[int, ...]) -> float:
        if not gram:
            return 1 / VOCAB_SIZE
        length = len(gram)
        seen = {other: count for other, count in counts[length].items() if other[:-1] == gram[:-1]}
        if not seen:
            return probability(gram[1:])
        count, total = seen.get(gram, 0), sum(seen.values())
        taken = sum(discount(length, other) for other in seen.values())
        return (count - discount(length, count) + taken * probability(gram[1:])) / total

    model = KneserNey(words, VOCAB_SIZE, 3)
    for gram in [(0, 1, 2), (3, 3, 3), (6, 5, 4), (1, 1, 2)]:
        assert model.log_probs(np.array(gram))[-1] == pytest.approx(math.log(probability(gram)), abs=1e-12)


def test_first_words_have_shorter_contexts(words):
    longer, shorter = KneserNey(words, VOCAB_SIZE, 3), KneserNey(words, VOCAB_SIZE, 3).tables[:1]
    first = longer.log_probs(words[:4])[0]
    share = dict(zip(shorter[0].grams.tolist(), shorter[0].shares.tolist(), strict=True))[int(words[0])]
    assert math.exp(first) == pytest.approx(share + shorter[0].rests[0] / VOCAB_SIZE)
