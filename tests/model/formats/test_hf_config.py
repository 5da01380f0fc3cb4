"""config.json: both spellings of rotary positions, and what is refused by name."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig as OracleConfig

from arriero.common.errors import FormatError
from arriero.model.config import RopeScaling
from arriero.model.formats.hf_config import read_hf_config, read_json, write_hf_config

OLD = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}

LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_type": "llama3",
}


def test_defaults_of_old_files():
    config = read_hf_config(OLD)
    assert (config.n_kv_heads, config.head_dim, config.rope_theta) == (4, 16, 10000.0)
    assert config.rope_scaling is None
    assert not config.tied_embeddings


@pytest.mark.parametrize(
    ("rope", "theta", "scaling"),
    [
        ({"rope_theta": 5e5}, 5e5, None),
        ({"rope_theta": 5e5, "rope_scaling": None}, 5e5, None),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, 7.0, None),
        ({"rope_theta": 1.0, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, 7.0, None),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, 1e4, ("linear", 2.0, 128)),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 9.0}}, 9.0, ("linear", 2.0, 128)),
        ({"rope_scaling": {"type": "dynamic", "factor": 3.0}, "rope_theta": 2.0}, 2.0, ("dynamic", 3.0, 128)),
        ({"rope_scaling": LLAMA3, "rope_theta": 5e5}, 5e5, ("llama3", 8.0, 64)),
        ({"rope_parameters": LLAMA3 | {"rope_theta": 5e5}}, 5e5, ("llama3", 8.0, 64)),
    ],
)
def test_rope_is_read_as_transformers_4_and_5_write_it(rope, theta, scaling):
    config = read_hf_config(OLD | rope)
    assert config.rope_theta == theta
    found = config.rope_scaling
    assert (found and (found.kind, found.factor, found.original_max_seq_len)) == scaling


def test_dynamic_context_is_the_stretched_one_and_written_back_unstretched():
    config = read_hf_config(OLD | {"rope_scaling": {"type": "dynamic", "factor": 3.0}})
    assert config.max_seq_len == 384
    assert write_hf_config(config, dtype=torch.float32)["max_position_embeddings"] == 128


def test_written_config_reads_back(variant):
    values = write_hf_config(variant, dtype=torch.bfloat16, eos_id=2)
    assert read_hf_config(values) == variant
    assert values["rope_theta"] == values["rope_parameters"]["rope_theta"] == variant.rope_theta
    assert values["dtype"] == "bfloat16"
    without_new = {key: value for key, value in values.items() if key != "rope_parameters"}
    assert read_hf_config(without_new) == variant
    without_old = {key: value for key, value in values.items() if key not in ("rope_theta", "rope_scaling")}
    assert read_hf_config(without_old) == variant


def test_transformers_understands_the_written_config(variant):
    config = OracleConfig(**write_hf_config(variant, dtype=torch.float32))
    scaling = variant.rope_scaling or RopeScaling(kind="linear", factor=1.0, original_max_seq_len=1)
    assert config.rope_parameters["rope_theta"] == variant.rope_theta
    assert config.rope_parameters["rope_type"] == (variant.rope_scaling.kind if variant.rope_scaling else "default")
    assert config.rope_parameters.get("factor", 1.0) == scaling.factor
    assert config.head_dim == variant.head_dim


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": None},
        {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 128},
        {"attention_bias": False, "mlp_bias": None, "hidden_act": "silu", "pretraining_tp": 1},
        {"architectures": None},
        {"quantization_config": None, "partial_rotary_factor": 1.0},
    ],
)
def test_neutral_options_are_accepted(change):
    assert read_hf_config(OLD | change).dim == 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, r"architectures \['GPT2LMHeadModel'\] is not supported"),
        (
            {"architectures": [], "model_type": "qwen2"},
            "model_type 'qwen2' is not supported: expected llama or mistral",
        ),
        ({"attention_bias": True}, "attention_bias True is not supported: expected False"),
        ({"mlp_bias": True}, "mlp_bias True is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported: expected 'silu'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config .* is not supported"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5 is not supported"),
        ({"sliding_window": 64}, "sliding_window 64 is shorter than the context of 128"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_type 'yarn' is not supported"),
        ({"rope_scaling": {"rope_type": "linear"}}, "key 'factor' is missing"),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": "2"}},
            "key 'factor': expected a finite number above 0, got 2",
        ),
        ({"rope_scaling": "linear"}, "rope_parameters: expected an object, got str"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0.1}}, "rope_scaling.factor: expected at least 1, got 0.1"),
        ({"hidden_size": None}, "key 'hidden_size' is missing"),
        ({"hidden_size": "64"}, "key 'hidden_size': expected a whole number from 1 to 16777216, got 64"),
        ({"hidden_size": 64.5}, "key 'hidden_size': expected a whole number from 1 to 16777216, got 64.5"),
        ({"num_key_value_heads": 3}, "n_heads: expected a multiple of n_kv_heads = 3, got 4"),
        ({"num_attention_heads": 0}, "key 'num_attention_heads': expected a whole number from 1 to 16777216, got 0"),
    ],
)
def test_others_are_refused_by_file_and_key(change, message):
    with pytest.raises(FormatError, match=f"some/config.json: {message}"):
        read_hf_config(OLD | change, file=Path("some/config.json"))


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("3", "expected a JSON object, got int")])
def test_files_that_are_no_configs(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(FormatError, match=f"config.json: {message}"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "vocab_size", "rope_theta", "rms_norm_eps"])
@pytest.mark.parametrize("value", [0, -1, 10**30, float("nan"), float("inf"), "7", True])
def test_a_number_that_no_model_has_is_refused(key, value):
    with pytest.raises(FormatError, match=key):
        read_hf_config(OLD | {key: value})


def test_more_layers_than_any_model_has_are_refused():
    with pytest.raises(FormatError, match="num_hidden_layers 5000"):
        read_hf_config(OLD | {"num_hidden_layers": 5000})
