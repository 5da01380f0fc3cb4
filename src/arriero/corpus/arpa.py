"""n-gram models as ARPA files, plain or `.gz`: what SRILM, KenLM and others write and read."""

import gzip
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TextIO

import numpy as np

from arriero.common.errors import FormatError, NotFoundError
from arriero.common.files import atomic_file
from arriero.corpus.ngram import NGramModel, Order

BOS, EOS, UNKNOWN = "<s>", "</s>", "<unk>"


def write_arpa(model: NGramModel, words: Sequence[str], path: Path) -> None:
    """Write a model.

    Args:
        words: the vocabulary's, in order; white space within one becomes a lower block (▁).
    """
    names = [*("▁".join(word.split(" ")) for word in words), BOS, EOS]
    with atomic_file(path) as aside, _open(aside, "wt", packed=path.suffix == ".gz") as file:
        file.write("\\data\\\n")
        for n, order in enumerate(model.orders, 1):
            file.write(f"ngram {n}={len(order.keys) + (n == 1)}\n")
        texts: list[str] = []
        for n, order in enumerate(model.orders, 1):
            texts = _texts(order, texts, names, model.width)
            file.write(f"\n\\{n}-grams:\n")
            if n == 1:
                file.write(f"{model.unknown:.7g}\t{UNKNOWN}\n")
            for text, log_prob, backoff in zip(texts, order.log_prob.tolist(), order.backoff.tolist(), strict=True):
                file.write(f"{log_prob:.7g}\t{text}" + (f"\t{backoff:.7g}\n" if backoff else "\n"))
        file.write("\n\\end\\\n")


def _open(path: Path, mode: Literal["rt", "wt"], *, packed: bool) -> TextIO:
    open_text = gzip.open if packed else io.open
    opened = open_text(path, mode, encoding="utf-8")
    assert isinstance(opened, io.TextIOWrapper)
    return opened


def _texts(order: Order, shorter: Sequence[str], names: Sequence[str], width: int) -> list[str]:
    if not shorter:
        return [names[word] for word in order.keys.tolist()]
    prefix, word = np.divmod(order.keys, width)
    return [f"{shorter[before]} {names[last]}" for before, last in zip(prefix.tolist(), word.tolist(), strict=True)]


def read_arpa(path: Path, words: Sequence[str] | None = None) -> tuple[NGramModel, list[str]]:
    """Read a model; and its words, by number.

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
    names: dict[str, int] = {}
    orders: list[Order] = []
    unknown = -99.0
    for n, lines in _sections(file):
        rows = [line.split("\t") for line in lines]
        if n == 1:
            listed = [row[1] for row in rows if row[1] not in (BOS, EOS, UNKNOWN)] if words is None else words
            words = list(listed)
            names = {word: number for number, word in enumerate([*words, BOS, EOS])}
            unknown = next((float(row[0]) for row in rows if row[1] == UNKNOWN), -99.0)
        orders.append(_order(rows, names, orders))
    if not orders or words is None:
        raise ValueError("it holds no n-grams")
    return NGramModel(len(words), tuple(orders), unknown), words


def _sections(file: TextIO) -> Iterator[tuple[int, list[str]]]:
    lines: list[str] = []
    n = 0
    for raw in file:
        line = raw.rstrip("\n")
        if line.startswith("\\"):
            if n:
                yield n, lines
            lines, n = [], int(line[1:].partition("-")[0]) if line.endswith("-grams:") else 0
            if line == "\\end\\":
                return
        elif line and n:
            lines.append(line)
    raise ValueError("it has no \\end\\")


def _order(rows: Sequence[Sequence[str]], names: dict[str, int], shorter: Sequence[Order]) -> Order:
    """The n-grams whose words are all known, sorted by key."""
    width = len(names)
    known = []
    for row in rows:
        numbers = [names.get(word) for word in row[1].split(" ")]
        if None not in numbers:
            known.append((numbers, float(row[0]), float(row[2]) if len(row) > 2 else 0.0))
    grams = np.array([numbers for numbers, _, _ in known], np.int64).reshape(len(known), -1)
    keys = grams[:, 0] if len(known) else np.zeros(0, np.int64)
    for n in range(1, grams.shape[1] if len(known) else 0):
        table = shorter[n - 1].keys
        at = np.minimum(np.searchsorted(table, keys), len(table) - 1)
        keys = np.where(table[at] == keys, at, -1) * width + grams[:, n]
    keep = np.flatnonzero(keys >= 0)
    keep = keep[np.argsort(keys[keep], kind="stable")]
    log_prob, backoff = (np.array([row[which] for row in known], np.float64) for which in (1, 2))
    return Order(keys[keep], log_prob[keep], backoff[keep])
