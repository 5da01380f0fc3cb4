"""Streamed text: whole characters only, and together what decoding at once gives."""

import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from arriero.common.errors import FormatError
from arriero.tokenizer.load import load_tokenizer
from arriero.tokenizer.pieces import byte_alphabet, encode_text
from arriero.tokenizer.tokenizer import Tokenizer

EMOJI = "né 你好 😀👨‍👩‍👧 \U00012000 ok"
numbers = st.lists(st.integers(min_value=0, max_value=10**6), max_size=60)


@pytest.fixture(scope="module")
def llama(llama_model: Path) -> Tokenizer:
    return load_tokenizer(llama_model)


def _stream(tokenizer: Tokenizer, ids: list[int], *, skip_special: bool = True) -> list[str]:
    decoder = tokenizer.stream(skip_special=skip_special)
    return [*map(decoder.push, ids), decoder.flush()]


@settings(deadline=None)
@given(numbers=numbers, skip=st.booleans())
def test_any_byte_level_ids_stream_as_they_decode(small: Tokenizer, numbers: list[int], skip: bool) -> None:
    ids = [number % small.vocab_size for number in numbers]
    assert "".join(_stream(small, ids, skip_special=skip)) == small.decode(ids, skip_special=skip)


@settings(deadline=None)
@given(numbers=numbers, skip=st.booleans())
def test_any_sentencepiece_ids_stream_as_they_decode(llama: Tokenizer, numbers: list[int], skip: bool) -> None:
    ids = [number % llama.vocab_size for number in numbers]
    assert "".join(_stream(llama, ids, skip_special=skip)) == llama.decode(ids, skip_special=skip)


@settings(deadline=None)
@given(st.lists(st.integers(min_value=3, max_value=270), max_size=60))
def test_runs_of_byte_tokens_stream_as_they_decode(llama: Tokenizer, ids: list[int]) -> None:
    assert "".join(_stream(llama, ids)) == llama.decode(ids)


@settings(deadline=None)
@given(st.text())
def test_text_streams_whole(small: Tokenizer, llama: Tokenizer, text: str) -> None:
    for tokenizer in (small, llama):
        deltas = _stream(tokenizer, tokenizer.encode(text))
        assert "".join(deltas) == text.replace("▁", " " if tokenizer is llama else "▁")
        assert "\ufffd" not in "".join(deltas) or "\ufffd" in text


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_stream_as_they_decode(small: Tokenizer, data: bytes) -> None:
    spelling = {byte: character for character, byte in byte_alphabet().items()}
    ids = [small.token_id(spelling[byte]) for byte in data]
    assert "".join(_stream(small, ids)) == small.decode(ids) == data.decode("utf-8", "replace")


def test_a_byte_level_character_comes_with_its_last_byte(small: Tokenizer) -> None:
    spelling = {byte: character for character, byte in byte_alphabet().items()}
    decoder = small.stream()
    deltas = [decoder.push(small.token_id(spelling[byte])) for byte in "你a".encode()]
    assert deltas == ["", "", "你", "a"]


def test_a_sentencepiece_run_of_bytes_comes_when_it_ends(llama: Tokenizer) -> None:
    ids = llama.encode("x😀y", bos=False)
    decoder = llama.stream()
    deltas = [decoder.push(token_id) for token_id in ids]
    assert "".join(deltas) + decoder.flush() == "x😀y"
    assert "😀y" in deltas[-1]


def test_an_unfinished_character_is_flushed_as_replacement(small: Tokenizer, llama: Tokenizer) -> None:
    for tokenizer in (small, llama):
        ids = tokenizer.encode("𒀀", bos=False)[:-1]
        deltas = _stream(tokenizer, ids)
        assert deltas[-1] == tokenizer.decode(ids)
        assert set(deltas[-1]) == {"\ufffd"}


def test_token_bytes_are_the_text(small: Tokenizer, llama: Tokenizer) -> None:
    assert b"".join(map(small.token_bytes, small.encode(EMOJI))) == EMOJI.encode()
    assert b"".join(map(llama.token_bytes, llama.encode(EMOJI, bos=False))) == b" " + EMOJI.encode()


def test_streaming_costs_the_same_for_every_token(small: Tokenizer) -> None:
    ids = small.encode(EMOJI * 4000)
    decoder = small.stream()
    small.token_bytes(0)
    started = time.process_time()
    assert "".join(map(decoder.push, ids)) + decoder.flush() == EMOJI * 4000
    spent = (time.process_time() - started) / len(ids)
    assert spent < 50e-6  # seconds; decoding anew would take milliseconds by the end


@pytest.mark.parametrize(
    "decoder",
    [None, decoders.WordPiece(), decoders.Metaspace(), decoders.Sequence([decoders.Replace("_", " "), decoders.Fuse()]),
     decoders.Sequence([decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)])],
)  # fmt: skip
def test_other_decoders_are_refused(decoder: decoders.Decoder | None) -> None:
    backend = Backend(models.BPE({"a": 0}, []))
    if decoder is not None:
        backend.decoder = decoder
    with pytest.raises(FormatError, match=r"decoder.*expected ByteLevel or SentencePiece's"):
        Tokenizer(backend)


def test_other_threads_run_while_a_long_text_is_encoded():
    alphabet = {chr(ord("a") + i): i for i in range(26)}
    backend = Backend(models.BPE(vocab=alphabet, merges=[]))
    text = "".join(alphabet) * 20_000
    begun, ids, turns = threading.Event(), list[int](), 0

    def encode() -> None:
        begun.set()
        ids.extend(encode_text(backend, text).ids)

    thread = threading.Thread(target=encode)
    thread.start()
    assert begun.wait(30)
    while thread.is_alive():
        time.sleep(0.001)
        turns += 1
    assert ids == [*range(26)] * 20_000
    assert turns > 10
