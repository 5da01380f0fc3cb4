"""From examples to supervised rows of tokens: loss on answers only, told by the places that the chat template gives.

Which tokens are answers is known from the ids (`Tokenizer.encode_answers`), never from searching the text, so it cannot
swallow a later turn or lose the token that ends one. What does not fit is treated as was asked for, and counted.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from arriero.common.errors import ArrieroError
from arriero.common.progress import progress
from arriero.tokenizer.tokenizer import Tokenizer
from arriero.train.examples import Example
from arriero.train.sft_config import Answers, TooLong


@dataclass(frozen=True, eq=False)
class Supervised:
    """An example as tokens."""

    ids: NDArray[np.int32]
    """(T,) tokens."""
    learnt: NDArray[np.bool_]
    """(T,) whether the model is to learn to say a token where it stands; never the first."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class Census:
    """What became of the examples; counts."""

    examples: int
    """As read."""
    kept: int
    dropped: int
    """Longer than a row."""
    truncated: int
    """Cut at a row's end: they keep their beginning, and lack their end-of-turn token."""
    tokens: int
    supervised: int
    """Tokens with a loss."""
    median_tokens: int
    """Of the examples as read."""
    longest_tokens: int
    repeated: int
    """Kept examples that are equal to an earlier one."""


def supervise(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    answers: Answers = "all",
    too_long: TooLong = "drop",
) -> tuple[list[Supervised], list[Example], Census]:
    """The examples as tokens, those that were kept, and the count.

    Raises:
        ArrieroError: an example has no token to learn or is too long with `too_long` error, naming file and line; or
            the template does not suit.
    """
    rows: list[Supervised] = []
    kept: list[Example] = []
    lengths, truncated, seen, repeated = [], 0, set[bytes](), 0
    with progress("tokenizing", len(examples), "examples") as advance:
        for example in examples:
            row = encode_example(example, tokenizer, answers)
            lengths.append(len(row))
            advance(1)
            if len(row) > max_tokens and too_long == "error":
                raise ArrieroError(
                    f"{example.where}: {len(row)} tokens, more than the {max_tokens} of a row: raise --tokens, or give "
                    "--too-long drop or truncate"
                )
            if len(row) > max_tokens and too_long == "truncate":
                row = Supervised(row.ids[:max_tokens], row.learnt[:max_tokens])
                truncated += bool(row.learnt.any())
            if len(row) > max_tokens or not row.learnt.any():
                continue
            digest = hashlib.blake2b(row.ids.tobytes(), digest_size=12).digest()
            repeated += digest in seen
            seen.add(digest)
            rows.append(row)
            kept.append(example)
    census = Census(
        examples=len(examples),
        kept=len(rows),
        dropped=len(examples) - len(rows),
        truncated=truncated,
        tokens=sum(map(len, rows)),
        supervised=sum(int(row.learnt.sum()) for row in rows),
        median_tokens=int(np.median(lengths)) if lengths else 0,
        longest_tokens=max(lengths, default=0),
        repeated=repeated,
    )
    return rows, kept, census


def encode_example(example: Example, tokenizer: Tokenizer, answers: Answers = "all") -> Supervised:
    """One example as tokens.

    Raises:
        ArrieroError: it has no token to learn, or the chat template does not suit it; names file and line.
    """
    try:
        if example.messages:
            ids, spans = tokenizer.encode_answers(example.messages)
        else:
            ids = tokenizer.encode(example.text, eos=True)
            spans = [(0, len(ids))]
    except ArrieroError as error:
        raise ArrieroError(f"{example.where}: {error}") from error
    learnt = np.zeros(len(ids), np.bool_)
    for start, end in spans[-1:] if answers == "last" else spans:
        learnt[start:end] = True
    learnt[:1] = False  # nothing stands before it
    if not learnt.any():
        raise ArrieroError(f"{example.where}: no token to learn: expected an answer of the assistant, or a text")
    return Supervised(np.array(ids, np.int32), learnt)


def pack(lengths: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """Rows of examples that together have at most `size` tokens, each example whole: best fit, the longest first.

    Args:
        lengths: tokens of each example, none above `size`.

    Returns:
        The numbers of the examples in each row, rows in the order of their first example.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    open_rows: dict[int, list[list[int]]] = {}  # by the room that is left
    rooms = 0  # bit r is set where a row has room r left
    for index in order:
        fitting = rooms >> lengths[index]
        if fitting:
            room = lengths[index] + (fitting & -fitting).bit_length() - 1
            row = open_rows[room].pop()
            if not open_rows[room]:
                rooms &= ~(1 << room)
        else:
            room, row = size, []
        row.append(index)
        left = room - lengths[index]
        open_rows.setdefault(left, []).append(row)
        rooms |= 1 << left
    rows = [tuple(sorted(row)) for found in open_rows.values() for row in found]
    return sorted(rows)


def split_held_out(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Examples to train on, and about a share held out, at least one; equal prompts are on the same side.

    Which prompts are held out depends on their text and the seed, not on the order of the examples.

    Raises:
        ArrieroError: all have one prompt, so that nothing would be left to train on.
    """
    if not share:
        return list(examples), []

    def place(prompt: str) -> bytes:
        return hashlib.blake2b(f"{seed}/{prompt}".encode(), digest_size=8).digest()

    counts = Counter(map(_prompt, examples))
    order = sorted(counts, key=place)
    wanted, held, out = min(round(share * len(examples)), len(examples) - 1), 0, set[str]()
    for prompt in order:
        if held + counts[prompt] <= wanted:  # one that is asked too often must not take the training's examples along
            held += counts[prompt]
            out.add(prompt)
    out = out or {min(order, key=counts.__getitem__)}
    training = [example for example in examples if _prompt(example) not in out]
    if not training:
        raise ArrieroError(
            f"eval_share: expected examples of two prompts or more, to hold one out, got {len(examples)} of one: give "
            "more examples, --eval-share 0, or --eval-data"
        )
    return training, [example for example in examples if _prompt(example) in out]


def _prompt(example: Example) -> str:
    """What stands before the first answer."""
    parts = []
    for message in example.messages:
        if message["role"] == "assistant":
            break
        parts.append(f"{message['role']}: {message['content'].strip()}")
    return "\n".join(parts) or example.text or example.where
