"""Measures of answers and of retrieval, as question answering has them (SQuAD: Rajpurkar et al. 2016, section 6.1).

An answer is compared in normal form: lower case, without punctuation, the articles a, an, the, and runs of blanks. Its
tokens are words, and single characters where a script has no blanks between words (Chinese, Japanese, …), as for
those languages in MLQA (Lewis et al. 2020, section 4).
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_DRAWS = 1000


def normalise(text: str) -> str:
    """The normal form of an answer."""
    text = unicodedata.normalize("NFC", text).lower()
    text = "".join(
        letter
        for letter in text
        if letter not in string.punctuation and not unicodedata.category(letter).startswith("P")
    )
    return " ".join(_ARTICLES.sub(" ", text).split())


def answer_tokens(text: str) -> list[str]:
    """The tokens of an answer in normal form."""
    return _TOKEN.findall(normalise(text))


def exact_match(answer: str, gold: Sequence[str]) -> float:
    """1 where the answer is one of the right ones in normal form, else 0."""
    return float(any(normalise(answer) == normalise(each) for each in gold))


def f1(answer: str, gold: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of tokens, with the right answer that it is highest for."""
    return max((_f1(answer_tokens(answer), answer_tokens(each)) for each in gold), default=0.0)


def _f1(said: list[str], right: list[str]) -> float:
    if not said or not right:
        return float(said == right)
    common = (Counter(said) & Counter(right)).total()
    return 2 * common / (len(said) + len(right))  # = 2PR / (P + R)


def holds_answer(passage: str, gold: Sequence[str]) -> bool:
    """Whether a passage holds a right answer, word for word in normal form."""
    words = answer_tokens(passage)
    return any(_holds(words, wanted) for each in gold if (wanted := answer_tokens(each)))


def _holds(words: list[str], wanted: list[str]) -> bool:
    return any(words[i : i + len(wanted)] == wanted for i in range(len(words) - len(wanted) + 1))


def recall_at(ranks: Sequence[int | None], k: int) -> list[float]:
    """Of each question, whether what answers it is among the first k; ranks count from 1, None is not found."""
    return [float(rank is not None and rank <= k) for rank in ranks]


def reciprocal_ranks(ranks: Sequence[int | None]) -> list[float]:
    """1 / rank of each question, 0 where nothing was found: their mean is the MRR."""
    return [0.0 if rank is None else 1.0 / rank for rank in ranks]


@dataclass(frozen=True)
class Estimate:
    """A mean over questions, with the interval that holds it in 95 of 100 draws of the questions; 0 of no question."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})" if self.count else "-"


def estimate(values: Sequence[float], seed: int = 0) -> Estimate:
    """Mean and 95% interval by the bootstrap over questions (Efron 1979): percentiles of 1,000 means."""
    if not values:
        return Estimate(0.0, 0.0, 0.0, 0)
    own = np.asarray(values, dtype=np.float64)
    drawn = own[np.random.default_rng(seed).integers(len(own), size=(_DRAWS, len(own)))]
    low, high = np.percentile(drawn.mean(axis=1), [2.5, 97.5])
    return Estimate(float(own.mean()), float(low), float(high), len(own))


def difference(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> Estimate:
    """The mean of ours − theirs on the same questions, with its interval: two systems compared pairwise."""
    return estimate([own - other for own, other in zip(ours, theirs, strict=True)], seed)


@dataclass(frozen=True)
class Refusals:
    """How well a system tells which questions the documents do not answer."""

    refused: int
    rightly: int
    unanswerable: int

    @property
    def precision(self) -> float | None:
        """Of the refused, the share that could not be answered; None of no refusal."""
        return self.rightly / self.refused if self.refused else None

    @property
    def recall(self) -> float | None:
        """Of those that could not be answered, the share refused; None where all can."""
        return self.rightly / self.unanswerable if self.unanswerable else None


def count_refusals(refused: Sequence[bool], answerable: Sequence[bool]) -> Refusals:
    """Count over questions."""
    rightly = sum(no and not can for no, can in zip(refused, answerable, strict=True))
    return Refusals(sum(refused), rightly, sum(not can for can in answerable))
