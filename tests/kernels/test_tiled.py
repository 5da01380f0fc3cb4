"""The tiles against the reference, mostly by tiles of 16, so that short sequences have all kinds of them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from arriero.kernels.block_mask import BlockMask, butterfly
from arriero.kernels.documents import Documents
from arriero.kernels.memory import peak_memory
from arriero.kernels.options import Options
from arriero.kernels.reference import attention_reference
from arriero.kernels.tiled import attention_by_blocks, attention_tiled
from tests.kernels.largest import LargestTensor
from tests.kernels.qkv import random_qkv

LENGTHS = [(1, 1), (1, 20), (20, 1), (33, 33), (16, 32), (37, 53), (53, 37)]
EITHER_WAY = pytest.mark.parametrize("causal", [True, False])


@pytest.fixture(autouse=True)
def one_thread():
    """Tiles this small are quicker without threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


@EITHER_WAY
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_options_together(softcap, dropout, causal):
    together = {"causal": causal, "softcap": softcap, "dropout": dropout, "seed": 2**40 + 3, "scale": 0.6}
    lengths, mask = torch.tensor([53, 0, 20]), torch.arange(3 * 53).view(3, 53) % 5 > 0
    check(*random_qkv(3, 37, 53, 4, 2, 8), key_lengths=lengths, key_mask=mask, window=24, **together)
    blocks = BlockMask(torch.rand(4, 3, 4, generator=torch.Generator().manual_seed(4)) < 0.6, size=16)
    check(*random_qkv(3, 37, 53, 4, 2, 8), (16, 32), key_lengths=lengths, block_mask=blocks, window=40, **together)
    documents = Documents.from_segments(torch.tensor([[0] * 5 + [1] * 32, [0] * 36 + [1], [0] * 37]))
    check(*random_qkv(3, 37, 37, 4, 2, 8), documents=documents, key_mask=mask[:, :37], window=24, **together)


def test_queries_without_keys_get_and_give_no_gradient_whatever_comes():
    q, k, v = random_qkv(1, 5, 3, 2, 1, 8)
    out, log_sum = attention_by_blocks(q, k, v, Options(), 4, 4)
    of_log_sum = torch.ones_like(log_sum).masked_fill(log_sum.isinf(), torch.nan)
    gradients = torch.autograd.grad((out, log_sum), (q, k, v), (torch.ones_like(out), of_log_sum))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert (gradients[0][:, :2] == 0).all()
    key_mask = torch.zeros(1, 3, dtype=torch.bool)
    out, log_sum = attention_by_blocks(q, k, v, Options(causal=False, key_mask=key_mask), 4, 4)
    assert (out == 0).all()
    assert (log_sum == -torch.inf).all()
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(out.sum(), (q, k, v)))


def test_one_result_may_get_no_gradient():
    q, k, v = random_qkv(1, 20, 20, 2, 1, 8)
    for i in (0, 1):
        got, wanted = (
            torch.autograd.grad(results[i].sum(), (q, k, v), materialize_grads=True, allow_unused=True)
            for results in (attention_by_blocks(q, k, v, Options(), 16, 16), attention_reference(q, k, v, Options()))
        )
        for gradient, reference in zip(got, wanted, strict=True):
            close(gradient, reference)


def test_strided_inputs_and_gradients():
    generator = torch.Generator().manual_seed(0)
    fused = torch.randn(2, 37, 8, 8, generator=generator, dtype=torch.float64)
    turned = torch.randn(2, 8, 8, 37, generator=generator, dtype=torch.float64).permute(0, 3, 2, 1)
    for qkv in (fused, turned, fused[:, ::2], fused.flip(3)):
        q, k, v = (x.detach().requires_grad_() for x in qkv.split([4, 2, 2], dim=2))
        assert not q.is_contiguous()
        check(q, k, v)
        out, expected = attention_by_blocks(q, k, v, Options(), 16, 16)[0], attention_reference(q, k, v, Options())[0]
        one = torch.ones(1, dtype=torch.float64).expand(out.shape)
        weight = torch.randn(out.mT.shape, generator=generator, dtype=torch.float64).mT
        for grad_out in (one, weight):
            got = torch.autograd.grad(out, (q, k, v), grad_out, retain_graph=True)
            wanted = torch.autograd.grad(expected, (q, k, v), grad_out, retain_graph=True)
            for gradient, reference in zip(got, wanted, strict=True):
                close(gradient, reference)


def test_dropout_drops_its_share_the_same_for_a_seed_by_any_tiles():
    q, k, _ = random_qkv(1, 64, 64, 2, 2, 64)
    q, identity = torch.zeros_like(q), torch.eye(64, dtype=torch.float64)[None, :, None].expand(1, 64, 2, 64)

    def weights(seed: int, *blocks: int) -> Tensor:
        options = Options(causal=False, dropout=0.25, seed=seed)
        return attention_by_blocks(q, k, identity, options, *blocks)[0]  # with V = I, O is the weights

    once = weights(1, 16, 16)
    assert abs((once > 0).double().mean().item() - 0.75) < 0.02
    close(once[once > 0], torch.full_like(once[once > 0], 1 / 64 / 0.75))
    for blocks in ((7, 64), (64, 5), (512, 512)):
        close(weights(1, *blocks), once)
    assert ((weights(2, 16, 16) > 0) != (once > 0)).double().mean() > 0.3


@EITHER_WAY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision_errs_at_most_twice_as_much_as_pytorch_does(dtype, causal):
    q, k, v = random_qkv(2, 150, 150, 4, 2, 64, dtype=dtype)
    options = Options(causal=causal)
    weight = torch.randn(q.shape, generator=torch.Generator().manual_seed(1)).to(dtype)

    def results(attention: Callable[..., tuple[Tensor, Tensor]], dtype: torch.dtype) -> list[Tensor]:
        leaves = [x.detach().to(dtype).requires_grad_() for x in (q, k, v)]
        out = attention(*leaves, options)[0]
        assert out.dtype == dtype
        return [out.detach(), *torch.autograd.grad(out, leaves, weight.to(dtype))]

    exact = results(attention_reference, torch.float64)
    same_dtype = results(lambda *args: attention_reference(*args, dtype=dtype), dtype)
    for got, allowed, wanted in zip(results(attention_tiled, dtype), same_dtype, exact, strict=True):
        error, bound = ((x.double() - wanted).abs().max().item() for x in (got, allowed))
        assert error <= 2 * bound + 1e-5


def test_scores_of_any_size_neither_overflow_nor_vanish():
    q, k, v = random_qkv(1, 40, 40, 2, 1, 16, dtype=torch.float32)
    q, k = (q * 100).detach().requires_grad_(), (k * 100).detach().requires_grad_()
    out, log_sum = attention_by_blocks(q, k, v, Options(), 16, 16)
    exact, exact_log_sum = attention_reference(q.double(), k.double(), v.double(), Options())
    torch.testing.assert_close(out.double(), exact, atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(log_sum.double(), exact_log_sum, atol=1e-2, rtol=1e-5)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(out.sum(), (q, k, v)))


def test_autocast_does_not_round():
    q, k, v = random_qkv(1, 40, 40, 2, 1, 16, dtype=torch.float32)
    options = Options(causal=False)
    plain = attention_tiled(q, k, v, options)[0]
    gradients = torch.autograd.grad(plain.sum(), (q, k, v))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = attention_tiled(q, k, v, options)[0]
        assert torch.equal(plain, rounded)
        assert all(map(torch.equal, gradients, torch.autograd.grad(rounded.sum(), (q, k, v))))


class Exponentials(TorchDispatchMode):
    """While active, `scores` counts the scores of which an exponential is taken."""

    scores = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.exp2_.default and args[0].dim() == 2:
            self.scores += args[0].numel()
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("options", "tiles"),
    [
        ({"causal": False}, 64),
        ({}, 36),
        ({"window": 17}, 15),
        ({"window": 17, "causal": False}, 22),
        ({"documents": Documents.from_segments(torch.tensor([[0] * 64 + [1] * 64]))}, 20),
        ({"key_lengths": torch.tensor([32])}, 3),
        ({"key_lengths": torch.tensor([32]), "causal": False}, 16),
        ({"block_mask": BlockMask(butterfly(8), size=16)}, 20),
        ({"block_mask": BlockMask(butterfly(8), size=16), "causal": False}, 32),
    ],
)
def test_tiles_that_nobody_sees_are_skipped_in_both_passes(options, tiles):
    q, k, v = random_qkv(1, 128, 128, 2, 2, 8)
    with Exponentials() as forward:
        out, _ = attention_by_blocks(q, k, v, Options(**options), 16, 16)
    with Exponentials() as backward:
        out.sum().backward()
    assert forward.scores == backward.scores == 2 * tiles * 16 * 16


def memory_peak(tokens: int, blocks: tuple[int, int], **options) -> int:
    """Bytes held at once, at most, by a forward and a backward pass, inputs apart."""
    q, k, v = random_qkv(1, tokens, tokens, 2, 1, 16, dtype=torch.float32)

    def both_passes() -> None:
        out, log_sum = attention_by_blocks(q, k, v, Options(**options), *blocks)
        (out.sum() + log_sum.sum()).backward()

    return peak_memory(both_passes, "cpu")


@pytest.mark.parametrize("options", [{}, {"window": 600, "softcap": 2.0}, {"dropout": 0.1}])
def test_memory_grows_with_the_length_not_its_square(options):
    lengths = [1024, 2048] if "dropout" in options else [1024, 2048, 4096]
    peaks = [memory_peak(tokens, (256, 256), **options) for tokens in lengths]
    for tokens, peak, doubled in zip(lengths, peaks, peaks[1:], strict=False):
        assert tokens * 2 * 16 * 4 < peak
        assert doubled <= 2.1 * peak


@pytest.mark.slow
def test_memory_grows_with_the_length_up_to_32k():
    assert memory_peak(32768, (512, 512)) <= 2.1 * memory_peak(16384, (512, 512))


@pytest.mark.parametrize("options", [{}, {"causal": False, "key_mask": torch.arange(1500)[None] % 3 > 0}])
def test_nothing_quadratic_is_made(options):
    q, k, v = random_qkv(1, 1500, 1500, 1, 1, 16, dtype=torch.float32)
    with LargestTensor() as made:
        attention_by_blocks(q, k, v, Options(**options), 128, 128)[0].sum().backward()
    assert made.numel <= 1500 * 16


@pytest.mark.parametrize("scale", [300.0, -300.0])
def test_the_backward_pass_weighs_as_the_forward_pass_did_however_large_the_scores(scale):
    q, k, v = random_qkv(1, 40, 1, 1, 1, 16, torch.float32)
    with torch.no_grad():
        q[..., 1:] = 0  # products of one term each: the same bits in every order of addition
    out, _ = attention_tiled(q, k, v, Options(causal=False, scale=scale))
    upstream = torch.randn(q.shape, generator=torch.Generator().manual_seed(1))
    (grad_v,) = torch.autograd.grad(out, v, upstream)
    torch.testing.assert_close(grad_v, upstream.sum(1, keepdim=True), atol=5e-6, rtol=1e-6)  # each weight is 1
