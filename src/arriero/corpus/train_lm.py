"""Training of the language model that judges web pages (Wenzek et al. 2020, section 3.3): pieces, n-grams, cutoffs.

The reference is read once, cut into excerpts, and kept in a temporary file, so its size is bounded by the disk.
"""

import dataclasses
import io
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

import numpy as np

from arriero.common.errors import ArrieroError, require
from arriero.corpus.kneser_ney import train
from arriero.corpus.perplexity import (
    LONGEST_LINE,
    PERCENTILES,
    LanguageModel,
    Pieces,
    batches,
    normalised_lines,
)

PIECES, ORDER = 65_536, 5
EXCERPT = 5_000
"""Characters from which on a document, such as a book, is cut at its next line."""
LEAST = 20
"""Excerpts of a reference."""
HELD_OUT = 10_000
"""Most excerpts that are held out."""
LINES = 1_000_000
"""Most lines that pieces are learnt from, evenly spread over the text: SentencePiece holds all in memory."""
_THREADS = 4
"""Always as many, because the pieces depend on it."""
Report = Callable[[str], None]


def train_language_model(
    texts: Iterable[str],
    *,
    pieces: int = PIECES,
    order: int = ORDER,
    sample: Iterable[str] | None = None,
    tell: Report = lambda what: None,
) -> LanguageModel:
    """Train a model on a reference.

    Memory: that of SentencePiece for `LINES` lines (some GB at most), and 400 MB for the n-grams. Disk: about 200 bytes
    for each piece of the text while it works.

    Args:
        texts: the reference's documents, read once; every tenth excerpt is held out, up to `HELD_OUT`.
        pieces: of the vocabulary; fewer if the text is too small for so many, which is told.
        order: n of the longest n-grams.
        sample: documents such as those that will be judged, whose percentiles are the cutoffs; by default the held-out
            excerpts, which are nearer to the model than any page of the web.
        tell: called with what happens now.

    Raises:
        ArrieroError: there is too little text, or there are more characters than pieces.
        OSError: the disk is full.
    """
    held_out: list[str] = []
    with tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n") as file:
        tell("reading")
        excerpts, lines = _write_lines(texts, held_out, file)
        if excerpts < LEAST:
            raise ArrieroError(
                f"expected {LEAST} documents or more to train a language model on, or {EXCERPT:,} characters for each "
                f"that is missing, got {excerpts}"
            )
        step = -(-lines // LINES)
        tell(f"pieces, from {-(-lines // step):,} of {lines:,} lines")
        made = _train_pieces(_read_lines(file), step, pieces)
        size = len(made)
        if size < pieces:
            tell(f"{size:,} pieces: the text is too small for {pieces:,}")
        tell("n-grams")
        encoded = (sentence for batch in batches(_read_lines(file)) for sentence in made.encode(batch))
        model = LanguageModel(made, train(encoded, size, order), (0.0, 0.0))
    tell("cutoffs")
    return dataclasses.replace(model, cutoffs=_cutoffs(model, held_out if sample is None else sample))


def _write_lines(texts: Iterable[str], held_out: list[str], file: TextIO) -> tuple[int, int]:
    """Write the lines to train on, keep the excerpts that are held out, and count the excerpts and the lines."""
    number = count = 0
    for number, lines in enumerate(_excerpts(texts), 1):
        if number % 10 == 0 and len(held_out) < HELD_OUT:
            held_out.append("\n".join(lines))
        else:
            file.writelines(f"{line}\n" for line in lines)
            count += len(lines)
    return number, count


def _excerpts(texts: Iterable[str]) -> Iterator[list[str]]:
    """The normalised lines of each document that has any; of long ones, in parts."""
    for text in texts:
        excerpt: list[str] = []
        size = 0
        for line in normalised_lines(text):
            excerpt.append(line)
            size += len(line)
            if size >= EXCERPT:
                yield excerpt
                excerpt, size = [], 0
        if excerpt:
            yield excerpt


def _read_lines(file: TextIO) -> Iterator[str]:
    file.seek(0)
    return (line.rstrip("\n") for line in file)


def _train_pieces(lines: Iterator[str], step: int, pieces: int) -> Pieces:
    """Learn them from every `step`-th line."""
    sentencepiece = require("sentencepiece", extra="corpus", purpose="training a language model")
    sink = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line for number, line in enumerate(lines) if number % step == 0),
            model_writer=sink,
            vocab_size=pieces,
            model_type="unigram",
            character_coverage=0.9998,
            hard_vocab_limit=False,
            max_sentence_length=4 * LONGEST_LINE,
            num_threads=_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        if needed := re.search(r" vs (\d+)\.", str(error)):
            raise ArrieroError(
                f"pieces: expected {needed[1]} or more, as the text has so many characters, got {pieces}"
            ) from error
        raise ArrieroError(f"SentencePiece learns no pieces from this text: {str(error).splitlines()[0]}") from error
    return Pieces(sink.getvalue())


def _cutoffs(model: LanguageModel, sample: Iterable[str]) -> tuple[float, float]:
    scores = [score for text in sample if (score := model.perplexity(text)) is not None]
    if not scores:
        raise ArrieroError("expected a sample with text in it, got none")
    low, high = (float(value) for value in np.percentile(scores, PERCENTILES))
    return low, high
