"""A run of PPO, end to end on a model of two layers: what must hold from the first step to the adapter."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from arriero.align.ppo import ppo, prepare
from arriero.align.ppo_batches import PpoBatches
from arriero.common.errors import ArrieroError
from arriero.model.adapters import Adapters
from arriero.model.lora_config import LoraConfig
from arriero.model.source import load_merged, load_model
from arriero.report.run import read_run
from arriero.train.watch import RunWatcher
from tests.align.ppo_runs import ITERATIONS, config_for, strike_after, write_adapter, write_prompts
from tests.train.tuning import diary, write_base


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ppo")
    base = write_base(folder / "base")
    write_adapter(folder / "reward", base, head=True)
    write_adapter(folder / "tuned", base, seed=9, dropout=0.5)
    write_prompts(folder / "prompts.jsonl")
    return folder


@pytest.fixture(scope="module")
def finished(room: Path) -> Path:
    """A run that nothing disturbed."""
    assert ppo(room / "finished", config(room)) == "finished"
    return room / "finished"


def config(room: Path, **changes):
    return config_for(room / "base", room / "prompts.jsonl", room / "reward", **changes)


def test_before_anything_is_learnt_ratios_are_exactly_1_and_the_divergence_exactly_0(finished):
    first = diary(finished, "step")[0]
    assert (first["ratio_least"], first["ratio_greatest"]) == (1.0, 1.0)
    assert (first["kl"], first["kl2"], first["kl3"], first["step_kl"]) == (0.0, 0.0, 0.0, 0.0)
    assert first["clip_share"] == 0


def test_each_iteration_begins_with_ratios_of_exactly_1(finished):
    begun = [line for line in diary(finished, "step") if line["step"] % 2 == 1]
    assert [line["ratio_least"] for line in begun] == [1.0] * ITERATIONS
    assert [line["iteration"] for line in begun] == [1, 2, 3]


def test_steps_move_the_policy_away_and_the_diary_tells_how_far(finished):
    last = diary(finished, "step")[-1]
    assert last["kl3"] > 0
    assert last["ratio_least"] < 1 < last["ratio_greatest"]
    expected = {"reward", "kl", "entropy", "length", "eos_share", "explained_variance", "clip_share", "beta"}
    assert expected <= last.keys()
    assert len(diary(finished, "step")) == 2 * ITERATIONS


def test_a_policy_that_does_not_learn_stays_at_ratios_of_1_at_any_temperature(room):
    run = room / "still"
    ppo(run, config(room, lr=1e-30, temperature=0.6, epochs=2, iterations=1))
    for line in diary(run, "step"):
        assert (line["ratio_least"], line["ratio_greatest"]) == pytest.approx((1.0, 1.0), abs=1e-5)
        assert (line["kl"], line["kl3"]) == (0.0, 0.0)


def test_held_out_prompts_are_answered_before_the_first_step_and_after_the_last(finished):
    lines = diary(finished, "validation")
    assert [line["step"] for line in lines] == [0, 4, 6]
    assert len({len(line["scores"]) for line in lines}) == 1
    assert lines[0]["kl"] == 0
    assert lines[0]["loss"] == -lines[0]["score"]
    assert diary(finished, "sample")


def test_the_policy_comes_out_as_an_adapter_that_any_command_loads(finished, room):
    tuned, base = load_merged(str(finished / "adapter")), load_model(str(room / "base"))
    tokens = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert not torch.allclose(tuned.model(tokens), base.model(tokens))
    settings = json.loads((finished / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert settings["task_type"] == "CAUSAL_LM"
    assert not len(tuned.model.heads), "the critic's head stays behind"


def test_a_run_killed_within_an_iteration_goes_on_bit_for_bit(finished, room):
    run = room / "killed"
    order = {"run": run, "base": room / "base", "prompts": room / "prompts.jsonl", "reward": room / "reward"}
    argv = [sys.executable, "-m", "tests.align.ppo_runs", json.dumps([{**order, "kill": 3}], default=str)]
    killed = subprocess.run(argv, cwd=Path(__file__).parents[2], capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert ppo(run, config(room)) == "finished"
    _equal(run, finished)


def test_a_checkpoint_in_the_middle_of_an_iteration_holds_its_answers(finished, room, monkeypatch):
    run = room / "midway"
    with monkeypatch.context() as patch:
        patch.setattr(RunWatcher, "on_step", RunWatcher.on_step)  # put back afterwards
        strike_after(3, signal.SIGINT)
        assert ppo(run, config(room)) == "interrupted"
    progress = json.loads((run / "checkpoints" / "step-00000003" / "checkpoint.json").read_text())["progress"]
    assert progress["batches"]["step"] == 1
    assert len(progress["batches"]["answers"]) == 8
    assert ppo(run, config(room)) == "finished"
    _equal(run, finished)


def _equal(run: Path, other: Path) -> None:
    numbers = ("loss", "reward", "kl", "entropy", "grad_norm", "value_loss", "beta")
    for mine, theirs in zip(diary(run, "step"), diary(other, "step"), strict=True):
        assert [mine[name] for name in numbers] == [theirs[name] for name in numbers]
    name = Path("adapter") / "adapter_model.safetensors"
    assert (run / name).read_bytes() == (other / name).read_bytes()


def test_micro_batches_are_parts_of_one_large_batch(room):
    one, other = room / "rows-1", room / "rows-4"
    for run, rows in ((one, 1), (other, 4)):
        ppo(run, config(room, rows=rows, iterations=1, eval_share=0.0))
    for mine, theirs in zip(diary(one, "step"), diary(other, "step"), strict=True):
        for name in ("loss", "grad_norm", "value_loss", "policy_loss", "entropy"):
            assert mine[name] == pytest.approx(theirs[name], rel=2e-3, abs=2e-5), name


def test_the_policy_may_begin_as_an_adapter_which_is_the_reference_too(room):
    tuned = config_for(room / "tuned", room / "prompts.jsonl", room / "reward", lora=LoraConfig(), iterations=1)
    players = prepare(tuned).players
    assert (players.policy.adapter, players.reference.adapter) == ("policy", "adapter")
    for name in ("policy", "adapter", "critic", "reward"):
        changes = Adapters.of(players.loaded.model).changes(name)
        assert all(change.dropout == 0 for change in changes.values()), "dropout would make equal policies differ"
    assert ppo(room / "from-tuned", tuned) == "finished"
    first = diary(room / "from-tuned", "step")[0]
    assert (first["ratio_least"], first["kl"]) == (1.0, 0.0)
    made = load_merged(str(room / "from-tuned" / "adapter"))
    assert made.model.config == load_model(str(room / "base")).model.config
    with pytest.raises(ArrieroError, match="keeps its rank"):
        prepare(config_for(room / "tuned", room / "prompts.jsonl", room / "reward"))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_rule_may_be_the_judge_and_others_watch(room, method):
    changes = {"method": method, "watch": ("rule:readable",), "iterations": 1, "lr": 1e-3}
    run = room / f"rule-{method}"
    ppo(run, config_for(room / "base", room / "prompts.jsonl", "rule:concise", **changes))
    first = diary(run, "step")[0]
    assert (first["ratio_least"], first["ratio_greatest"], first["kl"]) == (1.0, 1.0, 0.0)
    assert "watch/rule:readable" in first
    assert load_merged(str(run / ("adapter" if method == "lora" else "model")))


def test_all_weights_learn_with_a_reward_model_over_the_same_base(room):
    run = room / "full"
    assert ppo(run, config(room, method="full", lr=1e-3, iterations=1)) == "finished"
    assert diary(run, "validation")[-1]["kl3"] > 0
    assert load_model(str(run / "model")).tokenizer.chat_template is not None


def test_a_run_that_goes_too_far_is_ended_and_says_so(room):
    run = room / "too-far"
    assert ppo(run, config(room, lr=0.3, max_kl=1e-9, iterations=6)) == "stopped early"
    assert len(diary(run, "step")) < 12
    halts = [line["detail"] for line in diary(run, "event") if line["event"] == "halt"]
    assert "nats from where it began" in halts[0]
    assert any("no evaluation lay within --max-kl" in line["detail"] for line in diary(run, "event"))
    assert (run / "adapter").is_dir()


def test_the_adaptive_controller_and_its_beta_are_in_the_diary(room):
    run = room / "adaptive"
    ppo(run, config(room, controller="adaptive", beta=0.1, target_kl=1e-3, horizon=100.0, lr=0.05, iterations=2))
    betas = [line["beta"] for line in diary(run, "step")]
    assert betas[0] == 0.1
    assert betas[-1] != 0.1


def test_a_finished_run_has_the_curves_of_ppo_in_its_report(finished):
    from arriero.report.curves import charts

    titles = {chart.title for chart in charts([read_run(finished)])}
    assert {"Reward", "Divergence from the reference", "Entropy", "Length of answers"} <= titles


def test_batches_know_their_place_and_refuse_that_of_other_prompts(room, finished):
    progress = json.loads((finished / "checkpoints" / "step-00000006" / "checkpoint.json").read_text())["progress"]
    state = progress["batches"] | {"fingerprint": 1}
    with pytest.raises(ArrieroError, match="prompts, the batch or the seed changed"):
        PpoBatches.load_state_dict(_batches(room), state)


def _batches(room: Path) -> PpoBatches:
    from arriero.align.rollout import Sampler
    from arriero.train.parallel import Layout

    settings = config(room)
    prepared = prepare(settings)
    return PpoBatches(settings, Sampler(prepared.players, prepared.asked, settings.rollout, Layout(), ()), 2)
