"""A linear classifier of pages: does it look like one that Wikipedia refers to, or like any page (LLaMA, section 2.1)?

Words and pairs of neighbouring words are hashed to 2¹⁸ numbers; a document is the vector of their logarithmic counts,
of length 1; logistic regression by AdaGrad (Duchi et al. 2011) weighs them. A model is a folder of two files,
`classifier.safetensors` and `classifier.json`.
"""

import dataclasses
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from arriero.common.errors import ArrieroError, FormatError, NotFoundError
from arriero.common.files import atomic_folder
from arriero.corpus.document import Document, Each
from arriero.tokenizer.measure import split_words

BITS = 18
LONGEST = 20_000
"""Words of a document that are looked at."""
THRESHOLD = 0.25
"""What RedPajama keeps from on."""
EPOCHS, STEP, PENALTY = 8, 0.3, 1e-6
_WEIGHTS, _FACTS = "classifier.safetensors", "classifier.json"
Vector = tuple[NDArray[np.int32], NDArray[np.float32]]


def features(text: str) -> Vector:
    """A document's numbers and their values."""
    words = [word.encode("utf-8", "replace") for word in split_words(text[: 10 * LONGEST].lower())[:LONGEST]]
    hashes = [zlib.crc32(word) for word in words]
    hashes += [zlib.crc32(second, first) for first, second in zip(hashes, words[1:], strict=False)]
    numbers, counts = np.unique(np.array(hashes, np.int64) & ((1 << BITS) - 1), return_counts=True)
    values = np.log1p(counts)
    length = np.sqrt(np.sum(values**2))
    return numbers.astype(np.int32), (values / length if length else values).astype(np.float32)


@dataclass(frozen=True)
class Classifier:
    """Weights, and how well they told held-out pages apart."""

    weights: NDArray[np.float32]
    """(2¹⁸,)"""
    bias: float
    auc: float
    """Share of pairs of held-out pages, one of each kind, that are put in the right order."""
    accuracy: float
    """Share of held-out pages on the right side of a half."""

    def probability(self, text: str) -> float:
        """That a page looks like the first kind."""
        return float(_sigmoid(self.logit(features(text))))

    def logit(self, vector: Vector) -> float:
        """log p / (1 - p) of a page of these features."""
        numbers, values = vector
        return float(self.weights[numbers] @ values) + self.bias

    def save(self, folder: Path) -> None:
        """Write it to a new folder, whole or not at all."""
        from safetensors.numpy import save_file

        with atomic_folder(folder) as aside:
            save_file({"weights": self.weights}, aside / _WEIGHTS)
            facts = {"bias": self.bias, "auc": self.auc, "accuracy": self.accuracy, "bits": BITS}
            (aside / _FACTS).write_text(json.dumps(facts) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            NotFoundError, FormatError: it is no such folder, or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        if not (folder / _FACTS).is_file() or not (folder / _WEIGHTS).is_file():
            raise NotFoundError(f"{folder} holds no classifier: `arriero corpus train-classifier` makes one")
        try:
            facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
            weights = load_file(folder / _WEIGHTS)["weights"]
            if weights.shape != (1 << BITS,):
                raise ValueError(f"expected {1 << BITS} weights, got {weights.shape}")
            return cls(weights, float(facts["bias"]), float(facts["auc"]), float(facts["accuracy"]))
        except (KeyError, TypeError, ValueError, SafetensorError) as error:
            raise FormatError(f"{folder} holds a damaged classifier ({error}): train it again") from error


def train_classifier(positive: Iterable[str], negative: Iterable[str], seed: int = 0) -> Classifier:
    """Train on pages of both kinds; every tenth of each is held out, to tell how well it works.

    Memory: 8 bytes for each different word, and pair of words, of each page.

    Raises:
        ArrieroError: there are fewer than ten pages of a kind.
    """
    training: list[tuple[Vector, float]] = []
    held_out: list[tuple[Vector, float]] = []
    for name, pages, label in (("positive", positive, 1.0), ("negative", negative, 0.0)):
        number = 0
        for number, page in enumerate(pages, 1):
            (training if number % 10 else held_out).append((features(page), label))
        if number < 10:
            raise ArrieroError(f"{name}: expected 10 pages or more, got {number}")
    weights, bias = _fit(training, np.random.default_rng(seed))
    made = Classifier(weights.astype(np.float32), bias, 0.0, 0.0)
    scores = np.array([made.logit(vector) for vector, _ in held_out])
    labels = np.array([label for _, label in held_out]) > 0.5
    accuracy = float(np.mean((scores > 0) == labels))
    return dataclasses.replace(made, auc=area_under_curve(scores[labels], scores[~labels]), accuracy=accuracy)


def _fit(examples: Sequence[tuple[Vector, float]], random: np.random.Generator) -> tuple[NDArray[np.float64], float]:
    """Weights and bias that make the examples' labels likely; both kinds count the same, however many there are."""
    share = sum(label for _, label in examples) / len(examples)
    weights, squares = np.zeros(1 << BITS), np.full(1 << BITS, 1e-8)
    bias, bias_square = 0.0, 1e-8
    for _ in range(EPOCHS):
        for index in random.permutation(len(examples)):
            (numbers, values), label = examples[index]
            error = (_sigmoid(weights[numbers] @ values + bias) - label) * 0.5 / (share if label else 1 - share)
            gradient = error * values + PENALTY * weights[numbers]
            squares[numbers] += gradient**2
            weights[numbers] -= STEP * gradient / np.sqrt(squares[numbers])
            bias_square += error**2
            bias -= STEP * error / bias_square**0.5
    return weights, float(bias)


def area_under_curve(high: NDArray[np.float64], low: NDArray[np.float64]) -> float:
    """The share of pairs in the right order; equal ones count a half (ROC AUC)."""
    ordered = np.sort(low)
    below, upto = np.searchsorted(ordered, high, "left"), np.searchsorted(ordered, high, "right")
    return float(np.mean(below + upto) / (2 * len(low)))


def _sigmoid(x: float | np.floating) -> float:
    return float(1 / (1 + np.exp(-np.clip(x, -500, 500))))


class ByClassifier(Each):
    """The step: notes the probability, and drops what is below the threshold."""

    def __init__(self, folder: Path, threshold: float = THRESHOLD) -> None:
        """Open the model.

        Raises:
            NotFoundError, FormatError: it is none.
        """
        model = Classifier.load(folder)

        def judge(document: Document) -> Document:
            probability = model.probability(document.text)
            document = document.with_metadata(reference=round(probability, 4))
            return document if probability >= threshold else document.drop("classifier: unlike a reference")

        super().__init__("classifier", judge)
