"""The tiles against the reference, mostly by tiles of 16, so that short sequences have all kinds of them."""

import pytest
import torch
from torch import Tensor

from arriero.kernels.block_mask import BlockMask, butterfly
from arriero.kernels.documents import Documents
from arriero.kernels.options import Options
from arriero.kernels.reference import attention_reference
from arriero.kernels.tiled import attention_by_blocks, attention_tiled
from tests.kernels.largest import LargestTensor
from tests.kernels.qkv import random_qkv

LENGTHS = [(1, 1), (1, 20), (20, 1), (33, 33), (16, 32), (37, 53), (53, 37)]
EITHER_WAY = pytest.mark.parametrize("causal", [True, False])


def check(q: Tensor, k: Tensor, v: Tensor, blocks: tuple[int, int] = (16, 16), **options) -> tuple[Tensor, Tensor]:
    """In fp64 O, L, and the gradients by both equal the reference's; returns O and L."""
    asked = Options(**options)
    out, log_sum = attention_by_blocks(q, k, v, asked, *blocks)
    expected, expected_log_sum = attention_reference(q, k, v, asked)
    close(out, expected)
    close(log_sum, expected_log_sum)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in (out, log_sum)]
    got = torch.autograd.grad((out, log_sum), (q, k, v), weights)
    wanted = torch.autograd.grad((expected, expected_log_sum), (q, k, v), weights)
    for gradient, reference in zip(got, wanted, strict=True):
        close(gradient, reference)
    return out, log_sum


def close(x: Tensor, y: Tensor) -> None:
    torch.testing.assert_close(x, y, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("dim", [1, 8, 16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 256])
def test_every_head_dim_is_used_in_full(dim):
    check(*random_qkv(1, 20, 20, 2, 1, dim))


@EITHER_WAY
@pytest.mark.parametrize("blocks", [(16, 16), (16, 64), (64, 16), (7, 5), (512, 512)])
@pytest.mark.parametrize(("queries", "keys"), LENGTHS)
def test_any_lengths_aligned_at_the_bottom_right_by_any_tiles(queries, keys, blocks, causal):
    out, log_sum = check(*random_qkv(2, queries, keys, 2, 1, 8), blocks, causal=causal)
    if causal and queries > keys:
        assert (out[:, : queries - keys] == 0).all()
        assert (log_sum[:, :, : queries - keys] == -torch.inf).all()


@EITHER_WAY
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (6, 2), (9, 3), (5, 1)])
def test_grouped_heads(heads, kv_heads, causal):
    check(*random_qkv(2, 37, 37, heads, kv_heads, 8), causal=causal)


@EITHER_WAY
@pytest.mark.parametrize("window", [1, 5, 16, 40, 1000])
@pytest.mark.parametrize(("queries", "keys"), [(70, 70), (20, 60), (60, 20)])
def test_window(queries, keys, window, causal):
    check(*random_qkv(1, queries, keys, 2, 1, 8), window=window, causal=causal)


@EITHER_WAY
@pytest.mark.parametrize("queries", [1, 20])
@pytest.mark.parametrize("kind", [torch.int64, torch.int32])
def test_rows_have_their_own_number_of_keys(queries, kind, causal):
    lengths = torch.tensor([37, 16, 0, 1, 25], dtype=kind)
    out, log_sum = check(*random_qkv(5, queries, 37, 2, 1, 8), causal=causal, key_lengths=lengths)
    assert (out[2] == 0).all()
    assert (log_sum[2] == -torch.inf).all()


@EITHER_WAY
def test_key_mask(causal):
    q, k, v = random_qkv(3, 40, 40, 4, 2, 8)
    mask = torch.rand(3, 40, generator=torch.Generator().manual_seed(2)) < 0.5
    mask[1] = False
    mask[2, 20:] = True
    out, _ = check(q, k, v, causal=causal, key_mask=mask)
    assert (out[1] == 0).all()
    check(q, k, v, causal=causal, key_mask=mask.repeat_interleave(2, 1)[:, ::2])


ROWS = [
    [[3] * 17 + [1] * 23, [0] + [1] * 38 + [2]],
    [[0] * 40, [0, 1, 2, 3] + [4] * 36],
    [[0] * 20 + [1] * 20, [2] * 20 + [3] * 20],
]


@pytest.mark.parametrize("segments", ROWS)
@pytest.mark.parametrize("options", [{}, {"causal": False}, {"window": 4}, {"dropout": 0.3}, {"softcap": 2.0}])
def test_documents_see_themselves_only(segments, options):
    documents = Documents.from_segments(torch.tensor(segments))
    check(*random_qkv(2, 40, 40, 4, 2, 8), documents=documents, **options)


@pytest.mark.parametrize("scale", [-0.5, 0.0, 0.7, 30.0])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_scale_of_any_sign(scale, softcap):
    check(*random_qkv(1, 20, 36, 2, 1, 8), scale=scale, softcap=softcap)


@EITHER_WAY
@pytest.mark.parametrize("softcap", [0.5, 20.0])
def test_softcap(softcap, causal):
    check(*random_qkv(1, 33, 33, 2, 1, 8), softcap=softcap, scale=3.0, causal=causal)


@EITHER_WAY
@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("block_keys", [16, 48, 1000])
def test_block_mask(size, block_keys, causal):
    blocks = butterfly(-(-90 // size))
    blocks[1] = False
    mask = BlockMask(blocks, size=size)
    out, _ = check(*random_qkv(2, 90, 90, 4, 2, 8), (16, block_keys), causal=causal, block_mask=mask)
    assert (out[:, size : 2 * size] == 0).all()


@pytest.mark.parametrize("options", [{}, {"causal": False}, {"window": 20}, {"window": 20, "causal": False}])
@pytest.mark.parametrize("heads_of_mask", [1, 6])
def test_block_mask_of_each_head(heads_of_mask, options):
    blocks = torch.rand(heads_of_mask, 4, 5, generator=torch.Generator().manual_seed(3)) < 0.6
    check(*random_qkv(1, 50, 70, 6, 2, 8), block_mask=BlockMask(blocks, size=16), **options)
    check(*random_qkv(1, 50, 70, 6, 2, 8), (64, 64), block_mask=BlockMask(blocks, size=16), dropout=0.2, **options)


def test_gradients_are_the_derivatives():
    q, k, v = random_qkv(1, 7, 9, 2, 1, 4)
    options = Options(softcap=3.0, dropout=0.2, window=6)
    assert torch.autograd.gradcheck(lambda *qkv: attention_by_blocks(*qkv, options, 4, 4), (q, k, v))
