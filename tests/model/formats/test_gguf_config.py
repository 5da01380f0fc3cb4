"""GGUF metadata to configs and back: rotary scalings, defaults, and what is refused by key."""

import numpy as np
import pytest

from arriero.common.errors import ArrieroError, FormatError
from arriero.model.config import LlamaConfig, RopeScaling
from arriero.model.formats.gguf import load_gguf
from arriero.model.formats.gguf_config import ROPE_FREQS, config_metadata, llama3_divisors, scaling_of_divisors

SHAPE = {"vocab_size": 300, "dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "hidden_dim": 96}


def scaled(scaling, head_dim=None, theta=500000.0):
    return LlamaConfig.of(**SHAPE, head_dim=head_dim, rope_theta=theta, rope_scaling=scaling, max_seq_len=4096)


@pytest.mark.parametrize("factor", [8.0, 32.0])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_published_llama3_scalings_come_back_exactly(factor, head_dim):
    scaling = RopeScaling(kind="llama3", factor=factor, original_max_seq_len=8192)
    config = scaled(scaling, head_dim)
    found = scaling_of_divisors(config, llama3_divisors(config, scaling))
    assert found.original_max_seq_len == 8192
    assert found.factor == factor
    assert found.high_freq_factor == pytest.approx(4.0, rel=1e-4)


@pytest.mark.parametrize("head_dim", [8, 16, 64])
@pytest.mark.parametrize("context", [4, 24, 512, 8192, 1_000_000])
@pytest.mark.parametrize(("low", "high"), [(1.0, 4.0), (2.0, 16.0)])
def test_any_llama3_scaling_comes_back_as_one_with_the_same_frequencies(head_dim, context, low, high):
    scaling = RopeScaling(
        kind="llama3", factor=8.0, low_freq_factor=low, high_freq_factor=high, original_max_seq_len=context
    )
    config = scaled(scaling, head_dim)
    divisors = llama3_divisors(config, scaling)
    found = scaling_of_divisors(config, divisors)
    again = np.ones_like(divisors) if found is None else llama3_divisors(config, found)
    np.testing.assert_allclose(again, divisors, rtol=1e-3)


def test_divisors_of_one_are_no_scaling():
    assert scaling_of_divisors(scaled(None), np.ones(8, np.float32)) is None


@pytest.mark.parametrize("divisors", [[1, 8, 1, 8, 1, 8, 1, 8], [8] * 7 + [1], [0] * 8, [1, 2, 3, 4, 5, 6, 7, 8]])
def test_other_divisors_are_refused(divisors):
    with pytest.raises(FormatError, match=r"rope_freqs\.weight' is not Llama 3's"):
        scaling_of_divisors(scaled(None), np.array(divisors, np.float32))


def test_a_file_with_llama3_divisors_loads(tmp_path, make_gguf):
    scaling = RopeScaling(kind="llama3", factor=8.0, original_max_seq_len=8192)
    file = make_gguf(scaled(scaling, head_dim=64))
    file.tensors[ROPE_FREQS] = llama3_divisors(file.config, scaling)
    found = load_gguf(file.write(tmp_path / "m.gguf")).config.rope_scaling
    assert (found.kind, found.factor, found.original_max_seq_len) == ("llama3", 8.0, 8192)


@pytest.mark.parametrize(
    "keys",
    [
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
        {"llama.rope.scaling.factor": 4.0},
        {"llama.rope.scale_linear": 4.0},
    ],
)
def test_every_spelling_of_linear_scaling_is_read(tmp_path, make_gguf, keys):
    file = make_gguf(scaled(None))
    file.metadata |= keys
    config = load_gguf(file.write(tmp_path / "m.gguf")).config
    assert config.rope_scaling == RopeScaling(kind="linear", factor=4.0, original_max_seq_len=1024)


def test_defaults_of_sparse_files(tmp_path, make_gguf):
    file = make_gguf(LlamaConfig.of(**(SHAPE | {"n_kv_heads": 4})))
    for key in (
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "rope.freq_base",
        "vocab_size",
    ):
        del file.metadata[f"llama.{key}"]
    assert load_gguf(file.write(tmp_path / "m.gguf")).config == file.config


def test_small_numbers_come_back_as_they_were_written(tmp_path, make_gguf):
    file = make_gguf(LlamaConfig.of(**SHAPE, norm_eps=1e-6, rope_theta=1234567.0))
    assert load_gguf(file.write(tmp_path / "m.gguf")).config == file.config


def test_per_layer_lists_of_one_value_are_read(tmp_path, make_gguf):
    file = make_gguf(LlamaConfig.of(**SHAPE))
    file.metadata["llama.attention.head_count"] = [4, 4]
    assert load_gguf(file.write(tmp_path / "m.gguf")).config.n_heads == 4


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("llama.block_count", None, "metadata key 'llama.block_count' is missing"),
        ("llama.attention.layer_norm_rms_epsilon", None, "layer_norm_rms_epsilon' is missing"),
        ("llama.attention.head_count", "four", "llama.attention.head_count = four: expected a positive whole number"),
        ("llama.attention.head_count", 0, "llama.attention.head_count = 0: expected"),
        ("llama.attention.head_count", [4, 2], "llama.attention.head_count differs from layer to layer"),
        ("llama.attention.head_count_kv", 3, "n_heads: expected a multiple of n_kv_heads = 3"),
        ("llama.rope.freq_base", float("nan"), "llama.rope.freq_base = nan: expected"),
        (
            "llama.rope.dimension_count",
            8,
            "llama.rope.dimension_count = 8 is not supported: expected the head width 16",
        ),
        ("llama.rope.scaling.type", "yarn", "llama.rope.scaling.type = 'yarn' is not supported"),
        ("llama.expert_count", 8, "llama.expert_count = 8 is not supported"),
        ("llama.attention.sliding_window", 4096, "llama.attention.sliding_window = 4096 is not supported"),
        ("llama.logit_scale", 0.25, "llama.logit_scale = 0.25 is not supported"),
        ("split.count", 3, "split.count = 3 is not supported"),
        ("general.type", "adapter", "general.type = 'adapter' is not supported"),
    ],
)
def test_what_is_not_supported_is_refused_by_key(tmp_path, make_gguf, key, value, message):
    file = make_gguf(LlamaConfig.of(**SHAPE))
    file.metadata[key] = value
    if value is None:
        del file.metadata[key]
    with pytest.raises(FormatError, match=message) as error:
        load_gguf(file.write(tmp_path / "m.gguf"))
    assert str(error.value).startswith(str(tmp_path / "m.gguf"))


def test_another_architecture_is_named(tmp_path, make_gguf):
    file = make_gguf(LlamaConfig.of(**SHAPE))
    file.architecture = "qwen2"
    with pytest.raises(FormatError, match="architecture 'qwen2' is not supported: expected llama"):
        load_gguf(file.write(tmp_path / "m.gguf"))


def test_dynamic_scaling_cannot_be_written():
    with pytest.raises(ArrieroError, match="dynamic"):
        config_metadata(scaled(RopeScaling(kind="dynamic", factor=2.0, original_max_seq_len=64)))
