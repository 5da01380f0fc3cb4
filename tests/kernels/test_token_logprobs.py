"""Log-probabilities and entropies of tokens, against the plain formulas in double precision."""

import pytest
import torch

from arriero.common.errors import ArrieroError
from arriero.kernels.token_logprobs import token_logprobs

N, C, V = 13, 8, 41


@pytest.fixture
def parts():
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(N, C, generator=generator, dtype=torch.float64)
    weight = torch.randn(V, C, generator=generator, dtype=torch.float64)
    return hidden, weight, torch.randint(V, (N,), generator=generator)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("chunk", [None, 4])
def test_logprobs_entropies_and_gradients_are_those_of_the_plain_formulas(parts, temperature, chunk):
    hidden, weight, targets = parts
    slopes = torch.linspace(-1, 2, N, dtype=torch.float64)
    oracle_hidden, oracle_weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    everything = torch.log_softmax(oracle_hidden @ oracle_weight.T / temperature, -1)
    expected = everything.gather(1, targets[:, None])[:, 0]
    (expected * slopes).sum().backward()

    own_hidden, own_weight = hidden.float().requires_grad_(), weight.float().requires_grad_()
    logprobs, entropies = token_logprobs(own_hidden, own_weight, targets, temperature, chunk)
    (logprobs * slopes.float()).sum().backward()

    torch.testing.assert_close(logprobs.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropies.double(), -(everything.exp() * everything).sum(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(own_hidden.grad.double(), oracle_hidden.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own_weight.grad.double(), oracle_weight.grad, rtol=1e-4, atol=1e-5)


def test_a_frozen_matrix_gets_no_gradient(parts):
    hidden, weight, targets = parts
    own = hidden.float().requires_grad_()
    token_logprobs(own, weight.float(), targets)[0].sum().backward()
    assert own.grad is not None


def test_wrong_shapes_and_temperatures_are_refused(parts):
    hidden, weight, targets = parts
    with pytest.raises(ArrieroError, match="targets"):
        token_logprobs(hidden, weight, targets[:-1])
    with pytest.raises(ArrieroError, match="model dim"):
        token_logprobs(hidden, weight[:, 1:], targets)
    with pytest.raises(ArrieroError, match="temperature"):
        token_logprobs(hidden, weight, targets, 0.0)


def test_no_tokens_have_no_logprobs(parts):
    hidden, weight, targets = parts
    logprobs, entropies = token_logprobs(hidden[:0], weight, targets[:0])
    assert logprobs.shape == entropies.shape == (0,)
