"""Tiny models of every variant, and the oracle: transformers' own LlamaForCausalLM with the same weights."""

import pytest
import torch
from transformers import LlamaConfig as OracleConfig
from transformers import LlamaForCausalLM

from arriero.model.config import LlamaConfig, RopeScaling
from arriero.model.formats.hf import hf_names
from arriero.model.formats.hf_config import write_hf_config
from arriero.model.transformer import Llama

TINY = {"vocab_size": 101, "dim": 48, "n_layers": 2, "n_heads": 6, "hidden_dim": 80, "max_seq_len": 64}

VARIANTS = {
    "multi-head": {},
    "grouped": {"n_kv_heads": 2},
    "multi-query": {"n_kv_heads": 1},
    "tied": {"n_kv_heads": 3, "tied_embeddings": True},
    "wide-heads": {"head_dim": 32},
    "narrow-heads": {"head_dim": 2, "n_kv_heads": 2},
    "eps-theta": {"norm_eps": 1e-3, "rope_theta": 500.0},
    "linear": {"rope_scaling": RopeScaling(kind="linear", factor=4.0, original_max_seq_len=64)},
    "dynamic": {
        "rope_scaling": RopeScaling(kind="dynamic", factor=2.0, original_max_seq_len=16),
        "max_seq_len": 32,
        "head_dim": 16,
    },
    "llama3": {
        "n_kv_heads": 2,
        "rope_theta": 500000.0,
        "rope_scaling": RopeScaling(kind="llama3", factor=8.0, original_max_seq_len=24),
    },
}


@pytest.fixture(params=VARIANTS, ids=list(VARIANTS))
def variant(request) -> LlamaConfig:
    """Each variant's config in turn."""
    return LlamaConfig.of(**(TINY | VARIANTS[request.param]))


@pytest.fixture
def tiny() -> LlamaConfig:
    """A tiny config with grouped queries."""
    return LlamaConfig.of(**TINY, n_kv_heads=2)


@pytest.fixture
def make_model():
    """Build a model whose weights are all random, large enough that every part shows in the logits."""

    def make(config: LlamaConfig, seed: int = 0) -> Llama:
        model = Llama(config)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + (parameter.dim() == 1))
        return model

    return make


@pytest.fixture
def make_oracle():
    """Build transformers' model with the same config and weights."""

    def make(model: Llama) -> LlamaForCausalLM:
        oracle = LlamaForCausalLM(OracleConfig(**write_hf_config(model.config, dtype=torch.float32))).eval()
        parameters = dict(model.named_parameters())
        weights = {theirs: parameters[ours] for ours, theirs in hf_names(model.config).items()}
        missing, unexpected = oracle.load_state_dict(weights, strict=False)
        assert not unexpected
        assert set(missing) <= {"lm_head.weight"}
        oracle.tie_weights()
        return oracle

    return make


@pytest.fixture
def tokens() -> torch.Tensor:
    """Two rows of 40 tokens, beyond the original length of every scaling."""
    return torch.randint(101, (2, 40), generator=torch.Generator().manual_seed(3))
