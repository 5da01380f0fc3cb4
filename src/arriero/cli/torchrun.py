"""The line that starts a planned run, with `torchrun` where it takes several processes."""

import math
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from arriero.train.plan import Setup

GPUS_OF_A_MACHINE = 8
MASTER = "$MASTER:29500"
"""The first machine's name, which only the user knows, and a port that is usually free."""


def run_line(model: str, setup: "Setup", steps: float) -> str:
    """`arriero pretrain`, or `arriero sft` for an adapter, as the setup says; names of files are examples.

    CPU cores are threads of one process, which takes the rows of all.
    """
    if setup.card.name == "cpu-core":
        threads, one = setup.count, replace(setup.layout, replicate=1, shard=1, tensor=1)
        setup = replace(setup, count=1, rows=setup.rows * setup.batch_share, layout=one)
        start = f"OMP_NUM_THREADS={threads} arriero"
    else:
        start = _start(setup.count)
    words = [*_command(model, setup), *_layout(setup), f"--recompute {setup.recompute}", f"--dtype {setup.dtype}"]
    return " ".join([start, *words, f"--steps {math.ceil(steps)}"])


def _start(count: int) -> str:
    if count == 1:
        return "arriero"
    if count <= GPUS_OF_A_MACHINE:
        return f"torchrun --standalone --nproc-per-node {count} -m arriero"
    each = math.gcd(count, GPUS_OF_A_MACHINE)
    meeting = f"--rdzv-id arriero --rdzv-backend c10d --rdzv-endpoint {MASTER}"
    return f"torchrun --nnodes {count // each} --nproc-per-node {each} {meeting} -m arriero"


def _command(model: str, setup: "Setup") -> list[str]:
    if setup.adapter is None:
        size = [f"--rows {setup.rows}", f"--tokens {setup.tokens}", f"--accumulation {setup.accumulation}"]
        return ["pretrain runs/planned", f"--model {shlex.quote(model)}", "--shards shards", *size]
    batch = setup.batch_tokens // setup.tokens
    learning = [f"--rank {setup.adapter.rank}", f"--quantise {setup.adapter.quantise}"]
    size = [f"--rows {setup.rows}", f"--tokens {setup.tokens}", f"--batch {batch}", "--pack"]
    return ["sft runs/planned", f"--model {shlex.quote(model)}", "--data examples.jsonl", *learning, *size]


def _layout(setup: "Setup") -> list[str]:
    """What of the layout is not as it would be anyway."""
    layout, words = setup.layout, list[str]()
    for name in ("replicate", "tensor"):
        if (ways := getattr(layout, name)) > 1:
            words.append(f"--{name} {ways}")
    if layout.tensor > 1 and not layout.sequence:
        words.append("--no-sequence")
    return [*words, *(["--sum-every"] if layout.sum_every and setup.accumulation > 1 else [])]
