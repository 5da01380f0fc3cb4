"""The one function: who computes a call, and what holds whoever does."""

import importlib
import sys

import pytest
import torch

from arriero.common.errors import ArrieroError
from arriero.kernels.attention import FORCE, IMPLEMENTATIONS, attention, attention_with_log_sum, choose, why_not
from arriero.kernels.block_mask import BlockMask
from arriero.kernels.documents import Documents
from arriero.kernels.options import Options
from arriero.kernels.reference import attention_reference
from tests.kernels.qkv import random_qkv


@pytest.fixture(autouse=True)
def nothing_forced(monkeypatch):
    monkeypatch.delenv(FORCE, raising=False)


def options_of_every_kind() -> dict[str, dict]:
    documents = Documents.from_segments(torch.tensor([[0] * 5 + [1] * 12, [0] * 17]))
    return {
        "plain": {},
        "not causal": {"causal": False},
        "scale": {"scale": 0.7},
        "window": {"window": 4},
        "soft cap": {"softcap": 2.0},
        "dropout": {"dropout": 0.3, "seed": 5},
        "documents": {"documents": documents},
        "key lengths": {"key_lengths": torch.tensor([17, 0])},
        "key mask": {"key_mask": torch.arange(34).view(2, 17) % 3 > 0},
        "block mask": {"block_mask": BlockMask(torch.tensor([[True, False], [True, True]]), size=16)},
    }


@pytest.mark.parametrize("option", options_of_every_kind())
@pytest.mark.parametrize("implementation", [None, *IMPLEMENTATIONS])
def test_every_implementation_gives_the_reference_or_says_why_not(implementation, option):
    keywords = options_of_every_kind()[option]
    q, k, v = random_qkv(2, 17, 17, 4, 2, 16, dtype=torch.float32)
    exact = [x.double() for x in (q, k, v)]
    expected = attention_reference(*exact, Options(**keywords))[0]
    if implementation is not None and why_not(implementation, q, Options(**keywords)):
        with pytest.raises(ArrieroError, match=f"attention by '{implementation}' was forced, but"):
            attention(q, k, v, **keywords, implementation=implementation)
        return
    out = attention(q, k, v, **keywords, implementation=implementation)
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)


def test_a_cpu_takes_pytorch_s_where_it_needs_no_mask_and_the_tiles_elsewhere():
    q, _, _ = random_qkv(2, 17, 17, 4, 2, 16, dtype=torch.float32)
    chosen = {name: choose(q, Options(**keywords)) for name, keywords in options_of_every_kind().items()}
    tiled = {"window", "soft cap", "dropout", "key mask", "block mask"}
    assert {name for name, who in chosen.items() if who == "tiled"} == tiled
    assert choose(q, Options(), log_sum=True) == "tiled"


def test_long_rows_and_documents_on_a_cpu_take_the_tiles_where_these_are_faster(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    q = torch.zeros(1, 1200, 1, 1)

    def of_documents(*lengths):
        return Options(documents=Documents.from_cu_seqlens(torch.tensor([0, *lengths]).cumsum(0), 1, 1200))

    assert choose(q, Options()) == choose(q[:, :400], Options(), group=3) == "tiled"
    assert choose(q[:, :400], Options()) == choose(q.bfloat16(), Options()) == "sdpa"
    assert choose(q, of_documents(400, 400, 400), group=3) == choose(q, of_documents(100, 500, 600), group=3) == "tiled"
    assert choose(q, of_documents(*[100] * 12), group=3) == "sdpa"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert choose(q, Options()) == "sdpa"


def test_the_environment_forces_one_and_the_argument_beats_it(monkeypatch):
    q, k, v = random_qkv(1, 3, 3, 1, 1, 16)
    for name in ("reference", "tiled", "sdpa"):
        monkeypatch.setenv(FORCE, name)
        assert choose(q, Options()) == name
        assert choose(q, Options(), forced="tiled") == "tiled"
    monkeypatch.setenv(FORCE, "sdpa")
    with pytest.raises(ArrieroError, match="'sdpa' was forced, but PyTorch's attention has no soft cap; unset ARR"):
        attention(q, k, v, softcap=1.0)
    with pytest.raises(ArrieroError, match=r"'sdpa' was forced, but .* doesn't give the log-sum-exp"):
        attention_with_log_sum(q, k, v, Options())
    monkeypatch.setenv(FORCE, "tilde")
    with pytest.raises(ArrieroError, match=r"there is none of that name \(did you mean tiled\?\); there are"):
        attention(q, k, v)
    monkeypatch.setenv(FORCE, "")
    assert choose(q, Options()) == "sdpa"


def test_triton_says_what_it_needs(monkeypatch):
    pytest.importorskip("triton")
    q, k, v = random_qkv(1, 3, 3, 1, 1, 16)
    with pytest.raises(ArrieroError, match=r"'triton' was forced, but .*float64"):
        attention(q, k, v, implementation="triton")


def test_a_triton_that_is_missing_or_broken_is_told(monkeypatch):
    module = importlib.import_module("arriero.kernels.attention")
    monkeypatch.setattr(module, "_why_no_triton", module._why_no_triton.__wrapped__)
    q, k, v = random_qkv(1, 3, 3, 1, 1, 16)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ArrieroError, match=r"the package 'triton' is missing: pip install 'arriero\[triton\]'"):
        attention(q, k, v, implementation="triton")

    def fail(name):
        raise ImportError("libtriton.so: cannot open shared object file")

    monkeypatch.setattr(module, "import_module", fail)
    with pytest.raises(ArrieroError, match=r"the package 'triton' can't be imported: libtriton.so: cannot open"):
        attention(q, k, v, implementation="triton")


def test_causal_is_aligned_at_the_bottom_right():
    q, k, v = random_qkv(1, 2, 5, 1, 1, 8)
    out = attention(q, k, v)
    torch.testing.assert_close(out[:, :1], attention(q[:, :1], k[:, :4], v[:, :4], causal=False))
    torch.testing.assert_close(out[:, 1:], attention(q[:, 1:], k, v, causal=False))


def test_queries_before_all_keys_give_zero_and_no_gradient():
    q, k, v = random_qkv(2, 7, 3, 4, 2, 16)
    out = attention(q, k, v)
    assert (out[:, :4] == 0).all()
    (dq,) = torch.autograd.grad(out.sum(), q)
    assert (dq[:, :4] == 0).all()


def test_parts_merge_by_their_log_sums():
    q, k, v = random_qkv(2, 6, 12, 4, 2, 8)
    whole = attention(q, k, v, causal=False)
    parts = [
        attention_with_log_sum(q, k[:, part], v[:, part], Options(causal=False)) for part in (slice(0, 5), slice(5, 12))
    ]
    total = torch.logaddexp(parts[0][1], parts[1][1])  # (B, H, T)
    merged = sum(out * (log_sum - total).exp().transpose(1, 2)[..., None] for out, log_sum in parts)
    torch.testing.assert_close(merged, whole)
    for got, wanted in zip(
        torch.autograd.grad(merged.square().sum(), (q, k, v)),
        torch.autograd.grad(whole.square().sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


def test_no_tokens_and_no_keys():
    q, k, v = random_qkv(2, 3, 0, 2, 2, 8)
    assert (attention(q, k, v) == 0).all()
    assert (attention_with_log_sum(q, k, v, Options())[1] == -torch.inf).all()
    q, k, v = random_qkv(2, 0, 3, 2, 2, 8)
    assert attention(q, k, v).shape == (2, 0, 2, 8)
    q, k, v = random_qkv(0, 3, 3, 2, 2, 8)
    assert attention(q, k, v).shape == (0, 3, 2, 8)
