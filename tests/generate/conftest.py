"""A tiny random LLaMA and a byte tokenizer, so that engine tests need no weights and run in milliseconds."""

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from arriero.generate.engine import Engine
from arriero.model.config import LlamaConfig
from arriero.model.transformer import Llama
from arriero.tokenizer.tokenizer import Tokenizer

STOP = 256
"""Id of `</s>`; ids below it are bytes in the order of their printable stand-ins."""


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["</s>"])
    assert backend.token_to_id("</s>") == STOP
    return Tokenizer(backend, eos_id=STOP)


@pytest.fixture(scope="session")
def tiny_model() -> Llama:
    config = LlamaConfig.of(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=STOP + 1, max_seq_len=128)
    model = Llama(config).init_weights(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8)  # attention that attends, logits that differ
    return model.eval()


@pytest.fixture
def engine(tiny_model, byte_tokenizer) -> Engine:
    return Engine(tiny_model, byte_tokenizer)
