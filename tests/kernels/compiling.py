"""Compile kernels for GPUs that aren't there: `python -m tests.kernels.compiling sm_80 flash_forward-bf16-128-causal`.

A driver that stands in for CUDA's makes Triton compile whatever a launcher launches, in every configuration that its
autotuner would try, and launch nothing. So launchers, signatures, specialisations and configurations are checked on a
machine without a GPU; speed is not. Prints one line of JSON a compiled kernel: its shared memory, registers, bytes of
stack (spilled registers) and how it multiplies.

To add a kernel: a function that calls its launcher with tensors on the CPU, in `LAUNCHES`.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from arriero.kernels.block_mask import BlockMask, butterfly
from arriero.kernels.documents import Documents
from arriero.kernels.options import Options

SHARED_MEMORY = {"sm_80": 163 * 1024, "sm_90": 227 * 1024}
"""Bytes that one program may have."""
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
TOKENS = 1024


def variants() -> dict[str, Callable[[], Options]]:
    """Options, by name; all of them change what is compiled."""
    return {
        "causal": lambda: Options(),
        "full": lambda: Options(causal=False),
        "window": lambda: Options(window=256),
        "window-both": lambda: Options(window=256, causal=False),
        "softcap": lambda: Options(softcap=30.0),
        "atomics": lambda: Options(deterministic=False),
        "dropout": lambda: Options(dropout=0.1),
        "documents": lambda: Options(documents=Documents.from_segments(torch.arange(TOKENS)[None] // 300)),
        "lengths": lambda: Options(key_lengths=torch.tensor([TOKENS])),
        "key-mask": lambda: Options(key_mask=torch.ones(1, TOKENS, dtype=torch.bool), scale=-1.0),
        "blocks-128": lambda: Options(block_mask=BlockMask(butterfly(TOKENS // 128))),
        "blocks-16": lambda: Options(block_mask=BlockMask(butterfly(TOKENS // 16), size=16)),
    }


def launch_flash_forward(dtype: torch.dtype, dim: int, options: Options) -> None:
    from arriero.kernels.flash_forward import flash_forward

    q, k = torch.empty(1, TOKENS, 4, dim, dtype=dtype), torch.empty(1, TOKENS, 2, dim, dtype=dtype)
    flash_forward(q, k, k.clone(), options)


def launch_flash_backward(dtype: torch.dtype, dim: int, options: Options) -> None:
    from arriero.kernels.flash_backward import flash_backward

    q, k = torch.empty(1, TOKENS, 4, dim, dtype=dtype), torch.empty(1, TOKENS, 2, dim, dtype=dtype)
    log_sum = torch.empty(1, 4, TOKENS)
    flash_backward(q, k, k.clone(), q.clone(), log_sum, q.clone(), None, options)


def launch_flash_decode(dtype: torch.dtype, dim: int, options: Options) -> None:
    from arriero.kernels.flash_decode import flash_decode

    q, pages = torch.empty(1, 1, 16, dim, dtype=dtype), torch.empty(TOKENS // 16, 16, 2, dim, dtype=dtype)
    table, lengths = torch.arange(TOKENS // 16)[None], torch.tensor([TOKENS])
    flash_decode(q, pages, pages.clone(), table, lengths, options, splits=4)


LAUNCHES: dict[str, Callable[[torch.dtype, int, Options], None]] = {
    "flash_forward": launch_flash_forward,
    "flash_backward": launch_flash_backward,
    "flash_decode": launch_flash_decode,
}


def compile_all(target: str, names: list[str], timeout: float = 280) -> list[dict[str, Any]]:
    """Compile `names`, each `kernel-dtype-dim-variant`, for `target` in a process of its own; one report a kernel."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": cache}
        command = [sys.executable, "-m", "tests.kernels.compiling", target, *names]
        root = Path(__file__).parents[2]
        done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def main(target: str, *names: str) -> None:
    """Print the reports of `names` for `target`."""
    _stand_in(int(target.removeprefix("sm_")))
    for name in names:
        kernel, dtype, dim, variant = name.split("-", 3)
        compiled = _collect(lambda: LAUNCHES[kernel](DTYPES[dtype], int(dim), variants()[variant]()))  # noqa: B023
        for one in compiled:
            print(json.dumps({"name": name, "target": target, **_report(one)}), flush=True)


def _stand_in(capability: int) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver

    class StandIn:
        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", capability, 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int) -> int:
            return 0

    driver.set_active(StandIn())


def _collect(launch: Callable[[], None]) -> list[Any]:
    """What `launch` would launch, compiled: for an autotuned kernel, every configuration it would try."""
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.jit import JITFunction

    compiled: list[Any] = []
    run_one, run_tuned = JITFunction.run, Autotuner.run

    def compile_one(self, *args, grid, warmup, **kwargs):
        compiled.append(run_one(self, *args, grid=grid, warmup=True, **kwargs))
        return compiled[-1]

    JITFunction.run = compile_one
    Autotuner.run = lambda self, *args, grid, warmup, **kwargs: self.warmup(*args, grid=grid, **kwargs)
    try:
        launch()
    finally:
        JITFunction.run, Autotuner.run = run_one, run_tuned
    return compiled


def _report(kernel: Any) -> dict[str, Any]:
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        Path(cubin.name).write_bytes(kernel.asm["cubin"])
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", cubin.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    numbers = dict(re.findall(r"\b(REG|STACK):(\d+)", usage))
    ptx = kernel.asm["ptx"]
    return {
        "kernel": kernel.metadata.name,
        "warps": kernel.metadata.num_warps,
        "stages": kernel.metadata.num_stages,
        "blocks": {key: value for key, value in _constants(kernel).items() if key.startswith("BLOCK_")},
        "shared": kernel.metadata.shared,
        "registers": int(numbers["REG"]),
        "stack": int(numbers["STACK"]),
        "products": sorted(set(re.findall(r"\b(?:wgmma\.mma_async|mma)\.sync\S*", ptx))) or ["fma"],
    }


def _constants(kernel: Any) -> dict[str, Any]:
    names = kernel.src.fn.arg_names
    return {names[place[0]]: value for place, value in kernel.src.constants.items()}


if __name__ == "__main__":
    main(*sys.argv[1:])
