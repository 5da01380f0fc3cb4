"""Programs of the tests, started as the ranks of one run."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def launch_ranks(*arguments: str, world: int = 2, timeout: float = 280) -> list["subprocess.CompletedProcess[str]"]:
    """What each rank came to: `python -W error ARGUMENTS` as `world` new processes that know of each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", *arguments],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        outputs = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *output)
        for process, output in zip(processes, outputs, strict=True)
    ]


def check_ranks(ranks: Sequence["subprocess.CompletedProcess[str]"]) -> None:
    """Every rank ended well."""
    assert [rank.returncode for rank in ranks] == [0] * len(ranks), "".join(rank.stderr for rank in ranks)
