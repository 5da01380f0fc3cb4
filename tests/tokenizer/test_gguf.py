"""Vocabularies embedded in GGUF files, read and written."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as Backend

from arriero.common.errors import FormatError
from arriero.common.gguf_header import read_header
from arriero.tokenizer.gguf import from_gguf, to_gguf
from arriero.tokenizer.load import load_tokenizer
from arriero.tokenizer.tokenizer import Tokenizer

Train = Callable[..., dict[str, Any]]

# The patterns as llama.cpp and the models' own tokenizer.json give them, not as this package does.
WORDS = {
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "smollm": r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+",
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


@pytest.mark.parametrize("pre", WORDS)
def test_words_are_split_by_the_published_pattern(byte_level_metadata: Train, mixed_lines: list[str], pre: str) -> None:
    metadata = byte_level_metadata(pre)
    tokenizer = from_gguf(metadata)
    reference = Backend.from_str(tokenizer.backend.to_str())
    reference.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS[pre]), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    for line in mixed_lines:
        assert tokenizer.encode(line, bos=False, parse_special=True) == reference.encode(line).ids


def test_default_and_absent_pre_are_gpt2(byte_level_metadata: Train) -> None:
    metadata = byte_level_metadata("gpt-2")
    expected = from_gguf(metadata).encode("In 1984  he didn't")
    assert from_gguf(metadata | {"tokenizer.ggml.pre": "default"}).encode("In 1984  he didn't") == expected
    del metadata["tokenizer.ggml.pre"]
    assert from_gguf(metadata).encode("In 1984  he didn't") == expected


def test_an_unknown_pre_is_refused_with_the_known_ones(byte_level_metadata: Train) -> None:
    with pytest.raises(FormatError, match=r"'qwen2' is not supported: expected smollm, llama-bpe, .*gpt-2.*default"):
        from_gguf(byte_level_metadata() | {"tokenizer.ggml.pre": "qwen2"})


def test_llama3_begins_with_bos_unless_the_file_says_otherwise(byte_level_metadata: Train) -> None:
    metadata = byte_level_metadata("llama-bpe")
    assert from_gguf(metadata).add_bos
    assert not from_gguf(metadata | {"tokenizer.ggml.add_bos_token": False}).add_bos
    assert not from_gguf(byte_level_metadata("gpt-2")).add_bos


def test_a_pad_token_that_is_text_stays_text(byte_level_metadata: Train) -> None:
    metadata = byte_level_metadata()
    exclamation = metadata["tokenizer.ggml.tokens"].index("!")
    tokenizer = from_gguf(metadata | {"tokenizer.ggml.padding_token_id": exclamation})
    assert tokenizer.pad_id == exclamation
    assert tokenizer.decode(tokenizer.encode("Oh!")) == "Oh!"
    assert from_gguf(metadata | {"tokenizer.ggml.padding_token_id": 2**32 - 1}).pad_id is None


def test_ends_of_turn_stop_an_answer(byte_level_metadata: Train) -> None:
    assert from_gguf(byte_level_metadata(eos_token_id=0, eot_token_id=2)).stop_ids == {0, 2}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": "bert"}, "'bert' is not supported: expected gpt2"),
        ({"model": None}, r"no tokenizer\.ggml\.model"),
        ({"tokens": []}, "vocabulary is empty"),
        ({"token_type": [1]}, "1 token types for 600 tokens"),
        ({"merges": []}, r"no tokenizer\.ggml\.merges"),
        ({"merges": ["ab"]}, "'ab' is not two tokens"),
        ({"merges": ["Zq qZ"]}, "do not fit the vocabulary"),
        ({"bos_token_id": 10**6}, "1000000 is outside the vocabulary of 600"),
        ({"pad_token_id": 1, "padding_token_id": 601}, "pad token's id 601 is outside the vocabulary"),
        ({"tokens": ["a"] * 600}, "'a' occurs twice"),
        ({"tokens": 5}, r"ggml\.tokens must be a list of str"),
        ({"merges": [5]}, r"ggml\.merges must be a list of str"),
        ({"bos_token_id": "x"}, r"bos_token_id must be int"),
        ({"pre": [1]}, r"ggml\.pre must be str"),
        ({"model": "llama"}, r"no tokenizer\.ggml\.merges and no tokenizer\.ggml\.scores"),
        ({"model": "llama", "scores": [0.5, 1.5]}, "2 scores for 600 tokens"),
    ],
)
def test_fields_that_do_not_fit_are_named(byte_level_metadata: Train, change: dict[str, Any], reason: str) -> None:
    metadata = byte_level_metadata()
    metadata |= {f"tokenizer.ggml.{key}": value for key, value in change.items()}
    if "model" in change:
        metadata["tokenizer.ggml.merges"] = []
    with pytest.raises(FormatError, match=reason) as caught:
        from_gguf(metadata)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pre", WORDS)
def test_byte_level_survives_the_format(byte_level_metadata: Train, pre: str) -> None:
    tokenizer = from_gguf(byte_level_metadata(pre))
    tokenizer.use_chat_template("chatml")
    written = to_gguf(tokenizer)
    assert written["tokenizer.ggml.pre"] == pre
    assert written["tokenizer.chat_template"] == tokenizer.chat_template.source
    again = from_gguf(written)
    assert again.backend.to_str() == tokenizer.backend.to_str()
    assert (again.bos_id, again.eos_id, again.add_bos, again.stop_ids) == (1, 2, tokenizer.add_bos, tokenizer.stop_ids)


@pytest.mark.weights
def test_smollm2_is_written_as_it_was_read(smollm2_gguf: Path) -> None:
    metadata = read_header(smollm2_gguf).metadata
    written = to_gguf(from_gguf(metadata))
    assert {key: metadata.get(key, False) for key in written} == written
    assert written["tokenizer.ggml.pre"] == "smollm"


def test_sentencepiece_survives_the_format(llama_model: Path, mixed_lines: list[str]) -> None:
    tokenizer = load_tokenizer(llama_model)
    again = from_gguf(to_gguf(tokenizer))
    assert again.encode_batch(mixed_lines) == tokenizer.encode_batch(mixed_lines)
    assert (again.bos_id, again.eos_id, again.unk_id, again.add_bos) == (1, 2, 0, True)
    assert to_gguf(again) == to_gguf(tokenizer)


def test_sentencepiece_scores_rank_the_merges(llama_model: Path, mixed_lines: list[str]) -> None:
    tokenizer = load_tokenizer(llama_model)
    metadata = to_gguf(tokenizer)
    scores = metadata["tokenizer.ggml.scores"]
    worse = from_gguf(metadata | {"tokenizer.ggml.scores": [-score for score in scores]})
    assert worse.encode_batch(mixed_lines) != tokenizer.encode_batch(mixed_lines)


def test_without_a_space_prefix(llama_model: Path) -> None:
    metadata = to_gguf(load_tokenizer(llama_model))
    bare = from_gguf(metadata | {"tokenizer.ggml.add_space_prefix": False})
    assert bare.decode(bare.encode(" x", bos=False)) == " x"
    assert bare.backend.id_to_token(bare.encode("x", bos=False)[0]) == "x"
    assert to_gguf(bare)["tokenizer.ggml.add_space_prefix"] is False


def test_a_pipeline_that_gguf_cannot_name_is_refused(small: Tokenizer, llama_model: Path) -> None:
    other = Backend.from_str(small.backend.to_str())
    other.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    with pytest.raises(FormatError, match="no name in GGUF"):
        to_gguf(Tokenizer(other))
    state = json.loads(load_tokenizer(llama_model).backend.to_str())
    products = Counter("".join(merge) for merge in state["model"]["merges"])
    state["model"]["merges"].remove(next(m for m in state["model"]["merges"] if products["".join(m)] > 1))
    with pytest.raises(FormatError, match="cannot be written as SentencePiece scores"):
        to_gguf(Tokenizer(Backend.from_str(json.dumps(state))))
