"""PPO on two processes: what they learn is what one learns."""

import json
from pathlib import Path
from typing import Any

import pytest

from arriero.align.ppo import ppo
from tests.align.ppo_runs import config_for, write_adapter, write_prompts
from tests.train.processes import check_ranks, launch_ranks
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
    check_ranks(launch_ranks("-m", "tests.align.ppo_runs", json.dumps(runs, default=str)))
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
