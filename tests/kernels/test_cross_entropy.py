"""The chunked loss against PyTorch's on whole logits: value, gradients, and what is never made."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from arriero.common.errors import ArrieroError
from arriero.kernels.cross_entropy import IGNORED, cross_entropy
from tests.kernels.largest import LargestTensor


def random_call(tokens: int, vocabulary: int = 50, dim: int = 8, dtype=torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, dim, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, dim, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(0, vocabulary, (tokens,), generator=generator)


@pytest.mark.parametrize("chunk", [1, 3, 7, 20, None])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_the_loss_on_whole_logits(chunk, dtype):
    hidden, weight, targets = random_call(7, dtype=dtype)
    targets[2] = IGNORED
    total, losses = cross_entropy(hidden, weight, targets, chunk=chunk)
    exact = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    expected = F.cross_entropy(exact[0] @ exact[1].T, targets, reduction="sum")
    torch.testing.assert_close(total.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(losses.sum(), total)
    assert losses[2] == 0
    got = torch.autograd.grad(total / 5, (hidden, weight))
    wanted = torch.autograd.grad(expected / 5, exact)
    for gradient, right in zip(got, wanted, strict=True):
        torch.testing.assert_close(gradient.double(), right, rtol=1e-5, atol=1e-5)


def test_weights_scale_each_token_s_loss():
    hidden, weight, targets = random_call(6)
    factors = torch.tensor([0.0, 1.0, 0.5, 2.0, 1.0, -1.0])
    total, losses = cross_entropy(hidden, weight, targets, factors, chunk=4)
    expected = (F.cross_entropy(hidden @ weight.T, targets, reduction="none") * factors).sum()
    torch.testing.assert_close(total.double(), expected, rtol=1e-6, atol=1e-6)
    for got, right in zip(
        torch.autograd.grad(total, (hidden, weight)), torch.autograd.grad(expected, (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(got, right, rtol=1e-5, atol=1e-5)
    assert losses[0] > 0, "a token's own loss is told whatever its weight"


def test_gradients_are_computed_for_what_needs_them_only():
    hidden, weight, targets = random_call(5, dtype=torch.float32)
    total, _ = cross_entropy(hidden, weight.detach(), targets)
    assert torch.autograd.grad(total, hidden)[0].shape == hidden.shape
    total, _ = cross_entropy(hidden.detach(), weight, targets)
    assert torch.autograd.grad(total, weight)[0].shape == weight.shape
    assert not cross_entropy(hidden.detach(), weight.detach(), targets)[0].requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_as_the_plain_loss(dtype):
    hidden, weight, targets = random_call(9, dtype=dtype)
    total, _ = cross_entropy(hidden, weight, targets, chunk=4)
    assert total.dtype == torch.float32
    exact = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    truth = F.cross_entropy(exact[0] @ exact[1].T, targets, reduction="sum")
    plain = F.cross_entropy((hidden @ weight.T).float(), targets, reduction="sum")
    assert (total - truth).abs() <= 2 * (plain - truth).abs() + 1e-3
    for ours, simple, right in zip(
        torch.autograd.grad(total, (hidden, weight)),
        torch.autograd.grad(plain, (hidden, weight)),
        torch.autograd.grad(truth, exact),
        strict=True,
    ):
        bound = 2 * (simple - right).abs().max() + torch.finfo(dtype).eps * right.abs().max()
        assert (ours - right).abs().max() <= bound


def test_the_logits_of_all_tokens_never_exist():
    hidden, weight, targets = random_call(64, vocabulary=1000, dtype=torch.float32)
    with LargestTensor() as seen:
        cross_entropy(hidden, weight, targets, chunk=8)[0].backward()
    assert seen.numel <= weight.numel()


@pytest.mark.parametrize("chunk", [1, 2, 5, None])
@pytest.mark.parametrize("learnt", [[], [0], [8], [0, 4, 5, 8], range(9)])
def test_wherever_the_tokens_without_a_loss_lie_the_rest_is_as_on_whole_logits(learnt, chunk):
    hidden, weight, targets = random_call(9, dtype=torch.float32)
    masked = torch.full_like(targets, IGNORED)
    masked[list(learnt)] = targets[list(learnt)]
    factors = torch.arange(9) / 4
    total, losses = cross_entropy(hidden, weight, masked, factors, chunk=chunk)
    exact = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    each = F.cross_entropy(exact[0] @ exact[1].T, masked, reduction="none")
    torch.testing.assert_close(losses.double(), each.detach(), rtol=1e-5, atol=1e-6)
    got = torch.autograd.grad(total, (hidden, weight))
    wanted = torch.autograd.grad((each * factors).sum(), exact)
    for gradient, right in zip(got, wanted, strict=True):
        torch.testing.assert_close(gradient.double(), right, rtol=1e-5, atol=1e-5)
    assert (got[0][masked == IGNORED] == 0).all()


def test_tokens_without_a_loss_get_no_logits():
    hidden, weight, targets = random_call(64, vocabulary=1000, dtype=torch.float32)
    weight.requires_grad_(False)
    targets[5:60] = IGNORED
    with LargestTensor() as seen:
        cross_entropy(hidden, weight, targets)[0].backward()
    assert seen.numel == 9 * 1000


def test_what_stands_at_tokens_without_a_loss_does_not_matter():
    hidden, weight, targets = random_call(6, dtype=torch.float32)
    targets[2:4] = IGNORED
    total, losses = cross_entropy(hidden, weight, targets)
    spoilt = hidden.detach().clone()
    spoilt[2:4] = torch.nan
    again, losses_again = cross_entropy(spoilt.requires_grad_(), weight, targets)
    assert torch.equal(total, again)
    assert torch.equal(losses, losses_again)
    for gradient in torch.autograd.grad(again, (spoilt, weight)):
        assert gradient.isfinite().all()


def test_no_tokens_have_no_loss():
    hidden, weight, targets = random_call(0, dtype=torch.float32)
    total, losses = cross_entropy(hidden, weight, targets)
    total.backward()
    assert total == 0
    assert losses.shape == (0,)
    assert (weight.grad == 0).all()


BAD = [
    ({"hidden": torch.zeros(2, 3, 8)}, r"hidden: expected 2 dimensions .* got shape \(2, 3, 8\)"),
    ({"weight": torch.zeros(50, 7)}, r"weight: expected shape \(vocabulary, 8\), got \(50, 7\)"),
    (
        {"targets": torch.zeros(4, dtype=torch.int64)},
        r"targets: expected int64 of shape \(3,\), got .*4,",
    ),
    ({"targets": torch.zeros(3)}, r"targets: expected int64 of shape \(3,\), got torch.float32"),
    ({"token_weights": torch.zeros(4)}, r"token_weights: expected shape \(3,\), got \(4,\)"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_input_is_named(change, message):
    good = {"hidden": torch.zeros(3, 8), "weight": torch.zeros(50, 8), "targets": torch.zeros(3, dtype=torch.int64)}
    with pytest.raises(ArrieroError, match=message):
        cross_entropy(**(good | change))
