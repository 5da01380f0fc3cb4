"""PPO on two processes: what they learn is what one learns."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from arriero.align.ppo import ppo
from tests.align.ppo_runs import config_for, write_adapter, write_prompts
from tests.train.tuning import diary, write_base

CHANGES: dict[str, dict[str, Any]] = {
    "adapters": {"iterations": 2},
    "all weights": {"iterations": 2, "method": "full", "lr": 1e-3},
}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ppo-ranks")
    write_adapter(folder / "reward", write_base(folder / "base"), head=True)
    write_prompts(folder / "prompts.jsonl")
    common = {"base": folder / "base", "prompts": folder / "prompts.jsonl", "reward": folder / "reward"}
    runs = [{"run": folder / f"two-{name}", "changes": changes, **common} for name, changes in CHANGES.items()]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.align.ppo_runs", json.dumps(runs, default=str)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs[0][1]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CHANGES))
def test_two_processes_learn_what_one_learns(room, name):
    alone = room / f"one-{name}"
    ppo(alone, config_for(room / "base", room / "prompts.jsonl", room / "reward", **CHANGES[name]))
    together = diary(room / f"two-{name}", "step")
    for mine, theirs in zip(together, diary(alone, "step"), strict=True):
        for number in ("loss", "reward", "kl3", "entropy", "grad_norm", "value_loss", "explained_variance"):
            assert mine[number] == pytest.approx(theirs[number], rel=5e-3, abs=1e-4), number
    assert together[0]["kl"] == 0
    assert (together[0]["ratio_least"], together[0]["ratio_greatest"]) == (1.0, 1.0)
    validations = [diary(run, "validation")[-1]["reward"] for run in (room / f"two-{name}", alone)]
    assert validations[0] == pytest.approx(validations[1], rel=1e-2)
