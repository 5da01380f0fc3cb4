"""Every attention implementation that this machine can run, against the fp64 reference, over a grid of calls.

The bound, for O, dQ, dK and dV alike: at most twice the largest error that plain PyTorch makes in the same dtype, plus
1e-5. Only PyTorch's own fused attention needs more: its dV, a sum over the queries and over the heads that share a KV
head, misses that by up to 1.6 times in 16 bits, since it is rounded on the way. So its dK and dV may err by one unit in
the last place of their largest number more. Ours may not.

Inputs are normal, of variance 1, and the bound is meant for such. Where a softmax saturates (scores of hundreds, or one
visible key) plain PyTorch's dS cancels exactly, and no algorithm of FlashAttention's kind comes as near: P is made from
a rounded log-sum-exp, off by half a unit in its last place, and dP − D from an O rounded to the dtype. Triton's
interpreter adds to that: NumPy's K Qᵀ, of the backward pass, isn't its Q Kᵀ to the last bit, as it is where both add up
in one order.

B batch, T query tokens, S key tokens, H heads, K KV heads, D head dim.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from arriero.kernels.attention import IMPLEMENTATIONS, Implementation, attention, why_not
from arriero.kernels.block_mask import BlockMask, butterfly
from arriero.kernels.documents import Documents
from arriero.kernels.options import Options
from arriero.kernels.paged import paged_attention
from arriero.kernels.reference import attention_reference

HEAD_DIMS = (16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 256)
LENGTHS = ((1, 20), (5, 37), (37, 5), (33, 33), (64, 64), (65, 64))
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
GRADIENT_NAMES = ("dq", "dk", "dv")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call: shapes, and options made on a device."""

    name: str
    shape: tuple[int, int, int, int, int, int]
    """B, T, S, H, K, D."""
    options: Callable[[str], Options] = lambda device: Options()
    fused: bool = False
    """Whether q, k and v are strided views of one tensor, as a fused projection gives them."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """How far one result of one call is off."""

    implementation: str
    case: str
    dtype: str
    result: str
    """out, dq, dk or dv."""
    error: float
    """Largest absolute error against the fp64 reference."""
    bound: float
    skipped: str | None = None
    """Why the implementation can't serve the call; error and bound are 0 then."""

    @property
    def passed(self) -> bool:
        """Whether the error is within the bound; NaN is not, nor is any within a bound that is not finite."""
        return self.skipped is not None or self.error <= self.bound < math.inf

    @property
    def closeness(self) -> float:
        """Error over bound: above 1 is beyond it; infinite where one of them is NaN, so that a maximum finds it."""
        share = self.error / self.bound
        return math.inf if math.isnan(share) else share


@dataclass(frozen=True, kw_only=True)
class PagedCase:
    """One call of decoding over pages; each row's pages are shuffled, and what no row needs is NaN."""

    name: str
    heads: int = 6
    kv_heads: int = 2
    queries: int = 1
    lengths: tuple[int, ...] = (0, 1, 37, 80)
    page: int = 16
    options: Options = field(default_factory=Options)
    splits: int | None = None
    """Parts of each row's keys, for the kernel that has such; None leaves the number to it."""

    @property
    def pages(self) -> int:
        """Pages of the longest row."""
        return -(-max(self.lengths) // self.page)


def cases(full: bool = False) -> list[Case]:
    """The grid: every head dim, lengths, groupings, and every option; `full` crosses some of them, and is longer."""
    grid = [Case(name=f"head dim {dim}", shape=(1, 20, 20, 2, 1, dim)) for dim in HEAD_DIMS]
    for causal in (True, False):
        way = "causal" if causal else "full"
        grid += [
            Case(name=f"{t} × {s}, {way}", shape=(1, t, s, 2, 2, 16), options=_same(Options(causal=causal)))
            for t, s in LENGTHS
        ]
    grid += [Case(name=f"{h} heads, {k} KV heads", shape=(2, 33, 33, h, k, 16)) for h, k in ((4, 4), (6, 2), (4, 1))]
    grid.append(Case(name="fused QKV strides", shape=(2, 33, 33, 4, 4, 16), fused=True))
    grid += [Case(name=name, shape=(2, 48, 48, 4, 2, 16), options=options) for name, options in _option_cases().items()]
    if full:
        grid += [
            Case(name=f"{name}, head dim {dim}, 200 tokens", shape=(2, 200, 200, 4, 2, dim), options=options)
            for name, options in _option_cases(200).items()
            for dim in (64, 80, 128)
        ]
    return grid


def paged_cases() -> list[PagedCase]:
    """The grid of paged decoding; all rows have keys of different number, 0 and 1 among them."""
    grid = [
        PagedCase(name=f"{heads} heads, {kv_heads} KV heads", heads=heads, kv_heads=kv_heads)
        for heads, kv_heads in ((6, 2), (4, 1), (2, 2))
    ]
    grid.append(PagedCase(name="3 tokens a row", queries=3))
    grid += [PagedCase(name=f"pages of {page}", page=page) for page in (1, 5, 64)]
    grid += [
        PagedCase(name="window 20", options=Options(window=20)),
        PagedCase(name="soft cap 2", options=Options(softcap=2.0)),
        PagedCase(name="scale −0.4", options=Options(scale=-0.4)),
        PagedCase(name="window 20, soft cap 2, 3 tokens", queries=3, options=Options(window=20, softcap=2.0)),
    ]
    grid += [PagedCase(name=f"keys in {splits} parts", splits=splits) for splits in (2, 3, 7)]
    grid.append(PagedCase(name="keys in 3 parts, window 20", splits=3, options=Options(window=20)))
    return grid


def count_calls(implementations: Sequence[Implementation], full: bool = False) -> int:
    """How many calls `check_kernels` makes, those that are left out included."""
    paged = sum(len(_paged_by(case, implementations)) for case in paged_cases())
    return (len(cases(full)) * len(implementations) + paged) * len(DTYPES)


def check_kernels(
    device: str, implementations: tuple[Implementation, ...] = IMPLEMENTATIONS, full: bool = False
) -> Iterator[Checked]:
    """Check all but the reference itself, case by case, in every dtype that they compute in on `device`."""
    for case in cases(full):
        for name, dtype in DTYPES.items():
            yield from _check(case, name, dtype, device, [one for one in implementations if one != "reference"])
    for paged in paged_cases():
        for name, dtype in DTYPES.items():
            for implementation in _paged_by(paged, implementations):
                yield _check_paged(paged, name, dtype, device, implementation)


def _check(
    case: Case, name: str, dtype: torch.dtype, device: str, implementations: Sequence[Implementation]
) -> Iterator[Checked]:
    q, k, v = _tensors(case, dtype, device)
    options = case.options(device)
    upstream = torch.randn(q.shape, generator=torch.Generator().manual_seed(1)).to(q)

    def results(compute: Callable[..., Tensor], to: torch.dtype) -> list[Tensor]:
        leaves = [x.detach().to(to).requires_grad_() for x in (q, k, v)]
        out = compute(*leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves, upstream.to(to))]

    keywords = {field: getattr(options, field) for field in Options.__slots__}
    exact = results(lambda q, k, v: attention_reference(q, k, v, options)[0], torch.float64)
    plain = results(lambda q, k, v: attention_reference(q, k, v, options, dtype=dtype)[0], dtype)
    for one in implementations:
        if reason := why_not(one, q, options):
            yield _skipped(one, case.name, name, reason)
            continue
        ours = results(partial(attention, **keywords, implementation=one), dtype)
        for result, right, simple, got in zip(("out", *GRADIENT_NAMES), exact, plain, ours, strict=True):
            bound = 2 * _distance(simple, right) + 1e-5
            if one == "sdpa" and result in ("dk", "dv"):
                bound += torch.finfo(dtype).eps * right.abs().max().item()
            error = _distance(got, right)
            yield Checked(implementation=one, case=case.name, dtype=name, result=result, error=error, bound=bound)


def _skipped(implementation: Implementation, case: str, dtype: str, reason: str) -> Checked:
    return Checked(
        implementation=implementation, case=case, dtype=dtype, result="all", error=0.0, bound=0.0, skipped=reason
    )


def _paged_by(case: PagedCase, implementations: Sequence[Implementation]) -> list[Implementation]:
    """Who computes this case: all but the reference gather the pages, or (Triton) read them where they lie."""
    return [one for one in implementations if one == "triton" or (one != "reference" and case.splits is None)]


def _check_paged(
    case: PagedCase, name: str, dtype: torch.dtype, device: str, implementation: Implementation
) -> Checked:
    """Decoding over shuffled pages, against the same keys in a row."""
    full_name = f"paged decoding, {case.name}"
    batch, pages = len(case.lengths), case.pages
    shape = (batch, case.queries, pages * case.page, case.heads, case.kv_heads, 64)
    q, k, v = _tensors(Case(name=full_name, shape=shape), dtype, device)
    if reason := why_not(implementation, q, case.options):
        return _skipped(implementation, full_name, name, reason)
    lengths = torch.tensor(case.lengths, device=device)
    table = torch.randperm(batch * pages, generator=torch.Generator().manual_seed(2)).view(batch, pages).to(device)
    there = torch.arange(pages * case.page, device=device) < lengths[:, None]  # (B, S)
    pools = [torch.empty(batch * pages, case.page, case.kv_heads, 64, dtype=dtype, device=device) for _ in range(2)]
    for pool, rows in zip(pools, (k, v), strict=True):
        written = rows.masked_fill(~there[..., None, None], torch.nan)  # (B, S, K, D)
        pool[table.flatten()] = written.view(batch * pages, case.page, case.kv_heads, 64)
    options = replace(case.options, key_lengths=lengths)
    exact, _ = attention_reference(q.double(), k.double(), v.double(), options)
    simple, _ = attention_reference(q, k, v, options, dtype=dtype)
    if case.splits is None:
        asked = {field: getattr(options, field) for field in ("scale", "window", "softcap")}
        got = paged_attention(q, pools[0], pools[1], table, lengths, **asked, implementation=implementation)
    else:
        from arriero.kernels.flash_decode import flash_decode  # not before it is needed: it imports triton

        got = flash_decode(q, pools[0], pools[1], table, lengths, options, splits=case.splits)
    bound = 2 * _distance(simple, exact) + 1e-5
    error = _distance(got, exact)
    return Checked(implementation=implementation, case=full_name, dtype=name, result="out", error=error, bound=bound)


def _distance(x: Tensor, y: Tensor) -> float:
    return (x.double() - y).abs().max().item()


def _tensors(case: Case, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    batch, queries, keys, heads, kv_heads, dim = case.shape
    generator = torch.Generator().manual_seed(0)
    if case.fused:
        fused = torch.randn(batch, queries, 3, heads, dim, generator=generator).to(device, dtype)
        q, k, v = fused.unbind(2)  # (B, T, H, D) each
        return q, k, v
    q = torch.randn(batch, queries, heads, dim, generator=generator).to(device, dtype)
    k, v = (torch.randn(batch, keys, kv_heads, dim, generator=generator).to(device, dtype) for _ in range(2))
    return q, k, v


def _same(options: Options) -> Callable[[str], Options]:
    return lambda device: options


def _option_cases(tokens: int = 48) -> dict[str, Callable[[str], Options]]:
    """Each option for two rows of `tokens`, some with a row or a head that sees nothing."""
    lengths, third = [tokens - 7, 0], tokens // 3
    segments = torch.tensor([[0] * third + [1] * (tokens - third), [0] * (tokens - 1) + [1]])
    blocks = torch.rand(4, -(-tokens // 16), -(-tokens // 16), generator=torch.Generator().manual_seed(3)) < 0.5
    blocks[1] = False
    some = torch.rand(2, tokens, generator=torch.Generator().manual_seed(4)) < 0.6
    some[1] = False
    return {
        "packed documents": lambda d: Options(documents=Documents.from_segments(segments.to(d))),
        "packed documents, full": lambda d: Options(causal=False, documents=Documents.from_segments(segments.to(d))),
        "key lengths": lambda d: Options(key_lengths=torch.tensor(lengths, device=d)),
        "key mask": lambda d: Options(key_mask=some.to(d)),
        "key mask, full": lambda d: Options(causal=False, key_mask=some.to(d)),
        "window 10": _same(Options(window=10)),
        "window 10, both ways": _same(Options(window=10, causal=False)),
        "soft cap 2": _same(Options(softcap=2.0)),
        "dropout 0.3": _same(Options(dropout=0.3, seed=7)),
        "scale −0.4": _same(Options(scale=-0.4)),
        "block mask by head": lambda d: Options(block_mask=BlockMask(blocks.to(d), size=16)),
        "butterfly, full": lambda d: Options(
            causal=False, block_mask=BlockMask(butterfly(-(-tokens // 16), d), size=16)
        ),
        "dQ in any order": _same(Options(deterministic=False)),
        "all at once": lambda d: Options(
            key_lengths=torch.tensor(lengths, device=d), key_mask=some.to(d), window=9, softcap=3.0, dropout=0.2
        ),
    }
