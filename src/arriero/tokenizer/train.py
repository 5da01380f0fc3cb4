"""Train LLaMA's kind of tokenizer (Touvron et al. 2023, arXiv 2302.13971, section 2.1): BPE as SentencePiece has it.

Numbers are split into single digits, characters outside the alphabet fall back to UTF-8 bytes, and white space is kept
as it is: `▁` (U+2581) stands for a space, a run of spaces is a piece of its own, tabs and line ends are bytes. Ids are
laid out as LLaMA's: `<unk>`, `<s>`, `</s>`, the 256 bytes, the pieces in the order they were merged, and the alphabet
by frequency. What comes out is a SentencePiece vocabulary in all things (one dummy space before the text, the pair
whose union ranks best is joined first), so every text comes back as it was; save that U+2581 itself comes back as a
space, which it shares with every SentencePiece tokenizer.

The merges are learned by `tokenizers`, which is about as fast as `sentencepiece`, fits as well, takes a half to a third
of the memory on English and code (`benchmarks/tokenizer_training.py`), and is installed anyway. Deviations from
`sentencepiece`'s trainer: a piece may join letters of two scripts, unless one of them is Chinese or Japanese, and
single digits are those of every script.
"""

import atexit
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Regex, models, pre_tokenizers, trainers

from arriero.common.errors import ArrieroError
from arriero.common.files import atomic_file
from arriero.tokenizer.bpe_options import BOS, BYTES, EOS, UNK, BpeOptions
from arriero.tokenizer.pieces import SPACE
from arriero.tokenizer.spm_writer import sentencepiece_model
from arriero.tokenizer.tokenizer import Tokenizer
from arriero.tokenizer.vocabulary import Kind, Normalization, Vocabulary, build_sentencepiece, rank_merges

_WITHOUT_SPACES = r"\p{Han}\p{Hiragana}\p{Katakana}ー"
WORDS = (
    rf" ?[{_WITHOUT_SPACES}]+| ?[\p{{L}}\p{{M}}&&[^{_WITHOUT_SPACES}]]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}\p{{Cc}}]+"
    r"| +(?= [^\s\p{N}])| +|[\s&&[^ \p{Cc}]]+"
)
"""Where merges stop while they are learned, as SentencePiece's do: a word with the space before it, a digit, a run of
punctuation or symbols, a run of spaces. Control characters are in none."""

_CONTROL = [*range(0x20), *range(0x7F, 0xA0)]
_BREAK = "\n"  # a control character: no piece reaches over it


@dataclass(frozen=True, kw_only=True)
class TrainedBpe:
    """A vocabulary as SentencePiece has it."""

    vocabulary: Vocabulary
    scores: list[float]
    """Of each token: minus its place among the pieces, 0 for control and byte tokens."""

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, which begins sequences with `<s>`."""
        merges = rank_merges(self.vocabulary, self.scores)
        backend = build_sentencepiece(self.vocabulary, merges, Normalization())
        return Tokenizer(backend, unk_id=0, bos_id=1, eos_id=2, add_bos=True)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, `tokenizer_config.json`, and `tokenizer.model` as SentencePiece reads it."""
        self.tokenizer().save(folder)
        with atomic_file(folder / "tokenizer.model") as aside:
            aside.write_bytes(sentencepiece_model(self.vocabulary, self.scores))


def train_bpe(texts: Collection[str], options: BpeOptions | None = None, *, show_progress: bool = False) -> TrainedBpe:
    """Learn a vocabulary; the same texts and options give the same one, whatever the number of threads.

    Args:
        texts: read twice.
        options: what vocabulary to make.
        show_progress: draw bars on the error stream, if that is a terminal.

    Raises:
        ArrieroError: no text, or the vocabulary is too small for the alphabet or too large for the text.
    """
    options = options or BpeOptions()
    alphabet = choose_alphabet(texts, options.character_coverage)
    head = [UNK, BOS, EOS, *options.control, *BYTES]
    least = len(head) + len(alphabet)
    if options.vocab_size < least:
        raise ArrieroError(
            f"a vocabulary of {options.vocab_size:,} tokens is too small for this text: {len(head) - 256} control "
            f"tokens, 256 bytes and an alphabet of {len(alphabet):,} characters make {least:,}; a lower character "
            f"coverage than {options.character_coverage} makes a smaller alphabet"
        )
    wanted = options.vocab_size - least
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + wanted + len(head),  # what equals a control token is dropped below
        min_frequency=options.min_count,
        initial_alphabet=alphabet,
        max_token_length=options.max_piece_length,
        show_progress=show_progress,
    )
    reserved = set(head)
    merged = [piece for piece in _merge(texts, alphabet, trainer) if piece not in reserved][:wanted]
    if len(merged) < wanted:
        raise ArrieroError(
            f"this text gives a vocabulary of {least + len(merged):,} tokens at most, {options.vocab_size:,} were "
            f"wanted: it has only {len(merged):,} merges that occur {options.min_count} times or more; give more text, "
            "or a smaller vocabulary"
        )
    pieces = [piece.replace(" ", SPACE) for piece in [*merged, *alphabet]]
    kinds = [Kind.UNKNOWN, *[Kind.CONTROL] * (len(head) - 257), *[Kind.BYTE] * 256, *[Kind.NORMAL] * len(pieces)]
    vocabulary = Vocabulary(tokens=[*head, *pieces], kinds=kinds, controls=frozenset(range(len(head) - 256)))
    scores = [0.0] * len(head) + [-float(rank) for rank in range(len(pieces))]
    return TrainedBpe(vocabulary=vocabulary, scores=scores)


def choose_alphabet(texts: Collection[str], coverage: float) -> list[str]:
    """The commonest characters that together make up a share `coverage` of the text, commonest first.

    The space is always among them; control characters never are: each is one byte token.

    Raises:
        ArrieroError: there is no text.
    """
    counts: NDArray[np.int64] = np.zeros(0x110000, np.int64)
    rest = iter(texts)
    while batch := "".join(islice(rest, 256)):
        found = np.bincount(np.frombuffer(batch.encode("utf-32-le"), np.uint32))
        counts[: len(found)] += found
    counts[_CONTROL] = 0
    counts[ord(" ")] += counts[ord(SPACE)]
    counts[ord(SPACE)] = 0
    if not counts.any():
        raise ArrieroError("there is no text to train a tokenizer on")
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    chosen = order[(before < coverage * counts.sum()) & (counts[order] > 0)]
    alphabet = [chr(code) for code in chosen]
    return alphabet if " " in alphabet else [*alphabet, " "]


def _merge(texts: Collection[str], alphabet: list[str], trainer: trainers.BpeTrainer) -> list[str]:
    """The pieces that merges make, in order, each once; spaces are spaces."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), "removed", invert=True)
    known = "".join(map(re.escape, alphabet))
    foreign = re.compile(f"[^{known}{_BREAK}]+")
    stopped = threading.Event()

    def feed() -> Iterator[str]:
        for text in texts:
            if stopped.is_set():
                return
            yield foreign.sub(_BREAK, text.replace(SPACE, " "))

    _interruptible(lambda: backend.train_from_iterator(feed(), trainer, length=len(texts)), stopped)
    merges = json.loads(backend.to_str())["model"]["merges"]
    return list(dict.fromkeys(left + right for left, right in merges))


def _interruptible(work: Callable[[], None], stopped: threading.Event) -> None:
    """Do `work` in a thread: the library never looks for Ctrl-C, which then ends the wait for it."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # handed to the thread that waits
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.1)
    except KeyboardInterrupt:
        atexit.register(_leave, thread)
        raise
    finally:
        stopped.set()
    if failures:
        raise failures[0]


def _leave(thread: threading.Thread) -> None:
    """End the process as Ctrl-C does: a thread of Rust that asks Python for a text while Python ends aborts it."""
    if thread.is_alive():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(128 + signal.SIGINT)
