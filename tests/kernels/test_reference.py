"""The definition itself, against the formula written out, one query at a time."""

import math

import pytest
import torch
from torch import Tensor

from arriero.kernels.block_mask import BlockMask
from arriero.kernels.documents import Documents
from arriero.kernels.dropout import dropout_keep
from arriero.kernels.options import Options
from arriero.kernels.reference import attention_reference
from tests.kernels.qkv import random_qkv


def formula(q: Tensor, k: Tensor, v: Tensor, sees, softcap: float | None = None) -> tuple[Tensor, Tensor]:
    """Head 0 of row 0, by loops; `sees(t, s)` says which keys a query sees."""
    outs, logs = [], []
    for t in range(q.shape[1]):
        keys = [s for s in range(k.shape[1]) if sees(t, s)]
        scores = [(q[0, t, 0] @ k[0, s, 0]).item() / math.sqrt(q.shape[3]) for s in keys]
        if softcap is not None:
            scores = [softcap * math.tanh(x / softcap) for x in scores]
        total = sum(math.exp(x) for x in scores)
        weighted = [math.exp(x) / total * v[0, s, 0] for x, s in zip(scores, keys, strict=True)]
        outs.append(sum(weighted, torch.zeros_like(v[0, 0, 0])))
        logs.append(math.log(total) if keys else -math.inf)
    return torch.stack(outs), torch.tensor(logs, dtype=torch.float64)


DOCUMENTS = Documents.from_segments(torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2]]))
BLOCKS = BlockMask(torch.tensor([[False]]), size=16)
CASES = {
    "causal": (8, 8, Options(), lambda t, s: s <= t),
    "all": (8, 8, Options(causal=False), lambda t, s: True),
    "bottom right": (3, 8, Options(), lambda t, s: s <= t + 5),
    "more queries than keys": (8, 3, Options(), lambda t, s: s <= t - 5),
    "window": (8, 8, Options(window=3), lambda t, s: t - 3 < s <= t),
    "window both ways": (8, 8, Options(window=3, causal=False), lambda t, s: abs(t - s) < 3),
    "window at the bottom right": (3, 8, Options(window=2), lambda t, s: s in (t + 4, t + 5)),
    "key lengths": (3, 8, Options(key_lengths=torch.tensor([5])), lambda t, s: s <= t + 2),
    "key mask": (8, 8, Options(key_mask=torch.arange(8)[None] % 3 > 0), lambda t, s: s <= t and s % 3 > 0),
    "documents": (8, 8, Options(documents=DOCUMENTS), lambda t, s: s <= t and "00011222"[s] == "00011222"[t]),
    "block mask": (8, 8, Options(block_mask=BLOCKS), lambda t, s: False),
    "soft cap": (8, 8, Options(softcap=0.3), lambda t, s: s <= t),
}


@pytest.mark.parametrize("case", CASES)
def test_options_mean_what_they_say(case):
    queries, keys, options, sees = CASES[case]
    q, k, v = random_qkv(1, queries, keys, 1, 1, 4)
    out, log_sum = attention_reference(q, k, v, options)
    expected, expected_log_sum = formula(q, k, v, sees, options.softcap)
    torch.testing.assert_close(out[0, :, 0], expected)
    torch.testing.assert_close(log_sum[0, 0], expected_log_sum)
    loss = out.sum() + log_sum[log_sum.isfinite()].sum()
    for gradient in torch.autograd.grad(loss, (q, k, v)):
        assert gradient.isfinite().all()


def test_scale_replaces_the_default():
    q, k, v = random_qkv(1, 5, 5, 2, 2, 16)
    by_default = attention_reference(q, k, v, Options())[0]
    torch.testing.assert_close(by_default, attention_reference(q, k, v, Options(scale=0.25))[0])
    torch.testing.assert_close(by_default, attention_reference(q * 2, k, v, Options(scale=0.125))[0])


def test_grouped_heads_share_keys_and_values():
    q, k, v = random_qkv(2, 5, 5, 6, 2, 8)
    out, log_sum = attention_reference(q, k, v, Options())
    for head in range(6):
        own, shared = slice(head, head + 1), slice(head // 3, head // 3 + 1)
        alone, alone_log_sum = attention_reference(q[:, :, own], k[:, :, shared], v[:, :, shared], Options())
        torch.testing.assert_close(out[:, :, own], alone)
        torch.testing.assert_close(log_sum[:, own], alone_log_sum)


def test_block_mask_is_by_head():
    q, k, v = random_qkv(1, 32, 32, 2, 2, 8)
    blocks = torch.tensor([[[True, False], [False, True]], [[False, True], [True, False]]])
    out, _ = attention_reference(q, k, v, Options(causal=False, block_mask=BlockMask(blocks, size=16)))
    early, late = slice(0, 16), slice(16, 32)
    for head, (first, second) in enumerate(((early, late), (late, early))):
        for queries, keys in ((early, first), (late, second)):
            alone = attention_reference(q[:, queries], k[:, keys], v[:, keys], Options(causal=False))[0]
            torch.testing.assert_close(out[:, queries, head], alone[:, :, head])


def test_dropout_zeroes_weights_and_scales_the_others():
    q, k, v = random_qkv(2, 6, 6, 2, 2, 6)
    eye = torch.eye(6, dtype=torch.float64)[None, :, None].expand(2, 6, 2, 6)  # makes the output the weights
    options = Options(causal=False, dropout=0.4, seed=3)
    weights = attention_reference(q, k, eye, Options(causal=False))[0]
    dropped, log_sum = attention_reference(q, k, eye, options)
    for row in range(2):
        for head in range(2):
            stream, place = torch.tensor(row * 2 + head), torch.arange(6)
            keep = dropout_keep(3, 0.4, stream, place[:, None], place[None])
            torch.testing.assert_close(dropped[row, :, head], weights[row, :, head] * keep / 0.6)
    torch.testing.assert_close(log_sum, attention_reference(q, k, v, Options(causal=False))[1])


def test_packed_documents_are_a_batch_of_documents_with_dropout_too():
    q, k, v = random_qkv(1, 12, 12, 2, 1, 8)
    documents = Documents.from_segments(torch.arange(12)[None] // 4)
    packed = attention_reference(q, k, v, Options(documents=documents, dropout=0.5))[0]
    batch = attention_reference(*(x.reshape(3, 4, -1, 8) for x in (q, k, v)), Options(dropout=0.5))[0]
    torch.testing.assert_close(packed, batch.reshape(packed.shape))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_computes_in_fp32_or_in_the_dtype_asked_for(dtype):
    q, k, v = (x.detach().to(dtype) for x in random_qkv(1, 9, 9, 2, 2, 16))
    truth = attention_reference(q.double(), k.double(), v.double(), Options())[0]
    out, log_sum = attention_reference(q, k, v, Options())
    assert (out.dtype, log_sum.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(out, truth.to(dtype))
    rough = attention_reference(q, k, v, Options(), dtype=dtype)[0]
    assert (out - truth).abs().max() <= (rough - truth).abs().max()
