"""Which models fit into a machine's memory: to answer, by how the weights are held, and to train, by what learns.

Arithmetic only: `model/packed.py` knows the bytes of weights, `plan.py` those of training. A model's layers are alike,
so that the bytes of one and of two tell those of all.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from arriero.common.errors import ArrieroError
from arriero.model.config import LlamaConfig
from arriero.model.formats.weights import blank_model
from arriero.model.packed import Weights, held_bytes
from arriero.train.cards import Card, DType
from arriero.train.parallel_config import ParallelConfig
from arriero.train.plan import USABLE, Adapter, Setup, count_parameters, estimate_memory, fits

Kind = Literal["float32", "bfloat16", "int8", "int4"]
Method = Literal["full", "lora", "qlora"]
PROCESS = 2**29
"""Bytes that Python, PyTorch and a chat's activations take beside weights and cache."""
LEAST_CONTEXT = 256
"""Tokens below which a model is of no use."""
ROW = 2048
"""Most tokens of a training row."""


@dataclass(frozen=True)
class Room:
    """Where a model is to fit."""

    device: Literal["cpu", "cuda"]
    count: int
    """GPUs; 1 on a CPU."""
    bytes: int
    """Of each that may be used."""
    main_bytes: int
    """Of main memory that may be used: training reads a model there, in float32, before anything is quantised."""


@dataclass(frozen=True)
class Held:
    """A model to answer with."""

    bytes: int | None
    """Of its weights; None: its shape does not allow them to be held so."""
    context: int
    """Most tokens that it and its cache of keys and values fit with; 0: it does not fit."""


@dataclass(frozen=True)
class Trained:
    """A model to train: a row at a time, everything recomputed."""

    bytes: float
    """Of each device, at the fullest moment."""
    tokens: int
    """Of a row."""
    fits: bool


def cache_bytes(shape: LlamaConfig, number_bytes: int) -> int:
    """Bytes of a token's keys and values: 2 · layers · KV heads · head dim numbers."""
    return 2 * shape.n_layers * shape.n_kv_heads * shape.head_dim * number_bytes


def hold(shape: LlamaConfig, room: Room) -> dict[Kind, Held]:
    """A model in each kind of weights, on one device; its cache is in bfloat16 on a GPU and beside bfloat16 weights."""
    plain = _weights_bytes(shape, "full")
    assert plain is not None
    sizes: dict[Kind, int | None] = {"float32": plain, "bfloat16": plain // 2}
    sizes |= {"int8": _weights_bytes(shape, "int8"), "int4": _weights_bytes(shape, "int4")}
    held = {}
    for kind, size in sizes.items():
        number = 2 if kind == "bfloat16" or (room.device == "cuda" and kind != "float32") else 4
        left = -1 if size is None else room.bytes - PROCESS - size
        context = min(shape.max_seq_len, max(0, left) // cache_bytes(shape, number))
        held[kind] = Held(size, context if context >= min(LEAST_CONTEXT, shape.max_seq_len) else 0)
    return held


def train(shape: LlamaConfig, room: Room) -> dict[Method, Trained]:
    """A model with all weights, an adapter, or an adapter over 4-bit weights to learn."""
    dtype: DType = "bfloat16" if room.device == "cuda" else "float32"
    here = Card(name="here", peak_flops={dtype: 1.0}, memory_bytes=room.bytes / USABLE, watts=1.0)
    whole = Setup(
        shape=shape,
        card=here,
        count=room.count,
        rows=1,
        tokens=min(ROW, shape.max_seq_len),
        layout=ParallelConfig(),
        recompute="full",
        dtype=dtype,
    )
    setups: dict[Method, Setup] = {
        "full": whole,
        "lora": dataclasses.replace(whole, adapter=Adapter()),
        "qlora": dataclasses.replace(whole, adapter=Adapter(quantise="nf4")),
    }
    read = 4 * count_parameters(shape) * room.count  # every process reads it
    trained = {}
    for method, setup in setups.items():
        needed = max(estimate_memory(setup).total, read if room.device == "cpu" else 0)
        trained[method] = Trained(needed, setup.tokens, fits(setup) and read <= room.main_bytes)
    return trained


def _weights_bytes(shape: LlamaConfig, weights: Weights) -> int | None:
    try:
        one, two = (held_bytes(blank_model(dataclasses.replace(shape, n_layers=n)), weights) for n in (1, 2))
    except ArrieroError:
        return None
    return one + (shape.n_layers - 1) * (two - one)
