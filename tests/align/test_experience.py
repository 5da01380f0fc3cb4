"""From judged answers to lessons, against sums by hand."""

import math

import pytest
import torch

from arriero.align.experience import Look, Moments, explained, facts_of, final_scores, lessons
from arriero.align.ppo_config import ObjectiveConfig
from arriero.align.rollout import Answer

SHORT = Look(logprobs=[-1.0, -2.0], reference=[-1.5, -1.0], entropies=[1.0, 3.0], values=[0.5, 0.25])
LONG = Look(logprobs=[-0.5] * 3, reference=[-0.5] * 3, entropies=[2.0] * 3, values=[0.0] * 3)


def answer(score: float, ended: bool = True) -> Answer:
    return Answer(prompt=0, ids=[1, 2], ended=ended, score=score, watched=[2 * score])


def test_the_score_comes_with_the_last_token_and_every_token_pays_for_its_divergence():
    config = ObjectiveConfig(decay=1.0)
    taught = lessons([2.0, -1.0], [SHORT, LONG], config, beta=0.1)
    first, second = -0.1 * 0.5, -0.1 * -1.0 + 2.0
    assert taught[0].returns == pytest.approx([first + second, second])
    assert taught[1].returns == pytest.approx([-1.0] * 3)
    raw = torch.tensor([first + second - 0.5, second - 0.25, -1.0, -1.0, -1.0], dtype=torch.float64)
    expected = ((raw - raw.mean()) / raw.std(unbiased=False)).tolist()
    assert [x for lesson in taught for x in lesson.advantages] == pytest.approx(expected, abs=1e-6)
    assert taught[0].logprobs == SHORT.logprobs
    assert taught[0].values == SHORT.values


def test_returns_are_made_of_the_old_values():
    taught = lessons([1.0, 1.0], [SHORT, LONG], ObjectiveConfig(decay=0.0), beta=0.0)
    assert taught[0].returns == pytest.approx([0.25, 1.0]), "with λ 0 the next value, and the score at the end"


def test_whitened_rewards_keep_their_mean():
    config = ObjectiveConfig(decay=1.0, whiten_rewards=True)
    taught = lessons([2.0, -1.0], [SHORT, LONG], config, beta=0.0)
    rewards = torch.tensor([0.0, 2.0, 0.0, 0.0, -1.0], dtype=torch.float64)
    mean, deviation = float(rewards.mean()), float(rewards.std(unbiased=False))
    scaled = [(x - mean) / deviation + mean for x in rewards.tolist()]
    assert taught[0].returns == pytest.approx([scaled[0] + scaled[1], scaled[1]], abs=1e-5)


def test_an_answer_without_an_end_gets_a_fixed_score_if_there_is_one():
    answers = [answer(3.0), answer(5.0, ended=False)]
    assert final_scores(answers, Moments(1.0, 2.0), -1.0) == [1.0, -1.0]
    assert final_scores(answers, Moments(1.0, 2.0), None) == [1.0, 2.0]


def test_normalised_scores_of_the_first_policy_have_mean_0():
    moments = Moments.of([1.0, 3.0, 8.0])
    scores = [moments.normalise(score) for score in (1.0, 3.0, 8.0)]
    assert sum(scores) == pytest.approx(0)
    assert sum(score**2 for score in scores) / 3 == pytest.approx(1)
    assert Moments.of([4.0, 4.0]).normalise(4.0) == 0


def test_the_facts_by_hand():
    facts = facts_of([answer(1.0), answer(3.0, ended=False)], [0.0, 1.0], [SHORT, LONG], ["rule:x"])
    assert facts["reward"] == 2
    assert facts["reward_deviation"] == 1
    assert facts["score"] == 0.5
    assert facts["kl"] == pytest.approx((0.5 - 1.0) / 2)
    assert facts["kl2"] == pytest.approx((0.125 + 0.5) / 2)
    assert facts["kl3"] == pytest.approx((math.exp(-0.5) - 0.5 + math.exp(1.0) - 2.0) / 2)
    assert facts["entropy"] == pytest.approx(10 / 5)
    assert facts["length"] == 2.5
    assert facts["eos_share"] == 0.5
    assert facts["watch/rule:x"] == 4


def test_explained_variance_is_of_the_values_before():
    taught = lessons([1.0, 1.0], [SHORT, LONG], ObjectiveConfig(), beta=0.0)
    returns = torch.tensor([x for lesson in taught for x in lesson.returns])
    values = torch.tensor([x for lesson in taught for x in lesson.values])
    expected = 1 - float((returns - values).var(unbiased=False) / returns.var(unbiased=False))
    assert explained(taught) == pytest.approx(expected, rel=1e-4)
