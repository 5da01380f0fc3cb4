"""A tiny model of random weights with a byte-level tokenizer and a chat template, and the program in this process."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from arriero.cli.main import main
from arriero.model.config import LlamaConfig
from arriero.model.formats.hf import save_hf
from arriero.model.transformer import Llama
from arriero.tokenizer.chat import CHATML
from arriero.tokenizer.tokenizer import Tokenizer


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The program in this process: `run("model", "show", "x", stdin="text")`."""

    def call(*argv: str | Path, stdin: str = "") -> Outcome:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
        capsys.readouterr()
        try:
            code = main([str(word) for word in argv])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder: two layers, random weights, a context of 256, a token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("z", "q"), ("q", "z")]  # a GGUF file wants some
    vocabulary = [*alphabet, *map("".join, merges)]
    backend = tokenizers.Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(vocabulary)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(word, special=True) for word in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    )
    tokenizer = Tokenizer(backend, eos_id=258, bos_id=258, chat_template=CHATML)
    config = LlamaConfig.of(
        vocab_size=tokenizer.vocab_size, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, max_seq_len=256
    )
    folder = tmp_path_factory.mktemp("tiny")
    save_hf(Llama(config).init_weights(0), folder, bos_id=258, eos_id=258)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder's folder: a BERT of random weights, whose vector is the first token's."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "llamas", "carry", "wool", "ships", "rain", "the", "falls"]
    folder = tmp_path_factory.mktemp("encoder")
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=128,
    )
    model = transformers.BertModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder
