"""n-gram models as ARPA files, plain or `.gz`: what SRILM, KenLM and others write and read."""

import gzip
import io
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TextIO

import numpy as np

from arriero.common.errors import FormatError, NotFoundError
from arriero.common.files import atomic_file
from arriero.corpus.column import blocks
from arriero.corpus.ngram import IMPOSSIBLE, Ints, NGramModel, Order, look_up

BOS, EOS, UNKNOWN = "<s>", "</s>", "<unk>"
_BLOCK = 1 << 16
"""n-grams that are written at once."""


def write_arpa(model: NGramModel, words: Sequence[str], path: Path) -> None:
    """Write a model, whole or not at all.

    Args:
        words: the vocabulary's, in order; a space within one becomes a lower block (▁).
    """
    names = [*("▁".join(word.split(" ")) for word in words), BOS, EOS]
    with atomic_file(path) as aside, _open(aside, "wt", packed=path.suffix == ".gz") as file:
        file.write("\\data\\\n")
        for n, order in enumerate(model.orders, 1):
            file.write(f"ngram {n}={len(order.keys) + (n == 1)}\n")
        for n, order in enumerate(model.orders, 1):
            file.write(f"\n\\{n}-grams:\n")
            if n == 1:
                file.write(f"{model.unknown:.7g}\t{UNKNOWN}\n")
            for part in blocks(len(order.keys), _BLOCK):
                values = (_words(model, n, part).tolist(), order.log_prob[part].tolist(), order.backoff[part].tolist())
                for gram, log_prob, backoff in zip(*values, strict=True):
                    text = " ".join([names[word] for word in gram])
                    file.write(f"{log_prob:.7g}\t{text}" + (f"\t{backoff:.7g}\n" if backoff else "\n"))
        file.write("\n\\end\\\n")


def _words(model: NGramModel, n: int, part: slice) -> Ints:
    """The words of some n-grams, (M, n)."""
    keys = model.orders[n - 1].keys[part]
    columns = []
    for shorter in reversed(model.orders[: n - 1]):
        prefixes, last = np.divmod(keys, model.width)
        columns.append(last)
        keys = shorter.keys[prefixes]
    return np.stack([keys, *reversed(columns)], axis=1)


def _open(path: Path, mode: Literal["rt", "wt"], *, packed: bool) -> TextIO:
    open_text = gzip.open if packed else io.open
    opened = open_text(path, mode, encoding="utf-8", newline="\n")
    assert isinstance(opened, io.TextIOWrapper)
    return opened


def read_arpa(path: Path, words: Sequence[str] | None = None) -> tuple[NGramModel, list[str]]:
    """Read a model; and its words, by number. Memory: 8 bytes for each word of an n-gram, and 24 for each n-gram.

    Args:
        words: a vocabulary to number words by; others of the file are not taken. By default the file's own.

    Raises:
        NotFoundError, FormatError: there is no such file, or it is no ARPA file.
    """
    if not path.is_file():
        raise NotFoundError(f"no such file: {path}")
    try:
        with _open(path, "rt", packed=path.suffix == ".gz") as file:
            return _read(file, list(words) if words is not None else None)
    except (EOFError, OSError, UnicodeDecodeError, ValueError, IndexError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise FormatError(f"{path}: expected an ARPA file, and it is none, or damaged ({error})") from error


def _read(file: TextIO, words: list[str] | None) -> tuple[NGramModel, list[str]]:
    sizes = _sizes(file)
    unigrams = [line.split("\t") for line in _section(file, 1, sizes[0])]
    listed = {row[1]: float(row[0]) for row in unigrams}
    if words is None:
        words = [word for word in listed if word not in (BOS, EOS, UNKNOWN)]
    elif not any(word in listed for word in words):
        raise ValueError("it has none of the vocabulary's words")
    names = {word: number for number, word in enumerate([*words, BOS, EOS])}
    orders = [_order(("\t".join(row) for row in unigrams), names, [])]
    for n, size in enumerate(sizes[1:], 2):
        orders.append(_order(_section(file, n, size), names, orders))
    if _next_line(file) != "\\end\\":
        raise ValueError("expected \\end\\")
    return NGramModel(len(words), tuple(orders), listed.get(UNKNOWN, IMPOSSIBLE)), words


def _sizes(file: TextIO) -> list[int]:
    """How many n-grams of each n the head promises; the file is then behind the first section's name."""
    for line in file:
        if line.strip() == "\\data\\":
            break
    sizes: list[int] = []
    while (line := _next_line(file)).startswith("ngram "):
        n, _, size = line.removeprefix("ngram ").partition("=")
        if int(n) != len(sizes) + 1:
            raise ValueError(f"expected the number of {len(sizes) + 1}-grams, got that of {n}-grams")
        sizes.append(int(size))
    if not sizes or line != "\\1-grams:":
        raise ValueError("it has no head, or no 1-grams")
    return sizes


def _next_line(file: TextIO) -> str:
    """The next line that is not blank; '' at the end."""
    return next((line.rstrip("\r\n") for line in file if line.strip()), "")


def _section(file: TextIO, n: int, size: int) -> Iterator[str]:
    """The lines of one n; its name is read already if n is 1."""
    if n > 1 and _next_line(file) != f"\\{n}-grams:":
        raise ValueError(f"expected {n}-grams")
    for number in range(size):
        line = _next_line(file)
        if not line or line.startswith("\\"):
            raise ValueError(f"expected {size} {n}-grams, got {number}")
        yield line


def _order(lines: Iterator[str], names: dict[str, int], shorter: Sequence[Order]) -> Order:
    """The n-grams whose words are all known, sorted by key."""
    n = len(shorter) + 1
    numbers, log_probs, backoffs = array("q"), array("f"), array("f")
    for line in lines:
        log_prob, text, *backoff = line.split("\t")
        gram = [names.get(word, -1) for word in text.split(" ")]
        if len(gram) != n:
            raise ValueError(f"expected {n} words, got '{text}'")
        if -1 not in gram:
            numbers.extend(gram)
            log_probs.append(float(log_prob))
            backoffs.append(float(backoff[0]) if backoff else 0.0)
    grams = np.frombuffer(numbers, np.int64).reshape(-1, n) if numbers else np.zeros((0, n), np.int64)
    keys = grams[:, 0]
    for before, word in zip(shorter, grams.T[1:], strict=True):
        at = look_up(before.keys, keys)
        keys = np.where(at >= 0, at * len(names) + word, -1)
    keep = np.argsort(keys, kind="stable")
    keep = keep[np.count_nonzero(keys < 0) :]
    return Order(keys[keep], np.array(log_probs, np.float32)[keep], np.array(backoffs, np.float32)[keep])
