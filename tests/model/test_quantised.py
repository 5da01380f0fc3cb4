"""Quantised matrices against a plain reference in float64, autograd's own gradients, and the bytes they really take.

Against bitsandbytes 0.50.2 on the CPU (nf4, blocks of 64, compress_statistics), with three matrices of SmolLM2, one of
normal numbers and one with an outlier: the 4-bit codes, the constants in fp32 and the table of the 8-bit floats were
equal bit for bit; at most 0.4% of the maxima's 8-bit codes were one step apart, ours the nearer one.
"""

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor

from arriero.common.errors import ArrieroError
from arriero.kernels.linear import Linear
from arriero.model.adapters import Adapters
from arriero.model.coded import dequantise_linear
from arriero.model.config import LlamaConfig
from arriero.model.lora_config import LoraConfig
from arriero.model.quantised import (
    BLOCK,
    CHUNK,
    NF4,
    OUTER_BLOCK,
    QuantisedLinear,
    quantise_model,
    quantised_bytes,
)

APPENDIX_E = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
KINDS = ("nf4", "int8")
SHAPES = ((64, 64), (96, 200), (1, 1), (3, 7), (5, 129), (1, 64 * 256 + 1), (257, 64))


def layer_of(weight: Tensor) -> Linear:
    layer = Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight)
    return layer


def normal(outputs: int, inputs: int, seed: int = 0) -> Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)) * 0.02


def buffer_bytes(module: nn.Module) -> int:
    return sum(buffer.numel() * buffer.element_size() for buffer in module.buffers())


def reference_nf4(weight: Tensor) -> Tensor:
    """Each block's nearest NF4 values times its exact maximum, in float64."""
    table = torch.tensor(APPENDIX_E, dtype=torch.float64)
    blocks = nn.functional.pad(weight.double().flatten(), (0, -weight.numel() % 64)).view(-1, 64)
    rows = []
    for block in blocks:
        largest = block.abs().max()
        nearest = (block[:, None] / largest - table).abs().argmin(1) if largest > 0 else torch.full((64,), 7)
        rows.append(table[nearest] * largest)
    return torch.cat(rows)[: weight.numel()].view(weight.shape)


def reference_int8(weight: Tensor) -> Tensor:
    """Each row's multiples of a 127th of its maximum, in float64."""
    steps = weight.double().abs().amax(1, keepdim=True) / 127
    return (weight.double() / steps).round() * steps


def block_maxima(weight: Tensor) -> Tensor:
    """The maximum of each weight's block, in the matrix's shape."""
    blocks = nn.functional.pad(weight.flatten(), (0, -weight.numel() % 64)).view(-1, 64)
    return blocks.abs().amax(1, keepdim=True).expand_as(blocks).flatten()[: weight.numel()].view(weight.shape)


def test_the_values_are_the_papers():
    assert NF4 == APPENDIX_E


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_nf4_is_the_reference_up_to_the_rounding_of_the_maxima(shape):
    weight = normal(*shape)
    got = QuantisedLinear.from_linear(layer_of(weight), "nf4").weight
    maxima = block_maxima(weight)
    deviation = (maxima - maxima.max()).abs().max()  # steps are at most 1.5% of the largest, half of it is the error
    assert got.shape == weight.shape
    assert (got - reference_nf4(weight)).abs().max() <= 0.01 * deviation + 1e-7


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_int8_is_the_reference(shape):
    weight = normal(*shape)
    got = QuantisedLinear.from_linear(layer_of(weight), "int8").weight
    torch.testing.assert_close(got.double(), reference_int8(weight), rtol=1e-6, atol=1e-9)


def test_errors_of_normal_weights_are_bounded():
    weight = normal(256, 512)
    nf4 = (QuantisedLinear.from_linear(layer_of(weight), "nf4").weight - weight).abs()
    int8 = (QuantisedLinear.from_linear(layer_of(weight), "int8").weight - weight).abs()
    widest = (1.0 - 0.6961928009986877) / 2  # half of the widest gap between two values
    assert (nf4 <= (widest + 0.01) * block_maxima(weight)).all()
    assert (int8 <= weight.abs().amax(1, keepdim=True) / 254 * 1.0001).all()
    assert nf4.square().mean().sqrt() < 0.1 * weight.std()
    assert int8.square().mean().sqrt() < 0.01 * weight.std()


def test_one_outlier_does_not_blur_the_other_blocks():
    weight = normal(256, 64)
    weight[3, 5] = 100 * weight.std()
    error = QuantisedLinear.from_linear(layer_of(weight), "nf4").weight - weight
    others = torch.cat([error[:3], error[4:]])
    assert others.square().mean().sqrt() < 0.1 * normal(256, 64).std()


def test_nf4_costs_4_127_bits_a_weight():
    quantised = QuantisedLinear.from_linear(layer_of(normal(1024, 1024)), "nf4")
    assert 8 * buffer_bytes(quantised) / 1024**2 == pytest.approx(4 + 8 / BLOCK + 32 / (BLOCK * OUTER_BLOCK), abs=1e-4)
    assert not list(quantised.parameters())


def test_a_matrix_is_encoded_in_parts_as_in_one(monkeypatch):
    weight = normal(300, 100)
    whole = QuantisedLinear.from_linear(layer_of(weight), "nf4")
    monkeypatch.setattr("arriero.model.quantised.CHUNK", 4 * BLOCK)
    parts = QuantisedLinear.from_linear(layer_of(weight), "nf4")
    assert CHUNK % BLOCK == 0
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), parts.buffers(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_and_gradients_equal_those_of_the_dequantised_layer(kind, dtype):
    quantised = QuantisedLinear.from_linear(layer_of(normal(48, 70)), kind)
    plain = dequantise_linear(quantised).to(dtype)
    x = torch.randn(2, 3, 70, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    other = x.detach().clone().requires_grad_()
    y, expected = quantised(x), plain(other)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(x.grad, other.grad)
    assert y.dtype == x.grad.dtype == dtype


def test_nothing_is_kept_for_the_backward_pass():
    kept = []
    quantised = QuantisedLinear.from_linear(layer_of(normal(48, 70)), "nf4")
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor), lambda _: None):
        quantised(torch.ones(2, 70, requires_grad=True))
    assert not kept
    assert not quantised.weight.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_round_trip(kind):
    one, other = (QuantisedLinear.from_linear(layer_of(normal(9, 33, seed)), kind) for seed in (0, 1))
    assert not torch.equal(one.weight, other.weight)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.weight, other.weight)


@pytest.mark.parametrize("kind", KINDS)
def test_another_dtype_of_the_model_leaves_the_weights_as_they_are(kind):
    quantised = QuantisedLinear.from_linear(layer_of(normal(9, 133)), kind)
    before = quantised.weight
    assert torch.equal(quantised.to(torch.bfloat16).weight, before)
    assert torch.equal(quantised.dequantise(torch.bfloat16), before.bfloat16())


@pytest.mark.parametrize("kind", KINDS)
def test_a_half_precision_matrix_is_quantised_as_its_fp32_copy(kind):
    weight = normal(40, 77).bfloat16()
    halves, whole = (QuantisedLinear.from_linear(layer_of(values), kind) for values in (weight, weight.float()))
    assert torch.equal(halves.weight, whole.weight)


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_stay_zeros(kind):
    weight = normal(4, 640)
    weight[1:3] = 0.0
    assert not QuantisedLinear.from_linear(layer_of(torch.zeros(4, 640)), kind).weight.any()
    assert not QuantisedLinear.from_linear(layer_of(weight), kind).weight[1:3].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_is_refused(kind, value):
    weight = normal(4, 100)
    weight[2, 50] = value
    with pytest.raises(ArrieroError, match="NaN or infinity"):
        QuantisedLinear.from_linear(layer_of(weight), kind)


def test_large_finite_numbers_in_half_precision_are_not_refused():
    weight = torch.full((8, 64), 6e4, dtype=torch.float16)  # their sum is not finite
    torch.testing.assert_close(QuantisedLinear.from_linear(layer_of(weight), "nf4").weight, weight.float())


def test_biases_and_unknown_kinds_are_refused():
    with pytest.raises(ArrieroError, match="bias"):
        QuantisedLinear.from_linear(nn.Linear(4, 4), "nf4")
    with pytest.raises(ArrieroError, match="expected nf4 or int8, got 'none'"):
        QuantisedLinear.from_linear(layer_of(normal(4, 4)), "none")


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_keeps_its_embedding_output_norms_and_mode(kind, tiny, make_model):
    model = make_model(tiny).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert quantise_model(model, kind) is model
    linears = [module for module in model.layers.modules() if isinstance(module, QuantisedLinear)]
    assert len(linears) == 7 * tiny.n_layers
    assert not any(isinstance(module, nn.Linear) for module in model.layers.modules())
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert not dequantise_linear(linears[0]).training


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_near_the_models(kind, tiny, make_model, tokens):
    model = make_model(tiny)
    expected = model(tokens).detach()
    error = (quantise_model(model, kind)(tokens).detach() - expected).square().mean().sqrt() / expected.std()
    assert error < {"nf4": 0.6, "int8": 0.05}[kind]


def test_a_model_is_quantised_once_and_before_its_adapters(tiny, make_model):
    model = quantise_model(make_model(tiny), "int8")
    with pytest.raises(ArrieroError, match="quantised already, to int8"):
        quantise_model(model, "nf4")
    adapted = make_model(tiny)
    Adapters.of(adapted).add("a", LoraConfig(rank=2))
    with pytest.raises(ArrieroError, match="before you add them"):
        quantise_model(adapted, "nf4")


def test_a_matrix_divided_among_ranks_is_refused_before_anything_changes(tiny, make_model, tmp_path):
    model = make_model(tiny)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    try:
        last = model.layers[-1].feed_forward.w3
        last.weight = nn.Parameter(distribute_tensor(last.weight.detach(), init_device_mesh("cpu", (1,))))
        assert isinstance(last.weight, DTensor)
        with pytest.raises(ArrieroError, match="divided among ranks"):
            quantise_model(model, "nf4")
    finally:
        torch.distributed.destroy_process_group()
    assert not any(isinstance(module, QuantisedLinear) for module in model.modules())


def test_dequantising_draws_no_random_numbers():
    quantised = QuantisedLinear.from_linear(layer_of(normal(8, 8)), "nf4")
    before = torch.get_rng_state()
    plain = dequantise_linear(quantised)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(plain.weight, quantised.weight)
    assert not plain.weight.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_planned_bytes_are_those_of_the_buffers(kind, variant, make_model):
    model = make_model(variant)
    matrices = sum(m.weight.numel() * 4 for m in model.layers.modules() if isinstance(m, nn.Linear))
    assert quantised_bytes(variant, "none") == matrices
    assert quantised_bytes(variant, kind) == buffer_bytes(quantise_model(model, kind).layers)


MEMORY = """
import ctypes, gc, resource, sys
import torch
from arriero.model.config import LlamaConfig
from arriero.model.quantised import quantise_model
from arriero.model.transformer import Llama

def resident():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

torch.set_num_threads(1)
torch.nn.Linear.reset_parameters = lambda self: None  # init_weights comes
model = Llama(LlamaConfig.of(vocab_size=64, dim=512, n_layers=12, n_heads=8, hidden_dim=2048, max_seq_len=64))
model.init_weights(0)
small = Llama(LlamaConfig.of(vocab_size=64, dim=64, n_layers=1, n_heads=4, max_seq_len=64)).init_weights(0)
quantise_model(small, sys.argv[1])  # what the libraries need for themselves
before = resident()
quantise_model(model, sys.argv[1])
after = resident()
status = open("/proc/self/status").read()  # getrusage's peak is that of the process which started this one
peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
print(before, after, peak)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", KINDS)
def test_memory_falls_to_the_planned_bytes_and_never_rises_much(kind):
    config = LlamaConfig.of(vocab_size=64, dim=512, n_layers=12, n_heads=8, hidden_dim=2048, max_seq_len=64)
    command = [sys.executable, "-c", MEMORY, kind]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    before, after, peak = map(int, run.stdout.split())
    saved = quantised_bytes(config, "none") - quantised_bytes(config, kind)
    assert before - after == pytest.approx(saved, rel=0.1)
    assert peak - before < 10 * 4 * CHUNK
