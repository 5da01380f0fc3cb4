"""SentencePiece models read here encode and decode as `sentencepiece` and `transformers` do."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import sentencepiece
from transformers import LlamaTokenizerFast
from transformers.convert_slow_tokenizer import SpmConverter
from transformers.tokenization_utils_base import generate_merges

from arriero.common.errors import FormatError
from arriero.tokenizer.load import load_tokenizer
from arriero.tokenizer.pieces import SPACE

VARIANTS = {
    "llama": {},
    "without dummy prefix": {"add_dummy_prefix": False},
    "default normaliser": {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True},
    "user-defined pieces": {"user_defined_symbols": ["<tool>", "<tool>x", "def "]},
    "padding": {"pad_id": 3},
}


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_encodes_and_decodes_as_sentencepiece(
    train_sentencepiece: Callable[..., Path], mixed_lines: list[str], settings: dict[str, object]
) -> None:
    file = train_sentencepiece(**settings)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(file))
    tokenizer = load_tokenizer(file)
    lines = [*mixed_lines, "a <tool>x <tool> def <tool", f"{SPACE}a{SPACE}b"]
    if "normalization_rule_name" in settings:  # code only: see Normalization.character_map
        lines = mixed_lines[:900]
    assert tokenizer.encode_batch(lines, bos=False) == reference.encode(lines)
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(lines)] == reference.decode(reference.encode(lines))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (1, 2, 0)
    assert tokenizer.pad_id == settings.get("pad_id")


def test_round_trip_is_exact(llama_model: Path, mixed_lines: list[str]) -> None:
    tokenizer = load_tokenizer(llama_model)
    for line in mixed_lines:
        assert tokenizer.decode(tokenizer.encode(line)) == line


def test_encodes_as_transformers_converts_it(llama_model: Path, mixed_lines: list[str]) -> None:
    reference = sentencepiece.SentencePieceProcessor(model_file=str(llama_model))
    converted = SpmConverter.build_tokenizer_from_spm_proto(_proto(reference), _vocabulary(reference))
    tokenizer = load_tokenizer(llama_model)
    for line in mixed_lines:
        ids = tokenizer.encode(line, bos=False)
        assert ids == converted.encode(line).ids
        assert tokenizer.decode(ids) == converted.decode(ids)


def test_encodes_as_llama_tokenizer_fast(llama_model: Path, mixed_lines: list[str]) -> None:
    """Spaces before a line are cut: there that class drops the dummy prefix, and SentencePiece does not."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(llama_model))
    vocabulary = _vocabulary(processor)
    scores = {token: processor.GetScore(token_id) for token, token_id in vocabulary.items()}
    reference = LlamaTokenizerFast(vocab=vocabulary, merges=generate_merges(vocabulary, scores))
    tokenizer = load_tokenizer(llama_model)
    for line in (line.lstrip(" ") for line in mixed_lines):
        ids = reference.encode(line, add_special_tokens=False)
        assert tokenizer.encode(line, bos=False, parse_special=True) == ids
        assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)


def test_first_token_is_bos_once(llama_model: Path) -> None:
    tokenizer = load_tokenizer(llama_model)
    assert tokenizer.encode("Hello").count(tokenizer.bos_id) == 1
    assert tokenizer.encode("Hello", bos=False).count(tokenizer.bos_id) == 0
    assert tokenizer.encode("Hello", eos=True)[-1] == tokenizer.eos_id


def test_names_of_control_tokens_are_text(llama_model: Path) -> None:
    tokenizer = load_tokenizer(llama_model)
    assert tokenizer.special_ids.isdisjoint(tokenizer.encode("<s> </s> <unk>", bos=False))
    assert tokenizer.encode("</s>", bos=False, parse_special=True) == [tokenizer.eos_id]


@pytest.mark.parametrize("kind", ["unigram", "char", "word"])
def test_other_kinds_are_refused_by_name(train_sentencepiece: Callable[..., Path], kind: str) -> None:
    size = {"unigram": 400, "char": 400, "word": 350}[kind]
    file = train_sentencepiece(model_type=kind, vocab_size=size, hard_vocab_limit=False)
    with pytest.raises(FormatError, match=r"tokenizer\.model is a SentencePiece .* model: only BPE"):
        load_tokenizer(file)


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: b"not a model", lambda data: data[: len(data) // 2]])
def test_a_damaged_file_is_named(llama_model: Path, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file = tmp_path / "tokenizer.model"
    file.write_bytes(damage(llama_model.read_bytes()))
    with pytest.raises(FormatError) as caught:
        load_tokenizer(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def _vocabulary(processor: sentencepiece.SentencePieceProcessor) -> dict[str, int]:
    return {processor.IdToPiece(token_id): token_id for token_id in range(processor.GetPieceSize())}


def _proto(processor: sentencepiece.SentencePieceProcessor) -> SimpleNamespace:
    """The model as the protocol-buffer object that `transformers` reads, without that package."""
    ids = range(processor.GetPieceSize())
    kinds = [
        2 if processor.IsUnknown(i) else 3 if processor.IsControl(i) else 6 if processor.IsByte(i) else 1 for i in ids
    ]
    pieces = [SimpleNamespace(piece=processor.IdToPiece(i), score=processor.GetScore(i), type=kinds[i]) for i in ids]
    normalizer = SimpleNamespace(
        precompiled_charsmap=b"", remove_extra_whitespaces=False, escape_whitespaces=True, add_dummy_prefix=True
    )
    trainer = SimpleNamespace(byte_fallback=True, unk_piece="<unk>", unk_id=0)
    return SimpleNamespace(pieces=pieces, normalizer_spec=normalizer, trainer_spec=trainer)
