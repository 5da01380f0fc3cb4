"""How many operations a token takes to train on, and how many a second the devices could do: their ratio is the MFU;
and what the allocator has to do with it.

Model FLOPs utilisation (Chowdhery et al. 2022, PaLM, arXiv 2204.02311, appendix B) counts what the mathematics needs,
not what recomputation adds.
"""

import ctypes
import platform
import time

import torch

from arriero.kernels.linear import linear
from arriero.model.config import LlamaConfig
from arriero.train.cards import recognise_card


def keep_freed_memory() -> None:
    """Have this process keep the memory that tensors on the CPU free, for the next step's, where the library is glibc.

    By default it gives large blocks back at once, and the system clears every page when it hands it out again: a fifth
    to a third of a step's time where that is slow, as in virtual machines. The peak of what is held stays the same.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc, trim_threshold, mmap_max = ctypes.CDLL(None), -1, -4  # <malloc.h>
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, -1)


def release_freed_memory() -> None:
    """Give back to the system what this process has freed and still keeps, where the library is glibc.

    Between steps whose tensors differ in size: what one step left behind does not fit the next, and would pile up.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def flops_per_token(config: LlamaConfig, tokens: int) -> float:
    """Operations to train on one token of a row of `tokens`, forward and backward.

    6 for each parameter of a matrix (2 forward, 4 backward), the output layer included and the embedding, a look-up,
    not; and for attention 6 · layers · dim · tokens: PaLM's 12, halved by the causal mask.
    """
    attention = 2 * config.dim * config.n_heads * config.head_dim + 2 * config.dim * config.n_kv_heads * config.head_dim
    matrices = config.n_layers * (attention + 3 * config.dim * config.hidden_dim) + config.vocab_size * config.dim
    return 6.0 * matrices + 6.0 * config.n_layers * config.n_heads * config.head_dim * tokens


def peak_flops(device: torch.device, world: int) -> float | None:
    """Operations a second of all devices: bfloat16 by the data sheet for known GPUs, measured for CPUs, else None."""
    if device.type == "cuda":
        card = recognise_card(torch.cuda.get_device_name(device))
        return None if card is None else world * card.peak_flops["bfloat16"]
    return world * measure_matmul() if device.type == "cpu" else None


def measure_matmul(size: int = 1536, seconds: float = 0.3) -> float:
    """Operations a second of the fastest of some float32 products of square matrices on this CPU."""
    x, y = torch.randn(size, size), torch.randn(size, size)
    best, until = float("inf"), time.perf_counter() + seconds
    with torch.no_grad():
        while time.perf_counter() < until:
            started = time.perf_counter()
            linear(x, y)
            best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
