"""Trained vocabularies are LLaMA's kind, lossless, reproducible, and read alike by everything that reads them."""

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, LlamaTokenizerFast

from arriero.common.errors import ArrieroError
from arriero.common.gguf_header import read_header
from arriero.model.config import LlamaConfig
from arriero.model.formats.gguf_export import save_gguf
from arriero.model.transformer import Llama
from arriero.tokenizer.bpe_options import BYTES, BpeOptions
from arriero.tokenizer.load import from_gguf, load_tokenizer
from arriero.tokenizer.pieces import SPACE
from arriero.tokenizer.tokenizer import Tokenizer
from arriero.tokenizer.train import TrainedBpe, choose_alphabet, train_bpe

SIZE = 900


@pytest.fixture(scope="module")
def trained(training_lines: list[str]) -> TrainedBpe:
    return train_bpe(["\n".join(training_lines)] * 2, BpeOptions(vocab_size=SIZE, control=("<|im_start|>",)))


@pytest.fixture(scope="module")
def folder(trained: TrainedBpe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained")
    trained.save(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)


def test_ids_are_laid_out_as_llamas(trained: TrainedBpe, tokenizer: Tokenizer):
    tokens = list(trained.vocabulary.tokens)
    assert tokenizer.vocab_size == len(tokens) == SIZE
    assert tokens[:4] == ["<unk>", "<s>", "</s>", "<|im_start|>"]
    assert tuple(tokens[4:260]) == BYTES
    lengths = [len(token) > 1 for token in tokens[260:]]
    assert all(before >= after for before, after in pairwise(lengths))  # pieces, then the alphabet
    assert (tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    assert tokenizer.special_ids == {0, 1, 2, 3}
    assert (tokenizer.add_bos, tokenizer.add_eos) == (True, False)
    assert BpeOptions().vocab_size == 32_000


def test_every_text_comes_back_as_it_was(tokenizer: Tokenizer, mixed_lines: list[str]):
    for text in [*mixed_lines, "".join(mixed_lines)]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
        stream = tokenizer.stream()
        assert "".join(map(stream.push, tokenizer.encode(text))) + stream.flush() == text


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters=SPACE)))
def test_any_unicode_comes_back(tokenizer: Tokenizer, text: str):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.unk_id not in ids


def test_sentencepieces_space_comes_back_as_a_space(tokenizer: Tokenizer):
    assert tokenizer.decode(tokenizer.encode(f"a{SPACE}b")) == "a b"


def test_text_never_becomes_a_control_token():
    tokenizer = train_bpe(["PAD PAD PAD <s> <s> <s>"], BpeOptions(vocab_size=270, control=("PAD",))).tokenizer()
    ids = tokenizer.encode("PAD <s>", bos=False)
    assert not tokenizer.special_ids.intersection(ids)
    assert tokenizer.decode(ids) == "PAD <s>"


def test_digits_stand_alone_and_pieces_keep_their_words(trained: TrainedBpe):
    pieces = [token for token in trained.vocabulary.tokens[260:] if len(token) > 1]
    assert not any(character.isnumeric() for piece in pieces for character in piece)
    assert all(SPACE not in piece.lstrip(SPACE) for piece in pieces)
    assert all(piece.count(SPACE) <= 1 for piece in pieces if piece.strip(SPACE))
    assert any(set(piece) == {SPACE} for piece in pieces)  # runs of spaces
    assert not any(re.search(r"[\x00-\x1f]", piece) for piece in pieces)
    assert not any(re.search(r"[a-z]", piece) and re.search(r"[.,:(）\u4e00-\u9fff]", piece) for piece in pieces)
    assert max(map(len, pieces)) <= BpeOptions().max_piece_length


def test_numbers_are_spelled_digit_by_digit(tokenizer: Tokenizer):
    assert [tokenizer.token_bytes(token_id) for token_id in tokenizer.encode("1984", bos=False)][1:] == [
        b"1", b"9", b"8", b"4"
    ]  # fmt: skip


def test_sentencepiece_reads_the_same_vocabulary(folder: Path, tokenizer: Tokenizer, mixed_lines: list[str]):
    reference = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert (reference.unk_id(), reference.bos_id(), reference.eos_id(), reference.pad_id()) == (0, 1, 2, -1)
    assert reference.IsByte(4)
    assert reference.IsControl(3)
    lines = [line for line in mixed_lines if "\0" not in line]
    assert tokenizer.encode_batch(lines, bos=False) == reference.encode(lines)
    assert load_tokenizer(folder / "tokenizer.model").encode_batch(lines) == tokenizer.encode_batch(lines)


def test_transformers_reads_the_same_tokenizer(folder: Path, tokenizer: Tokenizer, mixed_lines: list[str]):
    reference = AutoTokenizer.from_pretrained(folder)
    assert (reference.bos_token, reference.eos_token, reference.unk_token) == ("<s>", "</s>", "<unk>")
    assert len(reference) == SIZE
    for line in mixed_lines:
        ids = reference(line)["input_ids"]
        assert tokenizer.encode(line, parse_special=True) == ids
        assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)


def test_llama_tokenizer_fast_reads_the_same_ids(folder: Path, tokenizer: Tokenizer, mixed_lines: list[str]):
    """Spaces before a line are cut: there that class drops the dummy prefix, and SentencePiece does not."""
    reference = LlamaTokenizerFast.from_pretrained(folder)
    for line in (line.lstrip(" ") for line in mixed_lines):
        assert tokenizer.encode(line, parse_special=True) == reference(line)["input_ids"]


def test_a_gguf_file_carries_the_same_tokenizer(tokenizer: Tokenizer, mixed_lines: list[str], tmp_path: Path):
    config = LlamaConfig.of(vocab_size=SIZE, dim=32, n_layers=1, n_heads=2)
    save_gguf(Llama(config).init_weights(0), tokenizer, tmp_path / "model.gguf")
    metadata = read_header(tmp_path / "model.gguf").metadata
    assert metadata["tokenizer.ggml.model"] == "llama"
    assert len(set(metadata["tokenizer.ggml.scores"][260:])) > SIZE / 2
    again = from_gguf(metadata)
    assert again.encode_batch(mixed_lines) == tokenizer.encode_batch(mixed_lines)
    assert (again.bos_id, again.eos_id, again.unk_id, again.add_bos) == (1, 2, 0, True)


def test_the_bytes_do_not_depend_on_the_number_of_threads(tmp_path: Path):
    program = (
        "import argparse, sys; from pathlib import Path; from arriero.tokenizer.train import *;"
        "texts = Path(argparse.__file__).read_text().splitlines();"
        "train_bpe(texts, BpeOptions(vocab_size=2000)).save(Path(sys.argv[1]))"
    )
    for threads in ("1", "2", "3"):
        environment = os.environ | {"RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        subprocess.run([sys.executable, "-c", program, str(tmp_path / threads)], env=environment, check=True)
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        assert len({(tmp_path / threads / name).read_bytes() for threads in ("1", "2", "3")}) == 1


def test_pieces_are_those_of_a_plain_count_of_pairs():
    """Against BPE written out: count pairs, join the commonest, repeat (Sennrich et al. 2016, algorithm 1)."""
    words = ["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3
    trained = train_bpe([" ".join(words)], BpeOptions(vocab_size=259 + 11 + 8, min_count=1))
    pieces = [token for token in trained.vocabulary.tokens[259:] if len(token) > 1]
    counted = [list(word if index == 0 else SPACE + word) for index, word in enumerate(words)]
    for piece in pieces:
        counts: dict[tuple[str, str], int] = {}
        for word in counted:
            for pair in pairwise(word):
                counts[pair] = counts.get(pair, 0) + 1
        made = [pair for pair in counts if "".join(pair) == piece]
        assert made
        assert counts[made[0]] == max(counts.values())
        counted = [_join(word, made[0]) for word in counted]


def _join(word: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for piece in word:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def test_the_alphabet_covers_the_share_asked_for():
    text = ["a" * 90 + "b" * 9 + "c\n\t\x00" + SPACE * 100]
    assert choose_alphabet(text, 1.0) == [" ", "a", "b", "c"]
    assert choose_alphabet(text, 0.99) == [" ", "a", "b"]
    assert choose_alphabet(["zz"], 1.0) == ["z", " "]


def test_no_piece_reaches_over_a_character_outside_the_alphabet():
    trained = train_bpe(["a☃b " * 3 + "xy " * 2000], BpeOptions(vocab_size=263, character_coverage=0.999))
    assert "ab" not in trained.vocabulary.tokens
    assert trained.tokenizer().decode(trained.tokenizer().encode("a☃b")) == "a☃b"


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "no text"),
        (["", "\n\n"], {}, "no text"),
        (["a b c"], {"vocab_size": 262}, "262 tokens is too small.* 3 control tokens, 256 bytes and .* 4 char.* 263"),
        (["low low low"], {}, r"at most, 32,000 were wanted: it has only \d merges that occur 2 times"),
        (["a"], {"vocab_size": 200}, "at least 260 tokens, got 200"),
        (["a"], {"control": ("<s>",)}, "'<s>' is empty, holds ▁, or is a token already"),
        (["a"], {"control": ("<0x41>",)}, "is a token already"),
        (["a"], {"control": ("x", "x")}, "is a token already"),
        (["a"], {"character_coverage": 0.0}, "coverage above 0"),
        (["a"], {"max_piece_length": 1}, "at least 2 characters"),
        (["a"], {"min_count": 0}, "at least 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_told_in_one_line(texts, options, message):
    with pytest.raises(ArrieroError, match=message) as raised:
        train_bpe(texts, BpeOptions(**options))
    assert "\n" not in str(raised.value)


def test_an_error_in_the_texts_is_not_lost():
    class Texts(list):
        reads = 0

        def __iter__(self):
            self.reads += 1
            if self.reads == 2:
                raise ArrieroError("gone")
            return super().__iter__()

    with pytest.raises(ArrieroError, match="gone"):
        train_bpe(Texts(["some text"]))


def test_training_makes_a_plain_backend(tokenizer: Tokenizer):
    assert isinstance(tokenizer.backend, tokenizers.Tokenizer)
    assert tokenizer.backend.pre_tokenizer is None  # GGUF has no name for one
