"""Reading GGUF: transformers and the gguf package are the oracles; damage is named by file and tensor."""

import contextlib

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from arriero.common.errors import ArrieroError, FormatError, NotFoundError
from arriero.model.config import LlamaConfig
from arriero.model.formats.gguf import gguf_names, load_gguf
from arriero.model.formats.weights import halves_from_pairs, pairs_from_halves

WRITABLE = [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1]
K_QUANTS = [Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K]
HALVES = {Kind.Q2_K: [80, 82], Kind.Q3_K: [108], Kind.Q4_K: [0, 2], Kind.Q5_K: [0, 2], Kind.Q6_K: [208]}
"""Offsets of a block's fp16 scales in ggml's structs."""


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.weights
def test_smollm2_gives_the_logits_of_transformers(smollm2_gguf):
    pytest.importorskip("accelerate", reason="transformers reads GGUF only with accelerate installed")
    from transformers import AutoModelForCausalLM

    oracle = AutoModelForCausalLM.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name, dtype=torch.float32)
    model = load_gguf(smollm2_gguf)
    tokens = torch.randint(49152, (2, 48), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(tokens), oracle(tokens).logits, atol=1e-4, rtol=0)


def assert_equal_weights(model, file):
    parameters = dict(model.named_parameters())
    values = file.values()
    for ours, theirs in gguf_names(file.config).items():
        expected = torch.from_numpy(values[theirs]).to(parameters[ours].dtype)
        torch.testing.assert_close(parameters[ours].data, expected, atol=0, rtol=0, msg=theirs)


@pytest.mark.parametrize("kind", WRITABLE, ids=lambda kind: kind.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_each_storage_type_reads_as_the_package_dequantises_it(tmp_path, make_gguf, gguf_tiny, kind, dtype):
    file = make_gguf(gguf_tiny)
    for name, tensor in file.tensors.items():
        if tensor.ndim == 2:
            file.tensors[name], file.kinds[name] = gguf.quants.quantize(tensor, kind), kind
    model = load_gguf(file.write(tmp_path / "m.gguf"), dtype=dtype)
    assert model.tok_embeddings.weight.dtype == dtype
    assert_equal_weights(model, file)


@pytest.mark.parametrize("kind", K_QUANTS, ids=lambda kind: kind.name)
def test_k_quants_read_as_the_package_dequantises_them(tmp_path, make_gguf, kind):
    """Blocks of random bits with sane scales, since the package cannot quantise to these types."""
    config = LlamaConfig.of(vocab_size=40, dim=256, n_layers=1, n_heads=4, n_kv_heads=2, hidden_dim=512)
    file = make_gguf(config)
    random = np.random.default_rng(1)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    for name, tensor in file.tensors.items():
        if tensor.ndim != 2:
            continue
        blocks = random.integers(0, 256, (tensor.size // block, size), dtype=np.uint8)
        for offset in HALVES[kind]:
            scales = random.uniform(0.001, 0.01, (len(blocks), 1)).astype(np.float16)
            blocks[:, offset : offset + 2] = scales.view(np.uint8)
        file.tensors[name], file.kinds[name] = blocks.reshape(len(tensor), -1), kind
    assert_equal_weights(load_gguf(file.write(tmp_path / "m.gguf")), file)


def test_tensors_of_different_types_and_a_tied_output_mix(tmp_path, make_gguf, gguf_tiny):
    file = make_gguf(gguf_tiny)
    del file.tensors["output.weight"]
    for name, kind in {"token_embd.weight": Kind.Q8_0, "blk.0.attn_q.weight": Kind.Q4_0}.items():
        file.tensors[name], file.kinds[name] = gguf.quants.quantize(file.tensors[name], kind), kind
    model = load_gguf(file.write(tmp_path / "m.gguf"))
    assert model.config.tied_embeddings
    assert model.output.weight is model.tok_embeddings.weight
    assert model(torch.tensor([[1, 2, 3]])).isfinite().all()


def test_the_orders_of_rows_are_inverse_and_known():
    rows = torch.arange(8.0)[:, None].repeat(1, 3)  # two heads of four dims
    assert pairs_from_halves(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert torch.equal(halves_from_pairs(pairs_from_halves(rows, 2), 2), rows)


def test_keys_are_reordered_by_their_own_number_of_heads(tmp_path, make_gguf, gguf_tiny):
    file = make_gguf(gguf_tiny)
    key = file.tensors["blk.1.attn_k.weight"]
    key[:] = np.arange(len(key))[:, None]  # 2 KV heads of 16 dims
    layer = load_gguf(file.write(tmp_path / "m.gguf")).layers[1]
    assert layer.attention.wk.weight[:, 0].tolist() == [
        *range(0, 16, 2),
        *range(1, 16, 2),
        *range(16, 32, 2),
        *range(17, 32, 2),
    ]


def test_a_file_cut_anywhere_is_a_format_error(tmp_path, make_gguf, gguf_tiny):
    whole = make_gguf(gguf_tiny).write(tmp_path / "m.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in [*range(0, 1000, 7), *range(1000, len(whole) - 1, 997), len(whole) - 1]:
        cut.write_bytes(whole[:size])
        with pytest.raises(FormatError, match=r"cut\.gguf: ") as error:
            load_gguf(cut)
        assert "\n" not in str(error.value)
    assert "tensor 'output.weight'" in str(error.value)


def test_flipped_bytes_never_give_a_traceback(tmp_path, make_gguf, gguf_tiny):
    whole = make_gguf(gguf_tiny).write(tmp_path / "m.gguf").read_bytes()
    random = np.random.default_rng(5)
    flipped = tmp_path / "flipped.gguf"
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for place in random.integers(0, 2500, 3):  # the head, where every byte means something
            damaged[place] = random.integers(256)
        flipped.write_bytes(damaged)
        with contextlib.suppress(ArrieroError):
            load_gguf(flipped)
            continue
        refused += 1
    assert refused > 100


def drop(name):
    return lambda file: file.tensors.pop(name)


def change(name, tensor):
    return lambda file: file.tensors.update({name: tensor})


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (drop("blk.1.ffn_up.weight"), "tensor 'blk.1.ffn_up.weight' is missing"),
        (drop("token_embd.weight"), "tensor 'token_embd.weight' is missing"),
        (drop("output_norm.weight"), "tensor 'output_norm.weight' is missing"),
        (change("blk.1.attn_v.weight", np.zeros((64, 64), np.float32)), r"'blk.1.attn_v.weight' has shape \(64, 64\)"),
        (change("blk.0.attn_k.weight", np.zeros((64, 64), np.float32)), r"'blk.0.attn_k.weight' has shape \(64, 64\)"),
        (change("blk.0.attn_q.bias", np.zeros(64, np.float32)), "unexpected or repeated tensor 'blk.0.attn_q.bias'"),
        (change("blk.0.ffn_gate.weight", np.full((96, 64), np.nan, np.float32)), "ffn_gate.weight': holds NaN"),
        (change("blk.0.attn_norm.weight", np.zeros(64, np.int32)), "attn_norm.weight': .*not"),
        (
            lambda file: file.metadata.update({"llama.block_count": 4_000_000_000}),
            "tensor 'blk.3999999999.attn_norm.weight' is missing",
        ),
        (
            lambda file: file.metadata.update({"llama.feed_forward_length": 1 << 31}),
            "'blk.0.ffn_gate.weight' has shape",
        ),
        (lambda file: file.metadata.update({"llama.embedding_length": 1 << 31}), "'token_embd.weight' has shape|head"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, make_gguf, gguf_tiny, harm, message):
    file = make_gguf(gguf_tiny)
    harm(file)
    with pytest.raises(FormatError, match=message) as error:
        load_gguf(file.write(tmp_path / "m.gguf"))
    assert str(error.value).startswith(str(tmp_path / "m.gguf"))


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(NotFoundError, match="no such file"):
        load_gguf(tmp_path / "none.gguf")
