"""How much a document reads like a reference, Wikipedia for CCNet (Wenzek et al. 2020, section 3.3).

A model is a folder: `pieces.model` (SentencePiece, unigram), `ngrams.npz`, and `model.json` with the cutoffs. Its text
is lower-cased, stripped of accents, and each digit is 0. A document's perplexity, over its lines, is
10 ** (-Σ log10 p / Σ (pieces + 1)). Below the lower cutoff it is of the head, above the upper one of the tail: CCNet's
are the 30th and 60th percentile of web pages, 340 and 520 in English with its own model.
"""

import io
import json
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from arriero.common.errors import ArrieroError, FormatError, NotFoundError, require
from arriero.common.files import atomic_folder
from arriero.corpus.arpa import read_arpa, write_arpa
from arriero.corpus.document import Document, Each
from arriero.corpus.kneser_ney import train
from arriero.corpus.ngram import NGramModel, Order
from arriero.corpus.source import Part

PIECES, ORDER = 65_536, 5
PERCENTILES = (30, 60)
LONGEST_LINE = 10_000
"""Characters of a line that are scored at once."""
_PIECES, _NGRAMS, _MODEL = "pieces.model", "ngrams.npz", "model.json"
_ZERO = {code: "0" for code in range(0x20000) if unicodedata.category(chr(code)) == "Nd"}
_RENAMED = {"<unk>": "⁇", "<s>": "<bos>", "</s>": "<eos>"}
Report = Callable[[str], None]


def normalise(text: str) -> str:
    """Lower case, no accents, digits 0."""
    lowered = text.lower()
    if not lowered.isascii():
        parts = unicodedata.normalize("NFD", lowered)
        lowered = "".join(sign for sign in parts if unicodedata.category(sign) != "Mn")
    return lowered.translate(_ZERO)


def _lines(text: str) -> list[str]:
    lines = [" ".join(line.split()) for line in normalise(text).split("\n")]
    return [line[start : start + LONGEST_LINE] for line in lines for start in range(0, len(line), LONGEST_LINE)]


@dataclass(frozen=True)
class LanguageModel:
    """Pieces, n-grams and cutoffs."""

    pieces: bytes
    """SentencePiece's model."""
    ngrams: NGramModel
    cutoffs: tuple[float, float]
    """Perplexities between head, middle and tail."""

    @cached_property
    def _processor(self) -> Any:
        sentencepiece = require("sentencepiece", extra="corpus", purpose="scoring text by a language model")
        return sentencepiece.SentencePieceProcessor(model_proto=self.pieces)

    def words(self) -> list[str]:
        """The pieces by number; those that mean something to an ARPA file go by other names."""
        pieces = [self._processor.id_to_piece(number) for number in range(self._processor.get_piece_size())]
        return [_RENAMED.get(piece, piece) for piece in pieces]

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """The pieces of lines that are normalised."""
        encoded: list[list[int]] = self._processor.encode(list(lines))
        return encoded

    def perplexity(self, text: str) -> float | None:
        """A document's perplexity; None for one without words."""
        lines = _lines(text)
        if not lines:
            return None
        sentences = self.encode(lines)
        total = float(self.ngrams.score(sentences).sum())
        return float(10 ** (-total / sum(len(sentence) + 1 for sentence in sentences)))

    def part(self, perplexity: float) -> Part:
        """Head, middle or tail."""
        low, high = self.cutoffs
        return "head" if perplexity < low else "middle" if perplexity < high else "tail"

    def save(self, folder: Path, arpa: Path | None = None) -> None:
        """Write it to a new folder, whole or not at all; and its n-grams as an ARPA file, if asked."""
        with atomic_folder(folder) as aside:
            (aside / _PIECES).write_bytes(self.pieces)
            arrays = {
                f"{name}{n}": getattr(order, name)
                for n, order in enumerate(self.ngrams.orders)
                for name in ("keys", "log_prob", "backoff")
            }
            np.savez(aside / _NGRAMS, **arrays)
            facts = {"vocab_size": self.ngrams.vocab_size, "unknown": self.ngrams.unknown, "cutoffs": self.cutoffs}
            (aside / _MODEL).write_text(json.dumps(facts) + "\n", encoding="utf-8")
        if arpa is not None:
            write_arpa(self.ngrams, self.words(), arpa)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; n-grams may also lie there as `lm.arpa` or `lm.arpa.gz`.

        Raises:
            NotFoundError, FormatError: it is no such folder, or damaged.
        """
        if not (folder / _MODEL).is_file() or not (folder / _PIECES).is_file():
            raise NotFoundError(f"{folder} holds no language model: `arriero corpus train-lm` makes one")
        try:
            facts = json.loads((folder / _MODEL).read_text(encoding="utf-8"))
            low, high = map(float, facts["cutoffs"])
            pieces = (folder / _PIECES).read_bytes()
            bare = cls(pieces, NGramModel(int(facts["vocab_size"]), (), float(facts["unknown"])), (low, high))
            for name in ("lm.arpa", "lm.arpa.gz"):
                if (folder / name).is_file():
                    return cls(pieces, read_arpa(folder / name, bare.words())[0], (low, high))
            with np.load(folder / _NGRAMS, allow_pickle=False) as arrays:
                count = len([name for name in arrays.files if name.startswith("keys")])
                orders = tuple(
                    Order(*(arrays[f"{name}{n}"] for name in ("keys", "log_prob", "backoff"))) for n in range(count)
                )
            return cls(pieces, NGramModel(int(facts["vocab_size"]), orders, float(facts["unknown"])), (low, high))
        except (KeyError, TypeError, ValueError, EOFError, OSError) as error:
            if isinstance(error, ArrieroError):
                raise
            raise FormatError(f"{folder} holds a damaged language model ({error}): train it again") from error


def train_language_model(
    texts: Iterable[str],
    *,
    pieces: int = PIECES,
    order: int = ORDER,
    sample: Iterable[str] | None = None,
    tell: Report = lambda what: None,
) -> LanguageModel:
    """Train a model on a reference.

    Args:
        texts: the reference's documents; every tenth is held out. All are in memory: five times their size.
        pieces: of the vocabulary; fewer if the text is too small for so many.
        order: n of the longest n-grams.
        sample: documents such as those that will be judged, whose percentiles are the cutoffs; by default the held-out
            ones, which are nearer to the model than any page of the web.
        tell: called with what happens now.

    Raises:
        ArrieroError: there is too little text.
    """
    documents = [document for document in texts if document.strip()]
    training = [line for number, document in enumerate(documents) if number % 10 != 9 for line in _lines(document)]
    held_out = [document for number, document in enumerate(documents) if number % 10 == 9]
    if len(training) < 2 or (sample is None and len(held_out) < 2):
        raise ArrieroError(f"expected 20 documents or more to train a language model on, got {len(documents)}")
    tell(f"pieces of {len(documents):,} documents")
    model = _train_pieces(training, pieces)
    processor = LanguageModel(model, NGramModel(0, (), 0.0), (0.0, 0.0))
    tell("n-grams")
    ngrams = train(processor.encode(training), len(processor.words()), order)
    bare = LanguageModel(model, ngrams, (0.0, 0.0))
    tell("cutoffs")
    scores = [
        score for text in (held_out if sample is None else sample) if (score := bare.perplexity(text)) is not None
    ]
    if not scores:
        raise ArrieroError("expected a sample with text in it, got none")
    low, high = (float(value) for value in np.percentile(scores, PERCENTILES))
    return LanguageModel(model, ngrams, (low, high))


def _train_pieces(lines: Sequence[str], pieces: int) -> bytes:
    sentencepiece = require("sentencepiece", extra="corpus", purpose="training a language model")
    sink = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=sink,
        vocab_size=pieces,
        model_type="unigram",
        character_coverage=0.9998,
        hard_vocab_limit=False,
        max_sentence_length=4 * LONGEST_LINE,
        num_threads=1,
        minloglevel=2,
    )
    return sink.getvalue()


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
