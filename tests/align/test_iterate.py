"""Rounds of alignment: every step is done once, people are waited for, and a stop anywhere loses nothing."""

import json
from pathlib import Path

import pytest

from arriero.align import iterate as module
from arriero.align.iterate import iterate
from arriero.align.iterate_config import CollectConfig, IterateConfig, MeasureConfig, PpoStageConfig
from arriero.align.ppo_config import IterationsConfig, ObjectiveConfig, RolloutConfig
from arriero.align.preferences import Judgement, Preferences
from arriero.align.rejection_config import DrawConfig
from arriero.common.errors import ArrieroError, FormatError
from arriero.model.lora_config import LoraConfig
from arriero.model.source import load_model
from arriero.train.sft_config import EpochsConfig
from tests.train.tuning import write_base

WORDS = ("sun", "rain", "wool", "salt", "road", "mule", "corn", "hail", "wind", "snow", "pass", "rope")


class Longer:
    """Prefers longer answers: a judge that never ties for long."""

    name = "rule:longer"

    def score(self, prompts, responses):
        return [len(response) + response.count("e") / 100 for response in responses]


@pytest.fixture(autouse=True)
def judge(monkeypatch):
    load = module.load_scorer
    monkeypatch.setattr(
        module, "load_scorer", lambda spec, **options: Longer() if spec == "rule:longer" else load(spec, **options)
    )


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """What a round needs, as small as it gets; in the folder, as seeds depend on the models' names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("\n".join(WORDS))
    write_base(tmp_path / "base", max_seq_len=256)
    few = EpochsConfig(steps=2, batch=4)

    def make(**changes):
        collect = {"pairs": 8, "answer_tokens": 6, "judge": "rule:longer", "temperature": 1.0} | changes.pop(
            "collect", {}
        )
        values = {
            "model": "base",
            "prompts": (tmp_path / "prompts.txt",),
            "rounds": 1,
            "collect": CollectConfig(**collect),
            "reward": few,
            "draw": DrawConfig(samples=4, max_tokens=100),
            "tuning": few,
            "lora": LoraConfig(rank=2),
            "measure": MeasureConfig(eval_count=3),
            "device": "cpu",
        }
        return IterateConfig(**values | changes)

    return make


def told(run, config):
    steps = []
    return iterate(run, config, steps.append), steps


def test_a_round_goes_from_prompts_to_measured_versions(settings, tmp_path):
    outcome, steps = told(Path("run"), settings())
    assert outcome.end == "finished"
    assert [step.partition(": ")[2] for step in steps] == [
        "sample", "judge", "reward models", "rejection sampling", "measure",
    ]  # fmt: skip
    assert [report.name for report in outcome.reports] == ["v0", "v1"]
    assert load_model(outcome.versions[-1]["model"], device="cpu")
    assert outcome.reports[0].kl.value == 0.0
    assert not {prompt.key for prompt in _prompts(tmp_path, "prompts")} & {
        p.key for p in _prompts(tmp_path, "held-out")
    }


def _prompts(tmp_path, name):
    return module.read_prompts([Path("run") / f"{name}.jsonl"])


def test_what_is_done_is_not_done_again_and_more_rounds_go_on(settings, tmp_path):
    first, _ = told(Path("run"), settings())
    again, steps = told(Path("run"), settings())
    assert steps == []
    assert again.reports == first.reports
    longer, steps = told(Path("run"), settings(rounds=2))
    assert {step.partition(":")[0] for step in steps} == {"round 2"}
    assert [report.name for report in longer.reports] == ["v0", "v1", "v2"]
    samples = sorted(path.name for path in (Path("run") / "rejection").glob("samples-*"))
    assert samples == ["samples-001.jsonl", "samples-002.jsonl"], "the best answers are chosen from all rounds"


def stopped_at(run, config, step, monkeypatch):
    """A run whose step cannot be done."""

    def fail(self, number):
        raise ArrieroError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(module._Alignment, step, fail)
        with pytest.raises(ArrieroError, match="the disk is full"):
            told(run, config)


def test_a_step_that_fails_is_the_first_one_of_the_next_call(settings, tmp_path, monkeypatch):
    names = {
        "_judge": "judge",
        "_train_rewards": "reward models",
        "_reject": "rejection sampling",
        "_measure": "measure",
    }
    for step in names:
        stopped_at(Path("run"), settings(), step, monkeypatch)
    outcome, steps = told(Path("run"), settings())
    assert (outcome.end, steps) == ("finished", ["round 1: measure"])


def test_without_a_judge_the_run_waits_for_people_and_goes_on_when_they_are_done(settings, tmp_path):
    config = settings(collect={"judge": None})
    outcome, _ = told(Path("run"), config)
    assert (outcome.end, outcome.reports) == ("waiting", [])
    assert outcome.waiting > 0
    again, steps = told(Path("run"), config)
    assert (again.end, steps) == ("waiting", ["round 1: judge"])
    with Preferences(outcome.preferences) as file:
        for number, pair in enumerate(list(file.pending("ana"))):
            choice = 1 if number % 2 else 2
            file.judge(pair.id, Judgement(choice=choice, degree="better", annotator="ana", batch="1"))
    outcome, _ = told(Path("run"), config)
    assert outcome.end == "finished"


def test_ppo_follows_the_last_round_as_a_version_of_its_own(settings, tmp_path):
    last = PpoStageConfig(
        ppo=True,
        rollout=RolloutConfig(batch=4, max_tokens=6),
        objective=ObjectiveConfig(mini_batch=4),
        training=IterationsConfig(iterations=1),
    )
    outcome, _ = told(Path("run"), settings(last=last))
    assert [version["name"] for version in outcome.versions] == ["v0", "v1", "v1-ppo"]
    assert len(outcome.reports) == 3


def test_safety_pairs_train_a_reward_model_of_their_own(settings, tmp_path):
    (tmp_path / "risky.txt").write_text("\n".join(f"risky {word}" for word in WORDS))
    config = settings(safety_prompts=(tmp_path / "risky.txt",), collect={"pairs": 16, "safety_judge": "rule:longer"})
    outcome, _ = told(Path("run"), config)
    assert (Path("run") / "round-1" / "safety" / "reward").is_dir()
    assert outcome.reports[-1].violations is not None


def test_a_judge_that_finds_only_ties_is_one_clear_error(settings, tmp_path, monkeypatch):
    with monkeypatch.context() as tied:
        tied.setattr(Longer, "score", lambda self, prompts, responses: [0.0] * len(responses))
        with pytest.raises(ArrieroError, match="no pair is judged by helpfulness"):
            told(Path("run"), settings())


def test_another_setting_is_refused_and_named(settings, tmp_path, monkeypatch):
    stopped_at(Path("run"), settings(), "_judge", monkeypatch)
    with pytest.raises(ArrieroError, match=r"collect\.pairs was 8, is 9"):
        told(Path("run"), settings(collect={"pairs": 9}))


def test_a_damaged_record_is_named(settings, tmp_path, monkeypatch):
    stopped_at(Path("run"), settings(), "_judge", monkeypatch)
    (Path("run") / "iterate.json").write_text(json.dumps({"version": 3}))
    with pytest.raises(FormatError, match="no record of an alignment"):
        told(Path("run"), settings())


def test_no_rounds_and_shares_that_leave_nothing_are_refused(settings):
    with pytest.raises(ArrieroError, match="rounds"):
        settings(rounds=0)
    with pytest.raises(ArrieroError, match="eval_share"):
        MeasureConfig(eval_share=0.0)
