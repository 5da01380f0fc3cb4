"""SentencePiece `.model` files (LLaMA's and Llama 2's own) as `tokenizers` pipelines.

Pieces, scores and kinds come from the `sentencepiece` package, which also checks the file. Its normaliser settings are
not in that package's interface, so the two messages that hold them are read from the file's protocol-buffer bytes.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arriero.common.errors import FormatError, require
from arriero.tokenizer.tokenizer import Tokenizer
from arriero.tokenizer.vocabulary import Kind, Normalization, Vocabulary, build_sentencepiece, rank_merges

_TRAINER, _NORMALIZER = 2, 3  # fields of ModelProto
_MODEL_TYPE = 3  # field of TrainerSpec
_MODEL_TYPES = {1: "Unigram", 2: "BPE", 3: "word", 4: "character"}
_CHARACTER_MAP, _DUMMY_PREFIX, _MERGE_SPACES, _ESCAPE = 2, 3, 4, 5  # fields of NormalizerSpec


def load_sentencepiece(path: Path, **options: Any) -> Tokenizer:
    """The tokenizer of a SentencePiece BPE model; `options` overrule what `Tokenizer` is given.

    Raises:
        FormatError: the file is no SentencePiece model, or not of type BPE.
        MissingExtraError: the package `sentencepiece` is not installed.
    """
    library = require("sentencepiece", extra="sentencepiece", purpose="reading a SentencePiece .model file")
    data = path.read_bytes()
    processor = library.SentencePieceProcessor()
    try:
        if not data:
            raise RuntimeError("it is empty")
        processor.LoadFromSerializedProto(data)
        messages = dict(_fields(data, wanted=(_TRAINER, _NORMALIZER)))
        kind = dict(_fields(messages.get(_TRAINER, b""))).get(_MODEL_TYPE, 1)
        settings = dict(_fields(messages.get(_NORMALIZER, b"")))
    except (RuntimeError, IndexError, TypeError) as error:
        raise FormatError(f"{path} is no SentencePiece model: {' '.join(str(error).split())}") from error
    if kind != 2:
        name = _MODEL_TYPES.get(kind, f"type {kind}")
        raise FormatError(f"{path} is a SentencePiece {name} model: only BPE is supported, which every LLaMA uses")
    ids = range(processor.GetPieceSize())
    special = {
        "bos_id": processor.bos_id(), "eos_id": processor.eos_id(), "pad_id": processor.pad_id(), "unk_id":
        processor.unk_id()
    }  # fmt: skip
    vocabulary = Vocabulary(
        tokens=[processor.IdToPiece(i) for i in ids],
        kinds=[_kind(processor, i) for i in ids],
        controls=frozenset(token_id for token_id in special.values() if token_id >= 0),
    )
    normalization = Normalization(
        dummy_prefix=bool(settings.get(_DUMMY_PREFIX, 1)),
        merge_spaces=bool(settings.get(_MERGE_SPACES, 1)),
        character_map=settings.get(_CHARACTER_MAP, b""),
    )
    merges = rank_merges(vocabulary, [processor.GetScore(i) for i in ids])
    backend = build_sentencepiece(vocabulary, merges, normalization)
    named = {name: token_id for name, token_id in special.items() if token_id >= 0}
    return Tokenizer(backend, **({"add_bos": True} | named | options))


def _kind(processor: Any, token_id: int) -> Kind:
    if processor.IsUnknown(token_id):
        return Kind.UNKNOWN
    if processor.IsControl(token_id):
        return Kind.CONTROL
    if processor.IsByte(token_id):
        return Kind.BYTE
    if processor.IsUnused(token_id):
        return Kind.UNUSED
    return Kind.NORMAL


def _fields(message: bytes, wanted: tuple[int, ...] = ()) -> Iterator[tuple[int, Any]]:
    """Field numbers and values of a protocol-buffer message: numbers for varints, bytes for the rest."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire = tag >> 3, tag & 7
        value: Any
        if wire == 0:
            value, position = _varint(message, position)
        else:
            length = {1: 8, 5: 4}.get(wire)
            if length is None:
                length, position = _varint(message, position)
            value, position = message[position : position + length], position + length
        if not wanted or number in wanted:
            yield number, value


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
