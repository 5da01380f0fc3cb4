"""Write a trained vocabulary as a SentencePiece `.model` file: LLaMA's own format, which many converters want.

The file is a protocol-buffer message (`sentencepiece_model.proto`); only what readers look at is written.
"""

import struct
from collections.abc import Sequence

from arriero.tokenizer.vocabulary import Kind, Vocabulary

_VARINT, _BYTES, _FLOAT = 0, 2, 5  # wire types
_BPE = 2


def sentencepiece_model(vocabulary: Vocabulary, scores: Sequence[float]) -> bytes:
    """The file's bytes, for LLaMA's normaliser: nothing is changed, and a space goes before the text.

    Args:
        vocabulary: ids 0, 1 and 2 are `<unk>`, `<s>` and `</s>`; the 256 byte tokens are among the rest.
        scores: of each token; the pair whose union has the highest is joined first.
    """
    pieces = [
        _field(1, token) + _field(2, float(score)) + _field(3, int(kind))
        for token, score, kind in zip(vocabulary.tokens, scores, vocabulary.kinds, strict=True)
    ]
    unk, bos, eos = vocabulary.tokens[:3]
    trainer = [
        _field(3, _BPE),
        _field(4, len(vocabulary.tokens)),
        _field(25, True),  # split_digits
        _field(26, True),  # allow_whitespace_only_pieces
        *(_field(30, vocabulary.tokens[i]) for i in range(3, _first_byte(vocabulary))),  # control_symbols
        _field(35, True),  # byte_fallback
        *(_field(number, token_id) for number, token_id in ((40, 0), (41, 1), (42, 2), (43, -1))),  # unk, bos, eos, pad
        *(_field(number, name) for number, name in ((45, unk), (46, bos), (47, eos))),
    ]
    normalizer = [
        _field(1, "identity"),
        _field(3, True),  # add_dummy_prefix
        _field(4, False),  # remove_extra_whitespaces
        _field(5, True),  # escape_whitespaces
    ]
    messages = [*((1, piece) for piece in pieces), (2, b"".join(trainer)), (3, b"".join(normalizer))]
    return b"".join(_field(number, message) for number, message in messages)


def _first_byte(vocabulary: Vocabulary) -> int:
    return list(vocabulary.kinds).index(Kind.BYTE)


def _field(number: int, value: str | bytes | float) -> bytes:
    """One field: text and bytes by length, a float as four bytes, an integer or a truth value as a varint."""
    if isinstance(value, (str, bytes)):
        content = value.encode() if isinstance(value, str) else value
        return _varint(number << 3 | _BYTES) + _varint(len(content)) + content
    if isinstance(value, int):
        return _varint(number << 3 | _VARINT) + _varint(value & 0xFFFF_FFFF_FFFF_FFFF)
    return _varint(number << 3 | _FLOAT) + struct.pack("<f", value)


def _varint(value: int) -> bytes:
    content = bytearray()
    while value > 0x7F:
        content.append(value & 0x7F | 0x80)
        value >>= 7
    content.append(value)
    return bytes(content)
