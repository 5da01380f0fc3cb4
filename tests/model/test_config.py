"""What a config derives, and refuses."""

import dataclasses

import pytest

from arriero.common.errors import ArrieroError
from arriero.model.config import LlamaConfig, RopeScaling, swiglu_width

SHAPE = {"vocab_size": 100, "dim": 64, "n_layers": 2, "n_heads": 4}
DYNAMIC = RopeScaling(kind="dynamic", factor=2.0, original_max_seq_len=16)


def test_defaults_are_the_papers():
    config = LlamaConfig.of(**SHAPE)
    assert (config.n_kv_heads, config.head_dim, config.hidden_dim) == (4, 16, 256)
    assert not config.tied_embeddings


@pytest.mark.parametrize(("dim", "width"), [(4096, 11008), (5120, 13824), (6656, 17920), (8192, 22016)])
def test_swiglu_width_of_the_published_sizes(dim, width):
    assert swiglu_width(dim) == width


def test_swiglu_width_with_a_multiplier():
    assert swiglu_width(8192, multiple_of=4096, multiplier=1.3) == 28672  # Llama 2 70B
    assert swiglu_width(4096, multiple_of=1024, multiplier=1.3) == 14336  # Llama 3 8B


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_kv_heads": 3}, "n_heads: expected a multiple of n_kv_heads = 3, got 4"),
        ({"head_dim": 5}, "head_dim: expected an even number, for rotary pairs, got 5"),
        ({"n_layers": 0}, "n_layers: expected at least 1, got 0"),
        ({"vocab_size": -1}, "vocab_size: expected at least 1, got -1"),
        ({"n_heads": 0}, "n_heads: expected at least 1, got 0"),
        ({"head_dim": 2, "rope_scaling": DYNAMIC}, "head_dim: expected more than 2 with dynamic rope_scaling, got 2"),
    ],
)
def test_bad_shapes_are_named(change, message):
    with pytest.raises(ArrieroError, match=message):
        LlamaConfig.of(**(SHAPE | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "yarn"}, "rope_scaling.kind: expected linear, dynamic or llama3, got 'yarn'"),
        ({"factor": 0.5}, "rope_scaling.factor: expected at least 1, got 0.5"),
        ({"original_max_seq_len": 0}, "original_max_seq_len: expected at least 1, got 0"),
        ({"low_freq_factor": 4.0}, "expected 0 < low_freq_factor < high_freq_factor, got 4.0 and 4.0"),
    ],
)
def test_bad_scalings_are_named(change, message):
    good = {"kind": "llama3", "factor": 8.0, "original_max_seq_len": 8192}
    with pytest.raises(ArrieroError, match=message):
        RopeScaling(**(good | change))


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        LlamaConfig.of(**SHAPE).dim = 3
