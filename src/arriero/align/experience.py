"""From judged answers to what is learnt of them: rewards of tokens, advantages, returns (PPO, arXiv 1707.06347).

A answers, N tokens of one of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from arriero.align.advantages import explained_variance, gae, whiten
from arriero.align.kl import divergence, token_rewards
from arriero.align.logprobs import answer_logprobs, answer_values, lay_answers
from arriero.align.ppo_config import ObjectiveConfig
from arriero.align.ppo_models import Players
from arriero.align.rollout import Answer, Asked
from arriero.model.heads import VALUE

_Score = TypeVar("_Score", float, Tensor)


@dataclass(frozen=True)
class Look:
    """What the players made of an answer when it was sampled; each of its N tokens."""

    logprobs: list[float]
    """Of the policy."""
    reference: list[float]
    """The log-probabilities of what the policy began as."""
    entropies: list[float]
    values: list[float]
    """Of the critic, normalised as scores are."""


@dataclass(frozen=True)
class Lesson:
    """What is learnt of an answer, at each of its N tokens."""

    logprobs: list[float]
    """The policy's, old."""
    advantages: list[float]
    values: list[float]
    """The critic's, old."""
    returns: list[float]

    @classmethod
    def read(cls, values: dict[str, Any]) -> "Lesson":
        """From a checkpoint's JSON."""
        return cls(**values)


@dataclass(frozen=True)
class Moments:
    """Mean and deviation of scores."""

    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, scores: Sequence[float]) -> "Moments":
        """Of some scores, the biased deviation; equal ones are only shifted."""
        values = torch.tensor(scores, dtype=torch.float64)
        deviation = float(values.std(unbiased=False))
        return cls(float(values.mean()), deviation if deviation > 1e-6 else 1.0)

    def normalise(self, score: _Score) -> _Score:
        """How many deviations above the mean."""
        return (score - self.mean) / self.deviation


@dataclass(frozen=True, eq=False)
class Graph:
    """What policy and critic made of a micro-batch of M tokens, with all that a backward pass needs."""

    logprobs: Tensor
    """(M,) of the policy."""
    entropies: Tensor
    """(M,)."""
    values: Tensor
    """(M,) of the critic, raw."""


def look_at(
    players: Players,
    asked: Sequence[Asked],
    answers: Sequence[Answer],
    hands: Sequence[Sequence[int]],
    temperature: float,
    moments: Moments,
    *,
    keep_first: bool = False,
) -> tuple[dict[int, Look], Graph | None]:
    """What the players make of some answers, by their numbers; computed as in training, so that equal is equal.

    Args:
        asked: all prompts.
        answers: all answers.
        hands: numbers of the answers that are computed together.
        temperature: of the sampler.
        moments: by which values are normalised.
        keep_first: keep the first hand's graph, for whoever learns from that before any step: a forward pass less.
    """
    looks, graph = {}, None
    for number, hand in enumerate(hands):
        row = lay_answers([asked[answers[i].prompt].ids for i in hand], [answers[i].ids for i in hand])
        row = row.to(players.policy.model.tok_embeddings.weight.device)
        with torch.set_grad_enabled(keep_first and number == 0):
            logprobs, entropies = players.policy.compute(answer_logprobs, row, temperature)  # (M,), (M,)
            raw = players.critic.compute(answer_values, row, VALUE)  # (M,)
        with torch.no_grad():
            reference, _ = players.reference.compute(answer_logprobs, row, temperature)  # (M,)
        if keep_first and number == 0:
            graph = Graph(logprobs, entropies, raw)
        lengths = [len(answers[i].ids) for i in hand]
        columns = (logprobs.detach(), reference, entropies, moments.normalise(raw.detach()))
        parts = (torch.split(column.cpu(), lengths) for column in columns)
        for i, *own in zip(hand, *parts, strict=True):
            looks[i] = Look(*(column.tolist() for column in own))
    return looks, graph


def final_scores(answers: Sequence[Answer], moments: Moments, missing: float | None) -> list[float]:
    """Normalised scores; answers that are empty or have no end get a fixed one, if there is one."""
    return [moments.normalise(answer.score) if answer.ended or missing is None else missing for answer in answers]


def lessons(scores: Sequence[float], looks: Sequence[Look], config: ObjectiveConfig, beta: float) -> list[Lesson]:
    """Rewards by token, then advantages, whitened over the tokens of all answers, and returns.

    Args:
        scores: (A,) final ones.
        looks: (A,) of the same answers.
        config: γ, λ and whether rewards are whitened.
        beta: price of a nat of divergence.
    """
    lengths = [len(look.logprobs) for look in looks]
    rows = [
        token_rewards(_doubles(look.logprobs) - _doubles(look.reference), score, beta)
        for score, look in zip(scores, looks, strict=True)
    ]
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]  # (A, longest)
    rewards = pad_sequence(rows, batch_first=True)  # (A, longest)
    values = pad_sequence([_doubles(look.values) for look in looks], batch_first=True)  # (A, longest)
    if config.whiten_rewards:
        rewards = whiten(rewards, mask, shift=False)
    advantages, returns = gae(rewards, values, mask, discount=config.discount, decay=config.decay)
    advantages = whiten(advantages, mask)
    return [
        Lesson(
            logprobs=look.logprobs,
            advantages=advantages[i, :length].tolist(),
            values=look.values,
            returns=returns[i, :length].tolist(),
        )
        for i, (look, length) in enumerate(zip(looks, lengths, strict=True))
    ]


def facts_of(
    answers: Sequence[Answer], scores: Sequence[float], looks: Sequence[Look], watched: Sequence[str]
) -> dict[str, float]:
    """What there is to say of an iteration's answers.

    `reward` is the judge's raw score, `score` the normalised one; `kl`, `kl2` and `kl3` are estimates of the divergence
    in nats an answer; `entropy` is in nats a token; `length` counts tokens.
    """
    count = len(answers)
    found = [divergence(_doubles(look.logprobs), _doubles(look.reference)) for look in looks]
    tokens = sum(len(look.logprobs) for look in looks)
    facts = {
        "reward": sum(answer.score for answer in answers) / count,
        "reward_deviation": Moments.of([answer.score for answer in answers]).deviation,
        "score": sum(scores) / count,
        "kl": float(sum(one.k1.sum() for one in found)) / count,
        "kl2": float(sum(one.k2.sum() for one in found)) / count,
        "kl3": float(sum(one.k3.sum() for one in found)) / count,
        "entropy": math.fsum(x for look in looks for x in look.entropies) / tokens,
        "length": tokens / count,
        "eos_share": sum(answer.ended for answer in answers) / count,
    }
    for i, name in enumerate(watched):
        facts[f"watch/{name}"] = sum(answer.watched[i] for answer in answers) / count
    return facts


def explained(taught: Sequence[Lesson]) -> float:
    """How much of the returns' variance the critic knew before; NaN where they do not vary."""
    values = _doubles([x for lesson in taught for x in lesson.values])
    return explained_variance(values, _doubles([x for lesson in taught for x in lesson.returns]))


def _doubles(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
