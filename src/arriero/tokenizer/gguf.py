"""Tokenizers embedded in GGUF files: the key-value section of the file, and the vocabulary in it.

The section's layout is that of the GGUF specification, versions 2 and 3 (little-endian). It is read here directly,
because the `gguf` package maps every single string of a vocabulary (seconds, where this takes a tenth).
"""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from arriero.common.errors import FormatError
from arriero.tokenizer.tokenizer import END_OF_TURN, Tokenizer
from arriero.tokenizer.vocabulary import (
    Kind,
    Normalization,
    Vocabulary,
    build_byte_level,
    build_sentencepiece,
    rank_merges,
)

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_PREFIX = "tokenizer.ggml."


def read_metadata(path: Path) -> dict[str, Any]:
    """The key-value pairs of a GGUF file, as Python values.

    Raises:
        FormatError: the file is missing, truncated, or no GGUF.
    """
    try:
        with path.open("rb") as file:
            return _Reader(file, path.stat().st_size).read()
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from error
    except (FormatError, struct.error, UnicodeDecodeError, KeyError) as error:
        reason = str(error) if isinstance(error, FormatError) else "its key-value section is damaged"
        raise FormatError(f"{path} is no readable GGUF file: {reason}") from error


class _Reader:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def read(self) -> dict[str, Any]:
        if self._take(4) != b"GGUF":
            raise FormatError("it does not begin with GGUF")
        (version,) = self._unpack("I")
        if version not in (2, 3):
            raise FormatError(f"version {version} is not supported: expected 2 or 3, little-endian")
        _tensors, pairs = self._unpack("QQ")
        return {self._string(): self._value(*self._unpack("I")) for _ in range(pairs)}

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._unpack(_NUMBERS[kind])[0]
        item, length = self._unpack("IQ")
        if item == _STRING:
            return [self._string() for _ in range(length)]
        if item == _ARRAY:
            return [self._value(_ARRAY) for _ in range(length)]
        return list(self._unpack(f"{length}{_NUMBERS[item]}"))

    def _string(self) -> str:
        return self._take(*self._unpack("Q")).decode()

    def _unpack(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{layout}", self._take(struct.calcsize(f"<{layout}")))

    def _take(self, count: int) -> bytes:
        if count > self._size:  # before anything of that size is allocated
            raise FormatError("it is truncated or damaged")
        data = self._file.read(count)
        if len(data) != count:
            raise FormatError("it is truncated")
        return data


def from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a GGUF file's key-value pairs describe.

    Raises:
        FormatError: a kind of vocabulary or of pre-tokenizer that is not supported, or fields that do not fit.
    """
    model = metadata.get(f"{_PREFIX}model")
    if model not in ("gpt2", "llama"):
        named = f"tokenizer model '{model}' is not supported" if model else f"there is no {_PREFIX}model"
        raise FormatError(f"{named}: expected gpt2 (byte-level BPE) or llama (SentencePiece)")
    vocabulary = _read_vocabulary(metadata)
    if model == "gpt2":
        pre = metadata.get(f"{_PREFIX}pre", "default")
        backend = build_byte_level(vocabulary, _read_merges(metadata), pre)
        adds_bos = pre in ("llama-bpe", "llama3", "llama-v3")  # what llama.cpp does where the file does not say
    else:
        prefix = bool(metadata.get(f"{_PREFIX}add_space_prefix", True))
        scores = metadata.get(f"{_PREFIX}scores", [])
        merges = rank_merges(vocabulary, scores) if len(set(scores)) > 1 else _read_merges(metadata)
        backend = build_sentencepiece(vocabulary, merges, Normalization(dummy_prefix=prefix))
        adds_bos = True
    return Tokenizer(
        backend,
        bos_id=_special(metadata, "bos"),
        eos_id=_special(metadata, "eos"),
        pad_id=_special(metadata, "padding"),
        unk_id=_special(metadata, "unknown"),
        add_bos=bool(metadata.get(f"{_PREFIX}add_bos_token", adds_bos)),
        add_eos=bool(metadata.get(f"{_PREFIX}add_eos_token", False)),
        stop_ids=[token_id for name in ("eot", "eom") if (token_id := _special(metadata, name)) is not None],
        chat_template=metadata.get("tokenizer.chat_template"),
    )


def _read_vocabulary(metadata: Mapping[str, Any]) -> Vocabulary:
    tokens = metadata.get(f"{_PREFIX}tokens", [])
    kinds = metadata.get(f"{_PREFIX}token_type", [Kind.NORMAL] * len(tokens))
    names = ("bos", "eos", "padding", "unknown", "eot", "eom")
    named = {token_id for name in names if (token_id := _special(metadata, name)) is not None}
    users = (token_id for token_id, kind in enumerate(kinds[: len(tokens)]) if kind == Kind.USER)
    turns = {token_id for token_id in users if tokens[token_id] in END_OF_TURN}
    return Vocabulary(tokens=tokens, kinds=kinds, controls=frozenset(turns | named))


def _read_merges(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    merges = metadata.get(f"{_PREFIX}merges")
    if not merges:
        raise FormatError(
            f"there are no {_PREFIX}merges" + ("" if metadata.get(f"{_PREFIX}model") == "gpt2" else " and no scores")
        )
    pairs = []
    for merge in merges:
        left, space, right = merge.partition(" ")
        if not (left and space and right):
            raise FormatError(f"merge {merge!r} is not two tokens with a space between")
        pairs.append((left, right))
    return pairs


def _special(metadata: Mapping[str, Any], name: str) -> int | None:
    token_id = metadata.get(f"{_PREFIX}{name}_token_id")
    return None if token_id is None else int(token_id)
