"""Micro-batches of PPO: each answer once an epoch, in orders of their own, and a place that can be taken up."""

import json
import math
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch

from arriero.align.ppo import prepare
from arriero.align.ppo_batches import PpoBatches, build_controller
from arriero.align.ppo_config import IterationsConfig, ObjectiveConfig, PpoConfig, PpoOptimizerConfig
from arriero.align.ppo_step import PpoLoss
from arriero.align.ppo_watch import alarms, kept_of
from arriero.align.rollout import Sampler
from arriero.cli.parser import shipped_configs
from arriero.common.errors import ArrieroError
from arriero.model.layers import set_recompute
from arriero.train.parallel import Layout
from tests.align.ppo_runs import config_for, write_adapter, write_prompts
from tests.train.tuning import write_base


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ppo-batches")
    write_adapter(folder / "reward", write_base(folder / "base"), head=True)
    write_prompts(folder / "prompts.jsonl")
    return folder


@pytest.fixture
def make(room):
    def batches(**changes) -> PpoBatches:
        settings = config_for(room / "base", room / "prompts.jsonl", room / "reward", **changes)
        prepared = prepare(settings)
        return PpoBatches(settings, Sampler(prepared.players, prepared.asked, settings.rollout, Layout(), ()), 2)

    return batches


def answers_of(batch) -> list[tuple[int, ...]]:
    ids = batch.row.tokens[0].tolist()
    return [tuple(ids[start:end]) for _, start, end in batch.row.documents.spans]


def test_each_epoch_sees_every_answer_once_in_an_order_of_its_own(make):
    batches = make(epochs=2)
    drawn = [next(batches) for _ in range(2 * 2 * batches.micro_batches)]
    policy = [answers_of(batch) for batch in drawn if batch.part == "policy"]
    assert [answers_of(batch) for batch in drawn if batch.part == "critic"] == policy, "the two learn from the same"
    first, second = policy[:4], policy[4:]
    assert sorted(chain(*first)) == sorted(chain(*second))
    assert len(list(chain(*first))) == 8
    assert first != second
    again = make(epochs=2)
    assert [answers_of(next(again)) for _ in drawn] == [answers_of(batch) for batch in drawn], "from the seed alone"


def test_no_prompt_comes_again_before_all_have_come(make):
    batches = make()
    per_iteration = 2 * batches.micro_batches
    asked = []
    for _ in range(2):
        for _ in range(per_iteration):
            next(batches)
        asked += [answer.prompt for answer in batches._answers]
    assert len(set(asked)) == min(len(asked), len(batches._sampler.asked))


@pytest.mark.parametrize("taken", [0, 4, 8, 12])
def test_a_place_survives_json(make, taken):
    batches, other = make(), make()
    for _ in range(taken):
        next(batches)
    other.load_state_dict(json.loads(json.dumps(batches.state_dict())))
    for _ in range(5):
        mine, theirs = next(batches), next(other)
        assert mine.part == theirs.part
        for name in ("old", "goal"):
            assert torch.equal(getattr(mine, name), getattr(theirs, name)), name
        assert torch.equal(mine.row.tokens, theirs.row.tokens)
    assert batches.facts == pytest.approx(other.facts, nan_ok=True)


def test_tokens_are_counted_by_the_policys_part_alone(make):
    """So that the loop's one division is right for both losses."""
    batches = make()
    loss = PpoLoss(batches._players, ObjectiveConfig(), 1.0)
    policy, critic = (loss(None, next(batches)) for _ in range(2))
    assert policy.count > 0
    assert critic.count == 0
    assert loss.take_extremes() == (1.0, 1.0)
    assert loss.take_extremes() == (math.inf, -math.inf)


def test_the_losses_reach_their_own_adapter_and_no_other_weight(make):
    batches = make()
    loss = PpoLoss(batches._players, ObjectiveConfig(), 1.0)
    model = batches._players.policy.model
    for part, other in (("policy", "critic"), ("critic", "policy")):
        model.zero_grad()
        batch = next(batches)
        assert batch.part == part
        loss(None, batch).total.backward()
        touched = {name for name, x in model.named_parameters() if x.grad is not None and x.grad.any()}
        assert touched
        assert all(f".adapters.{part}." in name or (part == "critic" and "heads.value" in name) for name in touched)
        assert not any(f".adapters.{other}." in name or "reward" in name for name in touched)


def test_the_first_micro_batch_is_not_computed_twice_and_gives_the_same_gradients(make):
    batches = make()
    loss = PpoLoss(batches._players, ObjectiveConfig(), 1.0)
    model = batches._players.policy.model
    set_recompute(model, "full")
    for _ in range(2):
        batch = next(batches)
        assert batch.graph is not None
        found = []
        for one in (replace(batch, graph=None), batch):
            model.zero_grad()
            total = loss(None, one).total
            total.backward()
            found.append([total.item(), *(x.grad.clone() for x in model.parameters() if x.grad is not None)])
        assert found[0][0] == found[1][0]
        assert all(map(torch.equal, found[0][1:], found[1][1:]))
    assert next(batches).graph is None, "nor kept longer than it is needed"


def test_scores_are_normalised_by_the_first_policys_answers_or_by_the_batch(make):
    batches = make()
    next(batches)
    first = batches.first_moments()
    raw = [answer.score for answer in batches._answers]
    assert batches.facts["score"] == pytest.approx(sum(map(first.normalise, raw)) / len(raw))
    whitened = make(normalise="batch")
    next(whitened)
    assert whitened.facts["score"] == pytest.approx(0, abs=1e-9)
    plain = make(normalise="none")
    next(plain)
    assert plain.facts["score"] == pytest.approx(plain.facts["reward"])


def test_values_are_in_the_units_of_the_scores(make):
    batches = make()
    critic = [next(batches) for _ in range(2)][1]
    moments = batches.first_moments()
    assert critic.moments == moments
    assert abs(float(critic.old.mean())) < 20 * moments.deviation + 20


def test_alarms_are_raised_for_what_is_unlike_the_beginning():
    first = {"entropy": 3.0, "eos_share": 0.5, "kl": 0.0, "ratio_least": 1.0, "ratio_greatest": 1.0}
    assert alarms(first, first) == {}
    assert alarms(first | {"ratio_greatest": 50.0}, first).keys() == {"ratio"}
    assert alarms(first | {"entropy": 0.1}, first).keys() == {"entropy"}
    assert alarms(first | {"eos_share": 0.1}, first).keys() == {"eos_share"}
    assert alarms(first | {"kl": -4.0}, first).keys() == {"kl"}


def test_the_policy_that_is_kept_is_the_best_that_has_not_gone_too_far():
    lines = [{"loss": loss, "kl": kl} for loss, kl in ((-9.0, 0.0), (-1.0, 2.0), (-3.0, 5.0), (-8.0, 40.0))]
    assert kept_of(lines, 25.0) == lines[2]
    assert kept_of(lines, None) == lines[3]
    assert kept_of(lines, 1.0) == lines[3], "the last, where all went too far"
    assert kept_of(lines[:1], 25.0) is None


def test_the_preset_is_llama_2s(room):
    from arriero.cli.align_ppo import ppo
    from arriero.cli.parser import parse

    file = next(file for file in shipped_configs() if file.stem == "llama2-ppo")
    config = parse("arriero align ppo", ppo, ["--config", str(file), "--prompts", "p.jsonl", "--reward", "rm"])
    optim = config.optim.resolve("full")
    assert (optim.beta1, optim.beta2, optim.eps, optim.weight_decay, optim.clip) == (0.9, 0.95, 1e-5, 0.1, 1.0)
    assert (optim.lr, config.schedule.factor(0, 400), config.schedule.factor(399, 400)) == (1e-6, 1.0, 1.0)
    assert (config.rollout.batch, config.objective.mini_batch, config.objective.epochs) == (512, 64, 1)
    assert (config.objective.ratio_clip, config.objective.beta, config.method) == (0.2, 0.01, "full")
    assert config.reward.normalise == "batch", "R̃ is whitened"


def test_what_the_paper_does_not_say_is_what_its_forerunners_did():
    objective = ObjectiveConfig()
    assert (objective.discount, objective.decay) == (1.0, 0.95)
    assert (objective.value_clip, objective.value_coefficient) == (0.2, 0.1)
    assert PpoOptimizerConfig().eps == 1e-5
    adaptive = build_controller(ObjectiveConfig(controller="adaptive", beta=0.15))
    assert (adaptive.beta, adaptive.target, adaptive.horizon) == (0.15, 6.0, 10_000)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (lambda: ObjectiveConfig(ratio_clip=1.5), "ratio_clip"),
        (lambda: ObjectiveConfig(controller="adaptive", beta=0.0), "beta"),
        (lambda: ObjectiveConfig(max_kl=0.0), "max_kl"),
        (lambda: IterationsConfig(iterations=0), "iterations"),
        (lambda: IterationsConfig(rows=0), "rows"),
    ],
)
def test_settings_that_cannot_be_are_refused(table, told):
    with pytest.raises(ArrieroError, match=told):
        table()


def test_a_batch_is_a_number_of_mini_batches(room):
    with pytest.raises(ArrieroError, match="mini_batch: expected a divisor"):
        config_for(room / "base", room / "prompts.jsonl", "rule:concise", mini_batch=3)
    assert isinstance(config_for(room / "base", room / "prompts.jsonl", "rule:concise"), PpoConfig)
