"""How much a document reads like a reference, Wikipedia for CCNet (Wenzek et al. 2020, section 3.3).

A model is a folder: `pieces.model` (SentencePiece, unigram), `ngrams/` (arrays that all processes of a machine share),
and `model.json` with the cutoffs. Its text is lower-cased, stripped of accents, and each digit is 0. A document's
perplexity, over its lines, is 10 ** (-Σ log10 p / Σ (pieces + 1)). Below the lower cutoff it is of the head, above the
upper one of the tail: CCNet's are the 30th and 60th percentile of web pages, 340 and 520 in English with its own model.
"""

import json
import sys
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np

from arriero.common.errors import ArrieroError, FormatError, NotFoundError, require
from arriero.common.files import atomic_folder
from arriero.corpus.arpa import read_arpa, write_arpa
from arriero.corpus.dedup import load_array, save_array
from arriero.corpus.document import Document, Each
from arriero.corpus.ngram import NGramModel, Order
from arriero.corpus.source import Part

PERCENTILES = (30, 60)
LONGEST_LINE = 10_000
"""Characters of a line that are scored at once."""
_LINES = 1_000
"""Lines that are scored at once."""
_PIECES, _NGRAMS, _MODEL = "pieces.model", "ngrams", "model.json"
_ARRAYS = ("keys", "log_prob", "backoff")
_RENAMED = {"<unk>": "⁇", "<s>": "<bos>", "</s>": "<eos>"}


@cache
def _folded() -> dict[int, str | None]:
    """Digits are 0, marks on letters are nothing, and halves of surrogate pairs are no text."""
    kinds = {code: unicodedata.category(chr(code)) for code in range(sys.maxunicode + 1)}
    return {
        code: {"Nd": "0", "Mn": None, "Cs": "�"}[kind] for code, kind in kinds.items() if kind in ("Nd", "Mn", "Cs")
    }


def normalise(text: str) -> str:
    """Lower case, no accents, digits 0."""
    lowered = text.lower()
    return (lowered if lowered.isascii() else unicodedata.normalize("NFD", lowered)).translate(_folded())


def normalised_lines(text: str) -> list[str]:
    """The lines that are scored: normalised, white space single, none empty, long ones cut."""
    lines = [" ".join(line.split()) for line in normalise(text).split("\n")]
    return [line[start : start + LONGEST_LINE] for line in lines for start in range(0, len(line), LONGEST_LINE)]


def batches(items: Iterable[str], size: int = _LINES) -> Iterator[list[str]]:
    """The items, so many at a time."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


@dataclass(frozen=True)
class Pieces:
    """SentencePiece's model, which cuts lines into the words of the n-grams."""

    model: bytes

    @cached_property
    def _processor(self) -> Any:
        sentencepiece = require("sentencepiece", extra="corpus", purpose="scoring text by a language model")
        return sentencepiece.SentencePieceProcessor(model_proto=self.model)

    def __len__(self) -> int:
        return int(self._processor.get_piece_size())

    def names(self) -> list[str]:
        """The pieces by number; those that mean something to an ARPA file go by other names."""
        pieces = [self._processor.id_to_piece(number) for number in range(len(self))]
        return [_RENAMED.get(piece, piece) for piece in pieces]

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """The pieces of lines that are normalised."""
        return [self._processor.encode(line) for line in lines]  # all in one call start threads, which takes longer


@dataclass(frozen=True)
class LanguageModel:
    """Pieces, n-grams and cutoffs."""

    pieces: Pieces
    ngrams: NGramModel
    cutoffs: tuple[float, float]
    """Perplexities between head, middle and tail."""

    def perplexity(self, text: str) -> float | None:
        """A document's perplexity; None for one without words."""
        total, count = 0.0, 0
        for lines in batches(normalised_lines(text)):
            sentences = self.pieces.encode(lines)
            total += float(self.ngrams.score(sentences).sum())
            count += sum(map(len, sentences)) + len(sentences)
        return float(10 ** (-total / count)) if count else None

    def part(self, perplexity: float) -> Part:
        """Head, middle or tail."""
        low, high = self.cutoffs
        return "head" if perplexity < low else "middle" if perplexity < high else "tail"

    def save(self, folder: Path, arpa: Path | None = None) -> None:
        """Write it to a new folder, whole or not at all; and its n-grams as an ARPA file, if asked."""
        with atomic_folder(folder) as aside:
            (aside / _PIECES).write_bytes(self.pieces.model)
            (aside / _NGRAMS).mkdir()
            for n, order in enumerate(self.ngrams.orders, 1):
                for name in _ARRAYS:
                    save_array(getattr(order, name), aside / _NGRAMS / f"{n}.{name}.npy")
            facts = {
                "vocab_size": self.ngrams.vocab_size,
                "order": len(self.ngrams.orders),
                "unknown": self.ngrams.unknown,
                "cutoffs": self.cutoffs,
            }
            (aside / _MODEL).write_text(json.dumps(facts) + "\n", encoding="utf-8")
        if arpa is not None:
            write_arpa(self.ngrams, self.pieces.names(), arpa)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; n-grams may also lie there as `lm.arpa` or `lm.arpa.gz`, which then count.

        Raises:
            NotFoundError, FormatError: it is no such folder, or damaged.
        """
        if not (folder / _MODEL).is_file() or not (folder / _PIECES).is_file():
            raise NotFoundError(f"{folder} holds no language model: `arriero corpus train-lm` makes one")
        try:
            facts = json.loads((folder / _MODEL).read_text(encoding="utf-8"))
            low, high = map(float, facts["cutoffs"])
            pieces = Pieces((folder / _PIECES).read_bytes())
            for name in ("lm.arpa", "lm.arpa.gz"):
                if (folder / name).is_file():
                    return cls(pieces, read_arpa(folder / name, pieces.names())[0], (low, high))
            if len(pieces) != facts["vocab_size"]:
                raise ValueError(f"expected {facts['vocab_size']} pieces, got {len(pieces)}")
            orders = tuple(_load_order(folder / _NGRAMS, n) for n in range(1, int(facts["order"]) + 1))
            return cls(pieces, NGramModel(len(pieces), orders, float(facts["unknown"])), (low, high))
        except (KeyError, TypeError, ValueError, EOFError, OSError, RuntimeError) as error:
            if isinstance(error, ArrieroError):
                raise
            raise FormatError(f"{folder} holds a damaged language model ({error}): train it again") from error


def _load_order(folder: Path, n: int) -> Order:
    order = Order(*(np.asarray(load_array(folder / f"{n}.{name}.npy")) for name in _ARRAYS))  # views, which are quicker
    if not len(order.keys) == len(order.log_prob) == len(order.backoff):
        raise ValueError(f"arrays of {n}-grams differ in length")
    return order


class ByPerplexity(Each):
    """The step: notes perplexity and part, and keeps the parts that are wanted."""

    def __init__(self, folder: Path, keep: Collection[Part]) -> None:
        """Open the model.

        Raises:
            NotFoundError, FormatError: it is none.
        """
        model = LanguageModel.load(folder)
        wanted = frozenset(keep)

        def judge(document: Document) -> Document:
            score = model.perplexity(document.text)
            if score is None:
                return document.drop("perplexity: no words")
            part = model.part(score)
            document = document.with_metadata(perplexity=round(score, 1), part=part)
            return document if part in wanted else document.drop(f"perplexity: {part}")

        super().__init__("perplexity", judge)
