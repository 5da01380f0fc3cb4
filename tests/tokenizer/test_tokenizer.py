"""SmolLM2's vocabulary encodes and decodes as `transformers` does it; ids, bytes and defaults of every tokenizer."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from arriero.common.errors import ArrieroError
from arriero.tokenizer.gguf import from_gguf
from arriero.tokenizer.load import load_tokenizer
from arriero.tokenizer.tokenizer import Tokenizer

PUBLISHED_SMOLLM2 = {  # tokenizer.json of HuggingFaceTB/SmolLM2-135M-Instruct, without the vocabulary
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        ],
    },
    "post_processor": None,
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
}


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> Tokenizer:
    return load_tokenizer(smollm2_gguf)


@pytest.fixture(scope="module")
def published(smollm2_gguf: Path) -> PreTrainedTokenizerFast:
    """`transformers`' tokenizer over the published pipeline, its vocabulary read by the `gguf` package."""
    reader = gguf.GGUFReader(smollm2_gguf)
    tokens, merges, kinds = (
        reader.fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges", "token_type")
    )
    model = {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges, "fuse_unk": False}
    backend = Backend.from_str(json.dumps(PUBLISHED_SMOLLM2 | {"model": model}))
    special = [
        AddedToken(token, special=True, normalized=False)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind == 3
    ]
    backend.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )


@pytest.mark.weights
def test_smollm2_encodes_as_transformers(smollm2: Tokenizer, published: Any, mixed_lines: list[str]) -> None:
    expected = [published.encode(line) for line in mixed_lines]
    assert smollm2.encode_batch(mixed_lines, parse_special=True) == expected
    text = "\n".join(mixed_lines)
    assert smollm2.encode(text, parse_special=True) == published.encode(text)


@pytest.mark.weights
def test_smollm2_decodes_as_transformers(smollm2: Tokenizer, published: Any, mixed_lines: list[str]) -> None:
    for line in mixed_lines:
        ids = published.encode(line)
        assert smollm2.decode(ids) == published.decode(ids, skip_special_tokens=True)
        assert smollm2.decode(ids, skip_special=False) == published.decode(ids)


@pytest.mark.weights
def test_smollm2_encodes_chinese_questions_as_transformers(
    smollm2: Tokenizer, published: Any, data_folder: Path
) -> None:
    articles = json.loads((data_folder / "xquad.zh.json").read_text())["data"]
    contexts = [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]
    assert smollm2.encode_batch(contexts) == [published.encode(context) for context in contexts]


@pytest.mark.weights
def test_smollm2_encodes_as_transformers_reads_the_file(
    smollm2: Tokenizer, smollm2_gguf: Path, mixed_lines: list[str]
) -> None:
    """Without lines with white space before a digit: `transformers` reads the file without SmolLM2's digit rule."""
    reference = AutoTokenizer.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)
    lines = [line for line in mixed_lines if not any(a.isspace() and b.isnumeric() for a, b in pairwise(line))]
    assert len(lines) > 1000
    assert smollm2.encode_batch(lines, parse_special=True) == [reference.encode(line) for line in lines]


@pytest.mark.weights
def test_smollm2_round_trip_is_exact(smollm2: Tokenizer, mixed_lines: list[str]) -> None:
    assert [smollm2.decode(ids) for ids in smollm2.encode_batch(mixed_lines)] == mixed_lines


@pytest.mark.weights
def test_smollm2_knows_its_control_tokens(smollm2: Tokenizer) -> None:
    assert smollm2.vocab_size == 49152
    assert (smollm2.bos_id, smollm2.eos_id, smollm2.pad_id, smollm2.unk_id) == (1, 2, 2, 0)
    assert not smollm2.add_bos
    assert smollm2.stop_ids == {0, 2}
    assert smollm2.token_id("<|im_end|>") == 2
    assert smollm2.token_id("no such token") is None


@settings(deadline=None)
@given(st.text())
def test_any_text_survives(small: Tokenizer, text: str) -> None:
    ids = small.encode(text)
    assert small.decode(ids) == text
    assert b"".join(map(small.token_bytes, ids)) == text.encode()
    assert small.special_ids.isdisjoint(ids)


@settings(deadline=None)
@given(st.lists(st.text(max_size=20), max_size=5))
def test_a_batch_is_its_texts_one_by_one(small: Tokenizer, texts: list[str]) -> None:
    assert small.encode_batch(texts) == [small.encode(text) for text in texts]


def test_names_of_control_tokens_are_text_unless_parsed(small: Tokenizer) -> None:
    text = "a<|im_end|>b"
    assert small.eos_id not in small.encode(text)
    assert small.encode(text, parse_special=True).count(small.eos_id) == 1
    assert small.decode(small.encode(text)) == text
    assert small.decode(small.encode(text, parse_special=True)) == "ab"
    assert small.decode(small.encode(text, parse_special=True), skip_special=False) == text


def test_edges_follow_the_model_unless_told(byte_level_metadata: Callable[..., dict[str, Any]]) -> None:
    plain = from_gguf(byte_level_metadata())
    edged = from_gguf(byte_level_metadata(add_bos_token=True, add_eos_token=True))
    body = plain.encode("text")
    assert edged.encode("text") == [1, *body, 2]
    assert edged.encode("text", bos=False, eos=False) == body
    assert plain.encode("text", bos=True, eos=True) == [1, *body, 2]
    assert edged.encode("") == [1, 2]


def test_a_token_that_is_absent_cannot_be_asked_for(byte_level_metadata: Callable[..., dict[str, Any]]) -> None:
    metadata = byte_level_metadata()
    del metadata["tokenizer.ggml.bos_token_id"]
    with pytest.raises(ArrieroError, match="no beginning-of-sequence token"):
        from_gguf(metadata).encode("text", bos=True)


def test_a_lone_surrogate_is_refused(small: Tokenizer) -> None:
    with pytest.raises(ArrieroError, match="lone surrogate at character 2"):
        small.encode("ab\ud83d")


def test_ids_without_a_token_are_nothing(small: Tokenizer) -> None:
    assert small.decode([small.vocab_size + 5]) == ""
    assert small.token_bytes(small.vocab_size + 5) == b""


def test_words_looked_up_before_merging_never_become_control_tokens(
    byte_level_metadata: Callable[..., dict[str, Any]],
) -> None:
    metadata = byte_level_metadata("llama-bpe")
    metadata["tokenizer.ggml.tokens"][0] = "word"  # a control token that the word pattern leaves whole
    tokenizer = from_gguf(metadata)
    assert tokenizer.encode("word", bos=False, parse_special=True) == [0]
    assert 0 not in tokenizer.encode("word")
    assert tokenizer.decode(tokenizer.encode("word")) == "word"


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
def test_a_saved_folder_is_the_same_to_transformers_and_to_us(
    small: Tokenizer, llama_model: Path, tmp_path: Path, mixed_lines: list[str], kind: str
) -> None:
    tokenizer = small if kind == "bytes" else load_tokenizer(llama_model)
    tokenizer.save(tmp_path)
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)
    for line in mixed_lines:
        ids = tokenizer.encode(line, parse_special=True)
        assert ids == theirs.encode(line) == ours.encode(line, parse_special=True)
        assert tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids)
    assert (theirs.bos_token_id, theirs.eos_token_id) == (tokenizer.bos_id, tokenizer.eos_id)
    assert (ours.add_bos, ours.stop_ids, ours.vocab_size) == (
        tokenizer.add_bos,
        tokenizer.stop_ids,
        tokenizer.vocab_size,
    )
    if tokenizer.chat_template is not None:
        messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes?"}]
        expected = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert expected == ours.encode_chat(messages) == tokenizer.encode_chat(messages)
