"""Hugging Face folders: what we save transformers loads, what it saves we load, and damage is named."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM, MistralConfig, MistralForCausalLM

from arriero.common.errors import ArrieroError, FormatError
from arriero.model.formats.hf import load_hf, save_hf


def load_oracle(folder):
    """transformers' model of a folder; nothing may be missing or unused."""
    oracle, report = LlamaForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return oracle.eval()


@torch.no_grad()
@pytest.mark.parametrize("max_shard_bytes", [5_000_000_000, 40_000], ids=["single", "sharded"])
def test_saved_folders_load_in_transformers_to_the_same_logits(tmp_path, variant, make_model, tokens, max_shard_bytes):
    model = make_model(variant)
    save_hf(model, tmp_path / "m", max_shard_bytes=max_shard_bytes, bos_id=1, eos_id=2)
    oracle = load_oracle(tmp_path / "m")
    torch.testing.assert_close(oracle(tokens).logits, model(tokens), atol=1e-4, rtol=1e-5)
    assert (oracle.config.bos_token_id, oracle.generation_config.eos_token_id) == (1, 2)


@torch.no_grad()
def test_folders_of_transformers_load_here(tmp_path, variant, make_model, make_oracle, tokens):
    oracle = make_oracle(make_model(variant))
    oracle.save_pretrained(tmp_path, max_shard_size="30KB")
    model = load_hf(tmp_path)
    assert model.config == variant
    torch.testing.assert_close(model(tokens), oracle(tokens).logits, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_mistral_without_its_window(tmp_path, tokens):
    torch.manual_seed(0)
    shape = {"vocab_size": 101, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2}
    config = MistralConfig(**shape, num_attention_heads=4, num_key_value_heads=2, sliding_window=None, head_dim=12)
    oracle = MistralForCausalLM(config).eval()
    oracle.save_pretrained(tmp_path)
    torch.testing.assert_close(load_hf(tmp_path)(tokens), oracle(tokens).logits, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("shard", [5_000_000_000, 20_000])
def test_save_then_load_is_exact(tmp_path, variant, make_model, shard):
    model = make_model(variant)
    save_hf(model, tmp_path / "m", max_shard_bytes=shard)
    again = load_hf(tmp_path / "m")
    assert again.config == model.config
    for (name, weight), loaded in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(weight, loaded), name
    assert (again.output.weight is again.tok_embeddings.weight) == variant.tied_embeddings


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16, torch.float16])
def test_any_dtype_to_any_dtype(tmp_path, tiny, make_model, stored, wanted):
    model = make_model(tiny)
    save_hf(model, tmp_path, dtype=stored)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == str(stored).removeprefix("torch.")
    for weight, loaded in zip(model.parameters(), load_hf(tmp_path, dtype=wanted).parameters(), strict=True):
        assert loaded.dtype == wanted
        assert torch.equal(loaded, weight.to(stored).to(wanted))


def test_shards_keep_to_their_size_and_the_index_counts_them(tmp_path, tiny, make_model):
    model = make_model(tiny)
    save_hf(model, tmp_path, max_shard_bytes=30_000, dtype=torch.float16)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2 * model.n_params
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert {shard.name for shard in shards} == set(index["weight_map"].values())
    for shard in shards:
        assert sum(tensor.nbytes for tensor in load_file(shard).values()) <= 30_000
    assert all(shard.name.endswith(f"-of-{len(shards):05d}.safetensors") for shard in shards)


def test_tied_embeddings_are_stored_once(tmp_path, make_model, tiny):
    save_hf(make_model(dataclasses.replace(tiny, tied_embeddings=True)), tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")


def test_constants_and_tied_copies_of_other_writers_are_ignored(tmp_path, make_model, tiny):
    model = make_model(dataclasses.replace(tiny, tied_embeddings=True))
    save_hf(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, tmp_path / "model.safetensors")
    assert torch.equal(load_hf(tmp_path).output.weight, model.output.weight)


def test_a_loaded_model_does_not_depend_on_its_files(tmp_path, make_model, tiny, tokens):
    save_hf(make_model(tiny), tmp_path)
    model = load_hf(tmp_path)
    before = model(tokens)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert torch.equal(model(tokens), before)


def test_a_folder_with_a_model_is_not_overwritten(tmp_path, make_model, tiny):
    save_hf(make_model(tiny), tmp_path)
    with pytest.raises(ArrieroError, match="holds a model already"):
        save_hf(make_model(tiny), tmp_path)


@pytest.fixture
def sharded(tmp_path, make_model, tiny):
    """A saved folder of several shards."""
    save_hf(make_model(tiny), tmp_path, max_shard_bytes=60_000)
    return tmp_path


@pytest.fixture
def single(tmp_path, make_model, tiny):
    """A saved folder of one file."""
    save_hf(make_model(tiny), tmp_path)
    return tmp_path


def refusal(folder) -> str:
    """The one-line message with which a folder is refused."""
    with pytest.raises(FormatError) as caught:
        load_hf(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change_tensors(file, change) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize("keep", [0, 4, 100, 3000, 100_000])
def test_truncated_files_are_named(single, keep):
    file = single / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    message = refusal(single)
    assert "model.safetensors: not a whole safetensors file" in message
    if keep > 3000:
        assert "tensor '" in message
        assert "is cut off" in message


def test_garbage_is_named(single):
    (single / "model.safetensors").write_bytes(b"\xff" * 5000)
    assert "model.safetensors: not a whole safetensors file" in refusal(single)


def test_missing_shard(sharded):
    (sharded / "model-00002-of-00004.safetensors").unlink()
    message = refusal(sharded)
    assert "model-00002-of-00004.safetensors: shard is missing" in message
    assert "tensor 'model.layers.0." in message


def test_truncated_shard(sharded):
    file = sharded / "model-00003-of-00004.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    message = refusal(sharded)
    assert "model-00003-of-00004.safetensors: not a whole safetensors file: tensor 'model." in message


def test_shard_without_a_promised_tensor(sharded):
    change_tensors(sharded / "model-00001-of-00004.safetensors", lambda t: t.pop("model.embed_tokens.weight"))
    message = refusal(sharded)
    assert "model-00001-of-00004.safetensors: tensor 'model.embed_tokens.weight' is missing" in message


def test_wrong_shape(single):
    name = "model.layers.1.mlp.up_proj.weight"
    change_tensors(single / "model.safetensors", lambda t: t.update({name: torch.zeros(80, 40)}))
    assert f"model.safetensors: tensor '{name}' has shape (80, 40), expected (80, 48)" in refusal(single)


def test_missing_tensor(single):
    change_tensors(single / "model.safetensors", lambda t: t.pop("model.norm.weight"))
    assert "model.safetensors: tensor 'model.norm.weight' is missing (1 of 21 are)" in refusal(single)


def test_unexpected_tensor(single):
    name = "model.layers.0.self_attn.q_proj.bias"
    change_tensors(single / "model.safetensors", lambda t: t.update({name: torch.zeros(48)}))
    assert f"model.safetensors: unexpected or repeated tensor '{name}'" in refusal(single)


def test_quantised_tensor(single):
    name = "model.layers.0.self_attn.q_proj.weight"
    change_tensors(single / "model.safetensors", lambda t: t.update({name: torch.zeros(48, 48, dtype=torch.int8)}))
    assert f"tensor '{name}' is torch.int8, expected floating point" in refusal(single)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "index.json: not JSON"),
        ("[]", "index.json: expected a JSON object, got list"),
        ("{}", "index.json: key 'weight_map' is missing"),
        ('{"weight_map": {"a": "../b"}}', "index.json: tensor 'a': expected a file name of this folder, got '../b'"),
        ('{"weight_map": {"a": 3}}', "index.json: tensor 'a': expected a file name of this folder, got 3"),
    ],
)
def test_bad_index(sharded, index, message):
    (sharded / "model.safetensors.index.json").write_text(index)
    assert message in refusal(sharded)


def test_folder_without_weights(single):
    (single / "model.safetensors").unlink()
    (single / "pytorch_model.bin").write_bytes(b"")
    assert "expected weights in safetensors format" in refusal(single)


def test_folder_without_config(tmp_path):
    assert "config.json: cannot be read (No such file or directory)" in refusal(tmp_path)
