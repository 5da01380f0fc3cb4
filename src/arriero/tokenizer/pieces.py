"""What each token id stands for: its bytes, and how a run of tokens becomes text.

Two families exist among LLaMA-architecture models. Byte-level BPE (GPT-2's, used by SmolLM2 and Llama 3) spells every
byte as a printable character; its text is all bytes in a row, read as UTF-8. SentencePiece (LLaMA, Llama 2, Mistral)
spells spaces as U+2581 and characters outside its vocabulary as byte tokens `<0x00>` … `<0xFF>`; a run of byte tokens
is read as UTF-8 when it is valid as a whole, and is otherwise one U+FFFD a byte. Both rules are those of the
`tokenizers` library, so that text streamed here equals what it decodes at once.
"""

import codecs
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import tokenizers

from arriero.common.errors import FormatError

SPACE = "▁"  # SentencePiece's visible space, U+2581
_LONG = 20_000  # characters that take some 50 ms


@cache
def byte_alphabet() -> Mapping[str, int]:
    """GPT-2's printable spelling of the 256 bytes: printable Latin-1 is itself, the rest is U+0100 onwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def encode_text(backend: tokenizers.Tokenizer, text: str, *, offsets: bool = False) -> tokenizers.Encoding:
    """A text as it stands, without the tokens around it; other threads run meanwhile where it is long.

    The library keeps Python's lock for one text, seconds for a few megabytes, and gives it up for a list of them.
    """
    if len(text) < _LONG:
        return backend.encode(text, add_special_tokens=False)
    encode = backend.encode_batch if offsets else backend.encode_batch_fast  # offsets take time and memory
    return encode([text], add_special_tokens=False)[0]


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """How the tokens of one vocabulary spell text."""

    kind: Literal["bytes", "sentencepiece"]
    """Byte-level BPE or SentencePiece."""
    byte_tokens: bool = False
    """SentencePiece: `<0xNN>` stands for a byte."""
    strips_space: bool = False
    """SentencePiece: the first space of a decoded text is the dummy prefix, and goes."""

    def read(self, token: str) -> str | bytes:
        """The text of a token, or its bytes where it may hold a part of a character."""
        if self.kind == "bytes":
            alphabet = byte_alphabet()
            try:
                return bytes(alphabet[character] for character in token)
            except KeyError:  # an added token, spelled as it is
                return token.encode()
        if self.byte_tokens and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            try:
                return bytes.fromhex(token[3:5])
            except ValueError:
                pass
        return token.replace(SPACE, " ")


def read_spelling(backend: tokenizers.Tokenizer) -> Spelling:
    """The spelling that a tokenizer's decoder implements.

    Raises:
        FormatError: the decoder is of no family that LLaMA-architecture models use.
    """
    if backend.decoder is None:
        raise FormatError(
            "the tokenizer has no decoder: expected ByteLevel or SentencePiece's (Replace, ByteFallback, Fuse)"
        )
    state: dict[str, Any] = json.loads(backend.decoder.__getstate__())
    steps = state["decoders"] if state["type"] == "Sequence" else [state]
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return Spelling(kind="bytes")
    head, tail = kinds[: len(kinds) - (kinds[-1:] == ["Strip"])], steps[-1:] if kinds[-1:] == ["Strip"] else []
    spaces = steps[0].get("pattern") == {"String": SPACE} and steps[0].get("content") == " "
    one_space = all((step["content"], step["start"], step["stop"]) == (" ", 1, 0) for step in tail)
    supported = (["Replace"], ["Replace", "Fuse"], ["Replace", "ByteFallback"], ["Replace", "ByteFallback", "Fuse"])
    if head not in supported or not spaces or not one_space or (tail and head[-1] != "Fuse"):
        raise FormatError(f"the decoder {' + '.join(kinds)} is not supported: expected ByteLevel or SentencePiece's")
    return Spelling(kind="sentencepiece", byte_tokens="ByteFallback" in head, strips_space=bool(tail))


class StreamDecoder:
    """Text of a growing row of tokens, in pieces that never hold a part of a character.

    The joined results of `push` and the last `flush` equal the text decoded at once, whatever the ids. Each push costs
    the token's own length: nothing is decoded again. A run of SentencePiece byte tokens is held until it ends, since
    its end decides how its beginning reads.
    """

    def __init__(self, texts: Mapping[int, str | bytes], spelling: Spelling, skipped: frozenset[int]) -> None:
        self._texts = texts
        self._skipped = skipped
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace") if spelling.kind == "bytes" else None
        self._run = bytearray()
        self._strip = spelling.strips_space

    def push(self, token_id: int) -> str:
        """The text that became certain with this token; '' while a character is incomplete."""
        piece = self._texts.get(token_id)
        if piece is None or token_id in self._skipped:
            return ""
        if self._utf8 is not None:
            return self._utf8.decode(piece if isinstance(piece, bytes) else piece.encode())
        if isinstance(piece, bytes):
            self._run += piece
            return ""
        return self._trim(self._end_run() + piece)

    def flush(self) -> str:
        """The text still held, incomplete characters as U+FFFD; the decoder can then be used anew."""
        if self._utf8 is not None:
            rest = self._utf8.decode(b"", final=True)
            self._utf8.reset()
            return rest
        return self._trim(self._end_run())

    def _end_run(self) -> str:
        run = bytes(self._run)
        self._run.clear()
        try:
            return run.decode()
        except UnicodeDecodeError:
            return "�" * len(run)

    def _trim(self, text: str) -> str:
        if self._strip and text:
            self._strip = False
            return text.removeprefix(" ")
        return text


def read_texts(backend: tokenizers.Tokenizer, spelling: Spelling, ids: Iterable[int]) -> dict[int, str | bytes]:
    """What each id of a vocabulary stands for; ids without a token are left out."""
    tokens = ((token_id, backend.id_to_token(token_id)) for token_id in ids)
    return {token_id: spelling.read(token) for token_id, token in tokens if token is not None}
