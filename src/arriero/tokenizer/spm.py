"""SentencePiece `.model` files (LLaMA's and Llama 2's own) as `tokenizers` pipelines.

Pieces and scores come from the `sentencepiece` package, which also checks the file. Kinds of pieces and the
normaliser's settings are not in that package's interface, so they are read from the file's protocol-buffer bytes.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arriero.common.errors import FormatError, require
from arriero.tokenizer.tokenizer import Tokenizer
from arriero.tokenizer.vocabulary import Kind, Normalization, Vocabulary, build_sentencepiece, rank_merges

_PIECE, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of ModelProto
_KIND = 3  # field of SentencePiece
_MODEL_TYPE = 3  # field of TrainerSpec
_MODEL_TYPES = {1: "Unigram", 2: "BPE", 3: "word", 4: "character"}
_CHARACTER_MAP, _DUMMY_PREFIX, _MERGE_SPACES = 2, 3, 4  # fields of NormalizerSpec


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
        processor.LoadFromSerializedProto(data)
        messages = dict(_fields(data, wanted=(_TRAINER, _NORMALIZER)))
        pieces = [dict(_fields(message)) for _, message in _fields(data, wanted=(_PIECE,))]
        model_type = dict(_fields(messages.get(_TRAINER, b""))).get(_MODEL_TYPE, 1)
        settings = dict(_fields(messages.get(_NORMALIZER, b"")))
    except (RuntimeError, IndexError, TypeError) as error:
        raise FormatError(f"{path} is no SentencePiece model: {' '.join(str(error).split())}") from error
    if model_type != 2:
        name = _MODEL_TYPES.get(model_type, f"type {model_type}")
        raise FormatError(f"{path} is a SentencePiece {name} model: only BPE is supported, which every LLaMA uses")
    ids = {f"{name}_id": getattr(processor, f"{name}_id")() for name in ("bos", "eos", "pad", "unk")}
    named = {name: token_id for name, token_id in ids.items() if token_id >= 0}
    vocabulary = Vocabulary(
        tokens=[processor.IdToPiece(token_id) for token_id in range(processor.GetPieceSize())],
        kinds=[piece.get(_KIND, Kind.NORMAL) for piece in pieces],
        controls=frozenset(named.values()),
    )
    normalization = Normalization(
        dummy_prefix=bool(settings.get(_DUMMY_PREFIX, 1)),
        merge_spaces=bool(settings.get(_MERGE_SPACES, 1)),
        character_map=settings.get(_CHARACTER_MAP, b""),
    )
    merges = rank_merges(vocabulary, [processor.GetScore(token_id) for token_id in range(len(vocabulary.tokens))])
    backend = build_sentencepiece(vocabulary, merges, normalization, user_pieces_in_text=True)
    return Tokenizer(backend, **({"add_bos": True} | named | options))


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
