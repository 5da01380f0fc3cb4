"""How fast the attention implementations are, and how much memory they take, beside PyTorch's own attention.

All get the same tensors, laid out (B, T, H, D) as a projection gives them, and causal masks. Those that are compared
run in turns on a CPU, so that a drifting machine speed hits all of them; times are medians after a warm-up.

B batch, N tokens, H heads, D head dim.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from arriero.common.errors import ArrieroError
from arriero.kernels.attention import Implementation, attention, why_not
from arriero.kernels.documents import Documents
from arriero.kernels.memory import peak_memory
from arriero.kernels.options import Options

CaseName = Literal["dense", "gqa", "packed"]
CASES: tuple[CaseName, ...] = get_args(CaseName)
Pass = Literal["forward", "forward+backward"]
PASSES: tuple[Pass, ...] = get_args(Pass)

DOCUMENT_SHARES = (5, 2, 8, 1, 6, 3, 7, 4)
"""Lengths of a packed row's documents, in 36ths of the row; the next row's begin with the second, and so on."""
SHORTEST_PACKED = 64
LARGEST_SCORES = 2**27
"""Most scores, over batch and heads, for which the reference is timed: it holds several such tensors."""

TENSORS = 8
"""Of the size of q that a forward and backward pass holds at the least: q, k, v, O and their gradients."""

SDPA_FLASH, SDPA_MASKED = "sdpa-flash", "sdpa, dense mask"
"""PyTorch's FlashAttention-2; and its attention with an N × N mask, by which packed rows are commonly computed."""

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
Work = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured, and where."""

    cases: tuple[CaseName, ...] = CASES
    """dense: as many KV heads as heads; gqa: `kv_heads`; packed: dense, and 8 documents of unequal length a row."""
    lengths: tuple[int, ...] = (512, 1024, 2048, 4096)
    heads: int = 9
    kv_heads: int = 3
    head_dim: int = 64
    batch: int = 1
    dtype: torch.dtype = torch.float32
    repeats: int = 5
    device: torch.device

    def __post_init__(self) -> None:
        if self.device.type not in ("cpu", "cuda"):
            raise ArrieroError(
                f"device: expected cpu or cuda, whose time and memory can be measured, got {self.device}"
            )
        if not self.lengths or not self.cases:
            raise ArrieroError("lengths and cases: expected one or more of each, got none")
        for name in ("heads", "kv_heads", "head_dim", "batch", "repeats"):
            if getattr(self, name) < 1:
                raise ArrieroError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        shortest = SHORTEST_PACKED if "packed" in self.cases else 1
        if min(self.lengths) < shortest:
            packed = " for packed documents" if shortest > 1 else ""
            raise ArrieroError(f"lengths: expected {shortest} or more{packed}, got {min(self.lengths)}")
        if self.heads % self.kv_heads:
            raise ArrieroError(f"heads: expected a multiple of the {self.kv_heads} KV heads, got {self.heads}")
        need = TENSORS * self.batch * max(self.lengths) * self.heads * self.head_dim * self.dtype.itemsize
        if need > (most := _memory(self.device)):
            raise ArrieroError(
                f"lengths: expected tensors that fit the memory of {most / 2**30:,.1f} GiB, got {max(self.lengths):,} "
                f"tokens, for which they take {need / 2**30:,.1f} GiB: give fewer tokens, heads or rows"
            )

    @property
    def without_reference(self) -> list[int]:
        """The lengths at which the reference is left out, for its scores would be too many."""
        return [tokens for tokens in self.lengths if self.batch * self.heads * tokens**2 > LARGEST_SCORES]

    @property
    def points(self) -> list[tuple[CaseName, Pass, int]]:
        """All that is measured, each by every implementation."""
        return [(case, passes, tokens) for case in self.cases for passes in PASSES for tokens in self.lengths]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One implementation's figures in one case at one length."""

    case: CaseName
    passes: Pass
    tokens: int
    head_dim: int
    dtype: str
    implementation: str
    milliseconds: float
    """Median of one call."""
    tflops: float
    """10¹² operations a second, of those that the formula of `operations` counts."""
    peak_bytes: int
    """Most memory above that of q, k, v and dO: outputs, gradients, buffers, and the dense mask if there is one."""
    peer: str
    """The implementation of PyTorch that `speed` and `memory` compare with."""
    speed: float
    """The peer's milliseconds over these: above 1 is faster than the peer."""
    memory: float
    """These peak bytes over the peer's: below 1 is less than the peer's."""


def bench_kernels(settings: Settings, tell: Callable[[int], None] = lambda done: None) -> Iterator[Row]:
    """Measure point by point; `tell(1)` is called after each of `settings.points`.

    Triton's kernels are measured where they are compiled; interpreted they would say nothing.
    """
    for point in settings.points:
        yield from _measure(settings, *point)
        tell(1)


def operations(lengths: list[int], heads: int, head_dim: int, passes: Pass) -> float:
    """Floating-point operations of causal attention over sequences of these lengths.

    Forward 4·N²·D·H (two products) halved by the mask; forward and backward together 3.5 times that, since the backward
    pass has five products, one of which computes the scores again. It is the count of FlashAttention-2 (Dao 2023, arXiv
    2307.08691, section 4.1), for whatever an implementation does in truth.
    """
    forward = sum(4 * tokens**2 * head_dim * heads for tokens in lengths) / 2
    return forward * (3.5 if passes == "forward+backward" else 1)


def packed_documents(batch: int, tokens: int, device: torch.device) -> Documents:
    """Rows of 8 documents of unequal length, 1/36 to 8/36 of the row; in each row in another order."""
    bounds = [0]
    for row in range(batch):
        turn = row % len(DOCUMENT_SHARES)
        shares = DOCUMENT_SHARES[turn:] + DOCUMENT_SHARES[:turn]
        bounds += [row * tokens + sum(shares[: i + 1]) * tokens // sum(shares) for i in range(len(shares))]
    return Documents.from_cu_seqlens(torch.tensor(bounds, device=device), batch, tokens)


def _memory(device: torch.device) -> int:
    """Bytes of memory that the device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _measure(settings: Settings, case: CaseName, passes: Pass, tokens: int) -> Iterator[Row]:
    kv_heads = settings.kv_heads if case == "gqa" else settings.heads
    q, k, v, upstream = _tensors(settings, tokens, kv_heads)
    documents = packed_documents(settings.batch, tokens, settings.device) if case == "packed" else None
    lengths = [tokens] * settings.batch if documents is None else [end - start for _, start, end in documents.spans]
    counted = operations(lengths, settings.heads, settings.head_dim, passes)

    attends = _attends(q, k, documents, with_reference=tokens not in settings.without_reference)
    works = {name: _work(attend, q, k, v, upstream, passes) for name, attend in attends.items()}
    times = _time(works, settings.repeats, settings.device)
    peaks = {name: peak_memory(work, settings.device) for name, work in works.items()}
    if documents is not None:
        peaks[SDPA_MASKED] += settings.batch * tokens**2  # the mask is made once a step, so not within the work
    peer = SDPA_MASKED if documents is not None else SDPA_FLASH if SDPA_FLASH in works else "sdpa"
    for name in works:
        yield Row(
            case=case,
            passes=passes,
            tokens=tokens,
            head_dim=settings.head_dim,
            dtype=str(settings.dtype).removeprefix("torch."),
            implementation=name,
            milliseconds=times[name] * 1e3,
            tflops=counted / times[name] / 1e12,
            peak_bytes=peaks[name],
            peer=peer,
            speed=times[peer] / times[name],
            memory=peaks[name] / peaks[peer],
        )


def _tensors(settings: Settings, tokens: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v, which require gradients, and dO."""
    generator = torch.Generator(settings.device).manual_seed(0)
    q, k, v, upstream = (
        torch.randn(
            (settings.batch, tokens, heads, settings.head_dim),
            generator=generator,
            dtype=settings.dtype,
            device=settings.device,
        )
        for heads in (settings.heads, kv_heads, kv_heads, settings.heads)
    )
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), upstream


def _attends(q: Tensor, k: Tensor, documents: Documents | None, with_reference: bool = True) -> dict[str, Attend]:
    """Who is compared, by name."""
    names: list[Implementation] = ["tiled", "sdpa"]
    if with_reference:
        names.insert(0, "reference")
    if q.is_cuda and why_not("triton", q, Options()) is None and _is_compiled():
        names.append("triton")
    made: dict[str, Attend] = {}
    for name in names:
        made[name] = partial(attention, documents=documents, implementation=name)
    if q.is_cuda and _has_sdpa_flash(q, k):
        made[SDPA_FLASH] = partial(_sdpa_flash, documents=documents)
    if documents is not None:
        numbers = documents.numbers()  # (B, T)
        mask = (numbers[:, :, None] == numbers[:, None]).tril()[:, None]  # (B, 1, T, T)
        made[SDPA_MASKED] = partial(_sdpa_masked, mask=mask)
    return made


def _sdpa_flash(q: Tensor, k: Tensor, v: Tensor, documents: Documents | None) -> Tensor:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return attention(q, k, v, documents=documents, implementation="sdpa")


def _sdpa_masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, T, D)
    return F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2)  # (B, T, H, D)


def _has_sdpa_flash(q: Tensor, k: Tensor) -> bool:
    queries, keys = q.transpose(1, 2), k.transpose(1, 2)
    call = torch.backends.cuda.SDPAParams(queries, keys, keys, None, 0.0, True, q.shape[2] != k.shape[2])
    return torch.backends.cuda.can_use_flash_attention(call)


def _is_compiled() -> bool:
    from arriero.kernels.flash_tiles import INTERPRETED  # not before it is needed: it imports triton

    return not INTERPRETED


def _work(attend: Attend, q: Tensor, k: Tensor, v: Tensor, upstream: Tensor, passes: Pass) -> Work:
    def forward() -> Tensor:
        with torch.no_grad():
            return attend(q, k, v)

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(attend(q, k, v), (q, k, v), upstream)

    return forward if passes == "forward" else both


def _time(works: dict[str, Work], repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each; with one thread the processor's, which other processes disturb less."""
    if device.type == "cuda":
        return {name: _time_cuda(work, repeats) for name, work in works.items()}
    for work in works.values():
        work()
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            start = clock()
            work()
            seconds[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _time_cuda(work: Work, repeats: int) -> float:
    """By events in the stream; the calls queue up, so the time to launch them counts only where it is the longer."""
    for _ in range(3):
        work()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    for start, end in events:
        start.record()
        work()
        end.record()
    torch.cuda.synchronize()
    milliseconds: list[float] = [start.elapsed_time(end) for start, end in events]
    return statistics.median(milliseconds) / 1e3
