"""Reward models on two processes learn what one learns, and what any of them writes is what it trained."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from arriero.align.reward_config import RewardLossConfig, RewardModelConfig, RewardOptimizerConfig
from arriero.align.reward_measure import read_evaluation
from arriero.align.reward_train import EVALUATION, REWARD, train_reward
from arriero.common.errors import ArrieroError
from arriero.model.formats.hf import save_hf
from arriero.model.source import load_model
from tests.align.test_reward_train import config, write_pairs
from tests.train.processes import check_ranks, launch_ranks
from tests.train.shard_folders import EOS
from tests.train.tuning import diary, write_base

METHODS = ("lora", "full")
RANK = """
import sys
from pathlib import Path
import torch
from arriero.align.reward_train import train_reward
from arriero.train.parallel import Layout
from tests.align.test_reward_ranks import METHODS, settings
torch.set_num_threads(1)
close, Layout.close = Layout.close, lambda self: None  # the runs share their processes
folder = Path(sys.argv[1])
for method in METHODS:
    train_reward(folder / f"two-{method}", settings(folder, method))
torch.distributed.destroy_process_group()
"""


def settings(folder: Path, method: str) -> RewardModelConfig:
    """A run over a base whose embeddings are tied, without margins: its losses are those of the evaluation."""
    own = config(folder / "base", folder / "pairs.jsonl", method=method, loss=RewardLossConfig(margins="none"))
    optim = RewardOptimizerConfig(lr=1e-3)
    return replace(own, training=replace(own.training, epochs=2.0, validate_every=3), optim=optim)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward-ranks")
    write_base(folder / "base", tied=True)
    write_pairs(folder / "pairs.jsonl", 25)
    for method in METHODS:
        assert train_reward(folder / method, settings(folder, method)) == "finished"
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_what_is_written_scores_as_what_was_trained_though_embeddings_are_tied(room, method):
    """A head lost on the way out, or an output layer tied again in its place, would give another loss."""
    best = min(line["loss"] for line in diary(room / method, "validation"))
    assert read_evaluation(room / method / EVALUATION).loss == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_is_over_is_not_measured_again(room, method):
    measured = room / method / EVALUATION
    before = measured.stat().st_mtime_ns, (room / method / REWARD).stat().st_mtime_ns
    assert train_reward(room / method, settings(room, method)) == "finished"
    assert (measured.stat().st_mtime_ns, (room / method / REWARD).stat().st_mtime_ns) == before


def test_a_base_with_damaged_weights_makes_no_reward_model(room, tmp_path):
    loaded = load_model(str(room / "base"), device="cpu", dtype="float32")
    loaded.model.norm.weight.data[0] = float("nan")
    save_hf(loaded.model, tmp_path / "base", bos_id=None, eos_id=EOS)
    loaded.tokenizer.save(tmp_path / "base")
    with pytest.raises(ArrieroError, match=r"not written: read back, it differs by nan"):
        train_reward(tmp_path / "run", replace(settings(room, "lora"), model=str(tmp_path / "base")))
    assert not (tmp_path / "run" / REWARD).exists()


@pytest.fixture(scope="module")
def two(room):
    """The same runs by two processes."""
    check_ranks(launch_ranks("-c", RANK, str(room)))
    return room


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_learn_what_one_learns(two, method):
    for kind in ("step", "validation"):
        alone, together = (diary(two / name, kind) for name in (method, f"two-{method}"))
        assert alone
        for mine, theirs in zip(together, alone, strict=True):
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=2e-3, abs=1e-5)
    found = [json.loads((two / name / EVALUATION).read_text()) for name in (method, f"two-{method}")]
    assert found[1]["loss"] == pytest.approx(found[0]["loss"], rel=2e-3)
    assert found[1]["accuracy"]["count"] == found[0]["accuracy"]["count"]
