"""Peak memory, counted exactly where the answer is plain, and within PyTorch's own kernels."""

import sys

import pytest
import torch
import torch.nn.functional as F

from arriero.kernels.memory import peak_memory
from arriero.kernels.options import Options
from arriero.kernels.tiled import attention_tiled
from tests.kernels.qkv import random_qkv


def test_what_is_freed_meanwhile_does_not_add_up():
    def work():
        first = torch.empty(1000)
        second = torch.empty(500)  # the peak: 1500 floats
        del first
        return second, torch.empty(250)

    assert peak_memory(work, "cpu") == 4 * 1500


def test_nothing_allocated_is_zero():
    there = torch.zeros(1000)
    assert peak_memory(lambda: there.zero_(), "cpu") == 0


def test_freeing_what_was_there_before_is_not_negative():
    there = [torch.zeros(1000)]

    def work():
        there.clear()
        return torch.empty(10)

    assert peak_memory(work, "cpu") == 40


def test_a_backward_pass_is_counted():
    x = torch.ones(1000, requires_grad=True)
    exp = x.exp()
    upstream = torch.ones(1000)
    assert peak_memory(lambda: torch.autograd.grad(exp, x, upstream), "cpu") == 4000


def test_buffers_within_a_kernel_are_counted():
    q = torch.randn(1, 4, 256, 32)
    peak = peak_memory(lambda: F.scaled_dot_product_attention(q, q, q), "cpu")
    assert peak > q.nbytes + 4 * 4 * 256  # output and log-sum-exp; the rest are the threads' tiles of scores


def test_tiled_attention_grows_by_the_length():
    def peak(tokens):
        q, k, v = random_qkv(1, tokens, tokens, 1, 1, 16, torch.float32)
        return peak_memory(lambda: torch.autograd.grad(attention_tiled(q, k, v, Options())[0].sum(), (q, k, v)), "cpu")

    assert peak(2048) < 2.1 * peak(1024)


def test_an_error_passes_through_and_the_error_stream_is_whole_again(capfd):
    def fail():
        raise KeyError("here")

    with pytest.raises(KeyError, match="here"):
        peak_memory(fail, "cpu")
    peak_memory(lambda: torch.empty(5), "cpu")
    print("heard", file=sys.stderr, flush=True)
    assert capfd.readouterr().err == "heard\n"
