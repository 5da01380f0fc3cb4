"""Packed weights against the layout written out in plain loops, GGUF's own blocks, and a product in float64."""

import pytest
import torch
from torch import Tensor, nn

from arriero.common.errors import ArrieroError
from arriero.kernels.linear import Linear
from arriero.model.packed import PackedLinear

BITS = (4, 8)


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
