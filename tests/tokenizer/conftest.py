"""Small vocabularies trained on the spot, and mixed text to try them on."""

import argparse
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import Tokenizer as Backend
from tokenizers import models, trainers

from arriero.tokenizer.gguf import from_gguf
from arriero.tokenizer.tokenizer import Tokenizer
from arriero.tokenizer.vocabulary import split_words

CHINESE = """\
天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。
你好，世界！今天的气温是 23.5 度，湿度为 60%。
机器学习（machine learning）是人工智能的一个分支。
香港、臺灣、日本の東京、한국의 서울.""".splitlines()

HOSTILE = [
    "", " ", "  ", "\t", "\n", "\r\n", " \n \n", "a" + " " * 300 + "b", "\t" * 70 + "x", " leading", "trailing   ",
    "\x00\x01\x02\x1b[31mred\x1b[0m\x7f", "\u200b\u200d\ufeff\u00ad", "e\u0301\u0302\u0303", "😀👍🏽👨‍👩‍👧‍👦",
    "🇩🇪🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "½²³①Ⅷ一二三٣४", "1234567890 3.14159 1,000,000",
    "I'm you're WE'LL they'D", "<|im_start|>", "<|im_end|>x<|endoftext|>", "<s></s><unk>", "<0x0A><0xFF>",
    "ﬁ ﬀ Å ㎏ ｆｕｌｌ", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𒀀𒁀", "\u2028\u2029\x85", "שלום مرحبا नमस्ते สวัสดี", "a" * 36,
    "....!!!???---===///\\\\\\", "\U0010ffff\ue000\ufffd",
]  # fmt: skip


def _random_lines(count: int) -> list[str]:
    chosen = random.Random(0)
    pools = [
        "abc 123\t",
        "    \n",
        "中文字符，。",
        "😀👍🏽é\u0301",
        "\x00\x07\x1b",
        "<|_>{}()=;",
        "ÀßÆøñ½²",
        "\u3042\u30a2\uac00",
    ]
    lines = []
    for _ in range(count):
        pool = "".join(chosen.sample(pools, 3)) + chr(chosen.randrange(0x20, 0xD7FF))
        lines.append("".join(chosen.choices(pool, k=chosen.randrange(1, 60))))
    return lines


@pytest.fixture(scope="session")
def mixed_lines() -> list[str]:
    """1,500 lines and more of code, Chinese, emoji, control characters, long white space, random Unicode."""
    code = Path(argparse.__file__).read_text().splitlines(keepends=True)[:900]
    lines = [*code, *CHINESE, *HOSTILE, *_random_lines(600)]
    assert len(lines) > 1500
    return lines


@pytest.fixture(scope="session")
def training_lines() -> list[str]:
    """Text to train small vocabularies on; other code than `mixed_lines`."""
    return [
        *Path(json.__file__).with_name("decoder.py").read_text().splitlines(),
        *CHINESE,
        *Path(io.__file__).read_text().splitlines(),
    ]


@pytest.fixture(scope="session")
def byte_level_metadata(training_lines: list[str]) -> Callable[..., dict[str, Any]]:
    """Key-value pairs of a GGUF file with a small byte-level vocabulary, for a way of splitting words."""

    def train(pre: str = "smollm", **pairs: Any) -> dict[str, Any]:
        backend = Backend(models.BPE())
        backend.pre_tokenizer = split_words(pre)
        special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        alphabet = trainers.BpeTrainer(
            vocab_size=600, special_tokens=special, show_progress=False, initial_alphabet=sorted(_alphabet())
        )
        backend.train_from_iterator(training_lines, alphabet)
        state = json.loads(backend.to_str())["model"]
        tokens = sorted(state["vocab"], key=state["vocab"].__getitem__)
        merges = [" ".join(merge) for merge in state["merges"]]
        metadata = {
            "model": "gpt2",
            "pre": pre,
            "tokens": tokens,
            "merges": merges,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        metadata |= {"token_type": [3] * 3 + [1] * (len(tokens) - 3)} | pairs
        return {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}

    return train


def _alphabet() -> list[str]:
    from arriero.tokenizer.pieces import byte_alphabet

    return list(byte_alphabet())


@pytest.fixture(scope="session")
def small(byte_level_metadata: Callable[..., dict[str, Any]]) -> Tokenizer:
    """A small byte-level tokenizer with ChatML's control tokens and template."""
    tokenizer = from_gguf(byte_level_metadata())
    tokenizer.use_chat_template("chatml")
    return tokenizer


@pytest.fixture(scope="session")
def train_sentencepiece(training_lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Train a SentencePiece model with LLaMA's settings, save for those given, and return its file."""

    def train(**settings: Any) -> Path:
        model = io.BytesIO()
        llama = {"model_type": "bpe", "vocab_size": 700, "byte_fallback": True, "split_digits": True}
        llama |= {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
        llama |= {"allow_whitespace_only_pieces": True, "character_coverage": 0.98, "minloglevel": 2}
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(training_lines), model_writer=model, **(llama | settings)
        )
        file = tmp_path_factory.mktemp("sentencepiece") / "tokenizer.model"
        file.write_bytes(model.getvalue())
        return file

    return train


@pytest.fixture(scope="session")
def llama_model(train_sentencepiece: Callable[..., Path]) -> Path:
    """A small SentencePiece model of LLaMA's kind: BPE, identity, byte fallback, single digits."""
    return train_sentencepiece()
