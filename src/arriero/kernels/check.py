"""Every attention implementation that this machine can run, against the fp64 reference, over a grid of calls.

The bound, for O, dQ, dK and dV alike: at most twice the largest error that plain PyTorch makes in the same dtype, plus
1e-5; gradients may err by one unit in the last place of their largest number more, since those of heads that share keys
are sums, rounded once or several times.

B batch, T query tokens, S key tokens, H heads, K KV heads, D head dim.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
PAGE = 16


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
        """Whether the error is within the bound; NaN is not."""
        return self.skipped is not None or self.error <= self.bound


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


def check_kernels(
    device: str, implementations: tuple[Implementation, ...] = IMPLEMENTATIONS, full: bool = False
) -> Iterator[Checked]:
    """Check all but the reference itself, case by case, in every dtype that they compute in on `device`."""
    for case in cases(full):
        for name, dtype in DTYPES.items():
            yield from _check(case, name, dtype, device, [one for one in implementations if one != "reference"])
    for name, dtype in DTYPES.items():
        for implementation in implementations:
            if implementation in ("sdpa", "triton"):  # the two ways there are: gathered pages, and pages as they lie
                yield _check_paged(name, dtype, device, implementation)


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
            if result != "out":
                bound += torch.finfo(dtype).eps * right.abs().max().item()
            error = _distance(got, right)
            yield Checked(implementation=one, case=case.name, dtype=name, result=result, error=error, bound=bound)


def _skipped(implementation: Implementation, case: str, dtype: str, reason: str) -> Checked:
    return Checked(
        implementation=implementation, case=case, dtype=dtype, result="all", error=0.0, bound=0.0, skipped=reason
    )


def _check_paged(name: str, dtype: torch.dtype, device: str, implementation: Implementation) -> Checked:
    """Decoding over shuffled pages, against the same keys in a row."""
    case = f"paged decoding, pages of {PAGE}"
    q, k, v = _tensors(Case(name=case, shape=(3, 1, 5 * PAGE, 6, 2, 64)), dtype, device)
    if reason := why_not(implementation, q, Options()):
        return _skipped(implementation, case, name, reason)
    lengths = torch.tensor([5 * PAGE, 37, 1], device=device)
    table = torch.randperm(15, generator=torch.Generator().manual_seed(2)).view(3, 5).to(device)
    pools = [torch.empty(15, PAGE, 2, 64, dtype=dtype, device=device) for _ in range(2)]
    for pool, rows in zip(pools, (k, v), strict=True):
        pool[table.flatten()] = rows.reshape(15, PAGE, 2, 64)
    options = Options(key_lengths=lengths)
    exact, _ = attention_reference(q.double(), k.double(), v.double(), options)
    simple, _ = attention_reference(q, k, v, options, dtype=dtype)
    got = paged_attention(q, pools[0], pools[1], table, lengths, implementation=implementation)
    bound = 2 * _distance(simple, exact) + 1e-5
    error = _distance(got, exact)
    return Checked(implementation=implementation, case=case, dtype=name, result="out", error=error, bound=bound)


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
