"""Packed weights against the layout written out in plain loops, GGUF's own blocks, and a product in float64."""

from pathlib import Path

import gguf
import pytest
import torch
from torch import Tensor, nn

from arriero.common.errors import ArrieroError
from arriero.common.gguf_header import read_header
from arriero.kernels.linear import Linear
from arriero.model.adapters import Adapters
from arriero.model.coded import dequantise_linear
from arriero.model.config import LlamaConfig
from arriero.model.formats.hf import load_hf, save_hf
from arriero.model.formats.peft import load_peft, save_peft
from arriero.model.lora_config import LoraConfig
from arriero.model.packed import PackedLinear, held_bytes, model_bytes, pack_model
from arriero.model.quantised import quantise_model
from arriero.model.transformer import Llama

BITS = (4, 8)
SHAPE = {
    "vocab_size": 101,
    "dim": 64,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "hidden_dim": 96,
    "max_seq_len": 64,
}
TOKENS = torch.tensor([[5, 9, 100, 0, 7, 33]])


@pytest.fixture(autouse=True)
def exact_products(monkeypatch):
    """Products as PyTorch computes them; the compiled ones, whose inputs are rounded, are in test_native.py."""
    monkeypatch.setattr("arriero.model.packed.why_not_native", lambda: "switched off by a test")


@pytest.fixture(autouse=True)
def plain_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products by PyTorch, whose inputs are not rounded: compiled ones have tests of their own."""
    monkeypatch.setattr("arriero.model.packed.why_not_native", lambda: "a test switched it off", raising=False)


def normal(outputs: int, inputs: int, seed: int = 0) -> Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)) * 0.02


def layer_of(weight: Tensor) -> Linear:
    layer = Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight)
    return layer


def read_one(layer: PackedLinear, row: int, column: int) -> float:
    """One weight by the layout's definition."""
    t, r, g, inner = row // 16, row % 16, column // 32, column % 32
    scale = layer.scales[t, g, r].double()
    if layer.bits == 8:
        return float(scale * (int(layer.codes[t, g, inner // 4, r, inner % 4]) - 128))
    byte = int(layer.codes[t, g, inner % 16 // 4, r, inner % 4])
    return float(scale * (byte >> 4 if inner >= 16 else byte & 15) + layer.mins[t, g, r].double())


@pytest.mark.parametrize("bits", BITS)
def test_the_layout_is_the_one_that_the_docstring_defines(bits):
    layer = PackedLinear.from_weight(normal(19, 96), bits)
    assert layer.codes.shape == (2, 3, 4 if bits == 4 else 8, 16, 4)
    assert layer.scales.shape == (2, 3, 16)
    assert layer.codes.is_contiguous()
    expected = torch.tensor([[read_one(layer, row, column) for column in range(96)] for row in range(19)])
    torch.testing.assert_close(layer.weight, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("bits", BITS)
def test_no_weight_is_further_off_than_half_a_step(bits):
    weight = normal(48, 128)
    groups = weight.view(48, 4, 32)
    step = (groups.amax(2) - groups.amin(2)) / 15 if bits == 4 else groups.abs().amax(2) / 127
    error = (PackedLinear.from_weight(weight, bits).weight - weight).view(48, 4, 32).abs()
    assert (error <= step[..., None] * 0.51 + 15 * step[..., None] * 2**-11).all()


@pytest.mark.parametrize("bits", BITS)
def test_packing_again_changes_nothing(bits):
    once = PackedLinear.from_weight(normal(32, 64), bits)
    twice = PackedLinear.from_weight(once.weight, bits)
    for (name, one), (_, other) in zip(once.named_buffers(), twice.named_buffers(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", [(64,), (1, 64), (3, 5, 64)])
def test_the_product_is_that_of_the_dequantised_matrix(bits, shape):
    layer = PackedLinear.from_weight(normal(50, 64), bits)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected = x.double() @ layer.weight.double().T
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (normal(4, 40), "multiple of 32"),
        (torch.full((4, 32), float("nan")), "NaN or infinity"),
        (torch.linspace(-1e8, 1e8, 128).view(4, 32), "too large for fp16"),
    ],
)
@pytest.mark.parametrize("bits", BITS)
def test_what_cannot_be_packed_is_refused_in_one_line(weight, message, bits):
    with pytest.raises(ArrieroError, match=message):
        PackedLinear.from_linear(layer_of(weight), bits)


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def config(request) -> LlamaConfig:
    return LlamaConfig.of(**SHAPE, tied_embeddings=request.param)


def plain_twin(packed: Llama) -> Llama:
    """A model of plain matrices with the values that the packed one computes with."""
    twin = Llama(packed.config)
    parameters = dict(packed.named_parameters())
    for name, parameter in twin.named_parameters():
        module = packed.get_submodule(name.removesuffix(".weight"))
        value = module.weight if isinstance(module, PackedLinear) else parameters[name]
        parameter.data.copy_(value)
    return twin


def gguf_constants(blocks: Tensor, places: int) -> list[Tensor]:
    """The fp16 numbers at the head of GGUF's blocks (O, G, bytes), each (O, G)."""
    return [blocks[:, :, 2 * i : 2 * i + 2].contiguous().view(torch.float16)[..., 0] for i in range(places)]


def check_against_blocks(layer: PackedLinear, stored: Tensor) -> None:
    """The layer has the constants and codes of a matrix in Q4_1 or Q8_0, (O, bytes of a row)."""
    groups = layer.in_features // 32
    blocks = stored.reshape(layer.out_features, groups, -1)
    by_row = {name: constant.transpose(1, 2).flatten(0, 1) for name, constant in layer.named_buffers() if "s" in name}
    constants = gguf_constants(blocks, 2 if layer.bits == 4 else 1)
    for name, expected in zip(("scales", "mins"), constants, strict=False):
        assert torch.equal(by_row[name][: layer.out_features], expected), name
    codes = layer.codes.permute(0, 3, 1, 2, 4).flatten(0, 1).flatten(2)[: layer.out_features]  # (O, G, 16 or 32)
    if layer.bits == 4:
        assert torch.equal(codes, blocks[:, :, 4:])
    else:
        assert torch.equal(codes, (blocks[:, :, 2:].view(torch.int8).int() + 128).to(torch.uint8))


@pytest.mark.parametrize(
    ("bits", "kind"), [(4, gguf.GGMLQuantizationType.Q4_1), (8, gguf.GGMLQuantizationType.Q8_0)], ids=["Q4_1", "Q8_0"]
)
def test_ggufs_blocks_come_out_as_they_went_in(bits, kind):
    stored = gguf.quants.quantize(normal(32, 96).numpy(), kind)
    weight = torch.from_numpy(gguf.quants.dequantize(stored, kind))
    layer = PackedLinear.from_weight(weight, bits)
    check_against_blocks(layer, torch.from_numpy(stored))
    assert torch.equal(layer.weight, weight)


@pytest.mark.weights
def test_smollm2s_own_file_is_packed_without_any_change(smollm2_gguf: Path):
    tensors = read_header(smollm2_gguf).tensors
    for name, bits in {"blk.0.attn_output.weight": 4, "blk.17.ffn_down.weight": 4, "token_embd.weight": 8}.items():
        tensor = tensors[name]
        kind = gguf.GGMLQuantizationType(tensor.kind)
        assert kind.name == {4: "Q4_1", 8: "Q8_0"}[bits]
        row_bytes = tensor.shape[1] // 32 * gguf.GGML_QUANT_SIZES[kind][1]
        with smollm2_gguf.open("rb") as file:
            file.seek(tensor.start)
            stored = torch.frombuffer(bytearray(file.read(512 * row_bytes)), dtype=torch.uint8).view(512, row_bytes)
        weight = torch.from_numpy(gguf.quants.dequantize(stored.numpy(), kind))
        layer = PackedLinear.from_weight(weight, bits)
        check_against_blocks(layer, stored)
        assert torch.equal(layer.weight, weight)


@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_a_packed_model_computes_with_its_dequantised_matrices(weights, config, make_model):
    model = make_model(config)
    embedding = model.tok_embeddings.weight.clone()
    expected_bytes = held_bytes(model, weights)
    packed = pack_model(model, weights)
    assert model_bytes(packed) == expected_bytes
    assert {m.bits for m in packed.layers.modules() if isinstance(m, PackedLinear)} == {4 if weights == "int4" else 8}
    assert isinstance(packed.output, PackedLinear)
    assert packed.output.bits == 8
    assert torch.equal(packed.tok_embeddings.weight, embedding)
    assert not packed.config.tied_embeddings
    twin = plain_twin(packed)
    torch.testing.assert_close(packed(TOKENS), twin(TOKENS), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(packed.loss(TOKENS, TOKENS)[0], twin.loss(TOKENS, TOKENS)[0])
    torch.testing.assert_close(packed.output_weight, twin.output_weight)


@pytest.mark.parametrize(("weights", "bound"), [("int4", 0.6), ("int8", 0.06)])
def test_logits_are_near_the_models(weights, bound, config, make_model):
    model = make_model(config)
    expected = model(TOKENS).detach()
    error = (pack_model(model, weights)(TOKENS).detach() - expected).square().mean().sqrt() / expected.std()
    assert error < bound


def test_files_of_models_are_packed_as_they_are_read(config, make_model, tmp_path):
    model = make_model(config)
    save_hf(model, tmp_path)
    read = load_hf(tmp_path, packed="int4")
    packed = pack_model(model, "int4")
    assert read.config == packed.config
    for name, buffer in packed.named_buffers():
        assert torch.equal(dict(read.named_buffers())[name], buffer), name
    assert torch.equal(read(TOKENS), packed(TOKENS))
    assert all(not isinstance(module, nn.Linear) for module in read.modules())


def test_another_dtype_leaves_the_matrices_alone(config, make_model):
    packed = pack_model(make_model(config), "int4")
    before = packed.layers[0].attention.wq.weight
    halved = packed.to(torch.bfloat16)
    assert halved.layers[0].attention.wq.scales.dtype == torch.float16
    assert torch.equal(halved.layers[0].attention.wq.weight, before)
    assert halved(TOKENS).dtype == halved.output_weight.dtype == torch.bfloat16
    assert halved.loss(TOKENS, TOKENS)[0].isfinite()


def test_an_adapter_works_on_packed_layers_and_merges_into_them(config, make_model, tmp_path):
    packed = pack_model(make_model(config), "int4")
    twin = plain_twin(packed)
    base = packed(TOKENS).detach()
    for model in (packed, twin):
        Adapters.of(model).add("a", LoraConfig(rank=4, targets=("all-linear", "output"), init="gaussian"), seed=1)
        for change in Adapters.of(model).changes("a").values():
            nn.init.constant_(change.b, 0.02)
    torch.testing.assert_close(packed(TOKENS), twin(TOKENS), rtol=1e-4, atol=1e-5)
    for model in (packed, twin):
        model.loss(TOKENS, TOKENS)[0].backward()
    for module, change in Adapters.of(packed).changes("a").items():
        expected = Adapters.of(twin).changes("a")[module].a.grad
        torch.testing.assert_close(change.a.grad, expected, rtol=1e-3, atol=1e-5)
    alive = packed(TOKENS).detach()
    packed.eval()
    Adapters.of(packed).merge("a")
    assert not isinstance(packed.output, PackedLinear)
    torch.testing.assert_close(packed(TOKENS), alive, rtol=1e-4, atol=1e-5)
    Adapters.of(packed).unmerge()
    Adapters.of(packed).activate(None)
    assert torch.equal(packed(TOKENS), base)


def test_an_adapters_file_knows_its_base_when_that_is_packed(config, make_model, tmp_path):
    model = make_model(config)
    Adapters.of(model).add("a", LoraConfig(rank=2))
    save_peft(model, "a", tmp_path, base="base")
    packed = pack_model(make_model(config), "int4")
    load_peft(packed, tmp_path, "a")
    other = pack_model(make_model(config, seed=9), "int4")
    with pytest.raises(ArrieroError, match="their weights differ"):
        load_peft(other, tmp_path, "a")


def test_what_qlora_quantised_is_packed_but_never_the_other_way_round(config, make_model):
    quantised = quantise_model(make_model(config), "nf4")
    expected = PackedLinear.from_linear(dequantise_linear(quantised.layers[0].attention.wq), 4).weight
    packed = pack_model(quantised, "int4")
    assert torch.equal(packed.layers[0].attention.wq.weight, expected)
    with pytest.raises(ArrieroError, match="quantised already, to packed weights"):
        quantise_model(packed, "nf4")


def test_packing_twice_changes_nothing_and_to_other_bits_is_refused(config, make_model):
    packed = pack_model(make_model(config), "int4")
    layer = packed.layers[0].attention.wq
    assert pack_model(packed, "int4").layers[0].attention.wq is layer
    with pytest.raises(ArrieroError, match="packed already"):
        pack_model(packed, "int8")


def test_a_shape_or_an_adapter_that_forbids_it_is_told_before_anything_changes(config, make_model):
    narrow = make_model(LlamaConfig.of(**SHAPE | {"hidden_dim": 80}))
    with pytest.raises(ArrieroError, match="w2 has 80 inputs, and int4 weights need a multiple of 32"):
        pack_model(narrow, "int4")
    adapted = make_model(config)
    Adapters.of(adapted).add("a", LoraConfig(rank=2))
    with pytest.raises(ArrieroError, match="before you add them"):
        pack_model(adapted, "int8")
    with pytest.raises(ArrieroError, match="expected full, int8 or int4, got 'int2'"):
        pack_model(narrow, "int2")
    assert not any(isinstance(module, PackedLinear) for model in (narrow, adapted) for module in model.modules())


def test_a_file_of_a_packed_model_is_not_written(config, make_model, tmp_path):
    with pytest.raises(ArrieroError, match="load it with weights 'full'"):
        save_hf(pack_model(make_model(config), "int8"), tmp_path)
    assert not any(tmp_path.iterdir())
