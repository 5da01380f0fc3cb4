"""The compiled kernels as Python sees them: C's structures, and functions on tensors.

N tokens, O outputs, C inputs, H heads, K KV heads, D head dim, P pages.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from arriero.kernels.native.build import native_library

PAGE = 16
"""Keys of a page that `attend` and `Runner` can read."""
MAX_HEAD_DIM, MAX_GROUP = 256, 16
"""Largest head dim, a multiple of 16; most query heads of a KV head."""


class Matrix(ctypes.Structure):
    """`packed.h: Matrix`."""

    _fields_ = (
        ("codes", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("minima", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("bits", ctypes.c_int64),
    )

    @classmethod
    def of(cls, codes: Tensor, scales: Tensor, minima: Tensor | None, columns: int, bits: int) -> "Matrix":
        """Of the tensors of `arriero.model.packed`, which must outlive it."""
        least = None if minima is None else minima.data_ptr()
        return cls(codes.data_ptr(), scales.data_ptr(), least, codes.shape[0] * 16, columns, bits)


class Layer(ctypes.Structure):
    """`llama.cpp: Layer`."""

    _fields_ = (
        ("attention_norm", ctypes.c_void_p),
        ("ffn_norm", ctypes.c_void_p),
        *((name, Matrix) for name in ("wq", "wk", "wv", "wo", "w1", "w2", "w3")),
    )


class Model(ctypes.Structure):
    """`llama.cpp: Model`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n_layers", "dim", "n_heads", "n_kv_heads", "head_dim", "hidden_dim")),
        ("norm_eps", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("embeddings", "norm", "cos", "sin")),
        ("layers", ctypes.POINTER(Layer)),
        ("output", Matrix),
    )


class Span(ctypes.Structure):
    """`attention.h: Span`."""

    _fields_ = (
        ("first", ctypes.c_int64),
        ("tokens", ctypes.c_int64),
        ("start", ctypes.c_int64),
        ("pages", ctypes.c_void_p),
    )


class Step(ctypes.Structure):
    """`llama.cpp: Step`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("tokens", "spans", "wanted")),
        *((name, ctypes.c_void_p) for name in ("ids", "positions", "slots", "span", "wanted_at", "k", "v")),
        ("pages", ctypes.c_int64),
        ("logits", ctypes.c_void_p),
    )


class Runner:
    """A model that is ready to step, with its threads."""

    def __init__(self, model: Model, threads: int) -> None:
        """`model` and all that it points to must outlive it."""
        self._model, self._close = model, library().arriero_close
        self._handle = _done(library().arriero_open(ctypes.byref(model), threads))

    def step(self, step: Step) -> None:
        """Go through the layers, and write the logits; the interpreter is free meanwhile."""
        _done(library().arriero_step(self._handle, ctypes.byref(step)))

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            self._close(self._handle)


def multiply(matrix: Matrix, x: Tensor) -> Tensor:
    """x Wᵀ for `x` (…, C) fp32, whose groups of 32 inputs are rounded to 15 bits; (…, rows of the matrix)."""
    x = x.contiguous()
    y = x.new_empty(*x.shape[:-1], matrix.rows)  # (…, O)
    tokens = x.numel() // matrix.columns
    _done(library().arriero_multiply(_pool(), ctypes.byref(matrix), x.data_ptr(), tokens, y.data_ptr()))
    return y


def attend(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, tables: Sequence[Tensor], starts: Sequence[int], scale: float
) -> Tensor:
    """Causal attention of rows of T new tokens each, `q` (B, T, H, D), over pages that hold these tokens' keys too.

    Args:
        k_pages, v_pages: (P, K, 16, D) fp32, contiguous.
        tables: (pages of the row,) int32 of each row.
        starts: keys of each row before the new ones.
        scale: factor of the scores.
    """
    batch, tokens, heads, dim = q.shape
    q, out = q.contiguous(), torch.empty_like(q, memory_format=torch.contiguous_format)
    spans = (Span * batch)(*(Span(i * tokens, tokens, starts[i], tables[i].data_ptr()) for i in range(batch)))
    pools = k_pages.data_ptr(), v_pages.data_ptr(), heads, k_pages.shape[1], dim
    _done(library().arriero_attend(_pool(), spans, batch, *pools, scale, q.data_ptr(), out.data_ptr()))
    return out


@cache
def library() -> Any:
    """The compiled functions with their types."""
    found: Any = native_library()
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    found.arriero_open.argtypes, found.arriero_open.restype = (pointer, ctypes.c_int), pointer
    found.arriero_open_pool.argtypes, found.arriero_open_pool.restype = (ctypes.c_int,), pointer
    found.arriero_close.argtypes = (pointer,)
    found.arriero_step.argtypes, found.arriero_step.restype = (pointer, pointer), pointer
    found.arriero_multiply.argtypes, found.arriero_multiply.restype = (
        (pointer, pointer, pointer, number, pointer),
        pointer,
    )
    found.arriero_attend.argtypes = (
        pointer, pointer, number, pointer, pointer, number, number, number, ctypes.c_float, pointer, pointer
    )  # fmt: skip
    found.arriero_attend.restype = pointer
    return found


def _done(result: int | None) -> int:
    """What a function of C gave.

    Raises:
        MemoryError: null, which tells that there was too little.
    """
    if result is None:
        raise MemoryError("too little memory for a step of compiled code")
    return result


@cache
def _pool() -> int:
    """The threads of `multiply` and `attend`, as many as PyTorch's."""
    return _done(library().arriero_open_pool(torch.get_num_threads()))
