"""PPO's micro-batches: when the last answers are used up, the policy as it is now gives new ones.

An iteration is a batch of answers, learnt from in mini-batches (a step of the optimizer each), for some epochs, each in
an order of its own. A mini-batch is computed in micro-batches, and of each first what the policy learns, then what the
critic does, so that the activations of one model are in memory at a time. All processes know all answers, and each
computes its share; so a run goes on from a checkpoint in the middle of an iteration, on any number of processes.

M tokens of the answers of a micro-batch.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from arriero.align.experience import (
    Graph,
    Lesson,
    Look,
    Moments,
    explained,
    facts_of,
    final_scores,
    lessons,
    look_at,
)
from arriero.align.kl import AdaptiveBeta, Controller, FixedBeta
from arriero.align.logprobs import AnswerRow, lay_answers
from arriero.align.ppo_config import ObjectiveConfig, PpoConfig
from arriero.align.rollout import Answer, Sampler
from arriero.common.errors import ArrieroError
from arriero.common.seeds import seed_of
from arriero.train.permutation import Permutation

_FIRST_ANSWERS = 64
"""Of the first policy, that scores are normalised by."""
PARTS: tuple[Literal["policy", "critic"], ...] = ("policy", "critic")


@dataclass(frozen=True, eq=False)
class PpoBatch:
    """A micro-batch, for one of the two."""

    part: Literal["policy", "critic"]
    row: AnswerRow
    old: Tensor
    """(M,) the policy's log-probabilities, or the critic's values, when the answers were sampled."""
    goal: Tensor
    """(M,) advantages, or returns."""
    moments: Moments
    """By which the critic's values are normalised."""
    graph: Graph | None
    """What was computed already."""


class PpoBatches:
    """An endless iterator of micro-batches."""

    def __init__(self, config: PpoConfig, sampler: Sampler, rows: int) -> None:
        """Begin at the first iteration.

        Args:
            config: of the run.
            sampler: answers prompts with the policy.
            rows: answers of a micro-batch, on this process, on average.
        """
        self._config, self._sampler, self._rows = config, sampler, rows
        self._players, self._layout = sampler.players, sampler.layout
        self.controller = build_controller(config.objective)
        self.moments: Moments | None = None
        """What `first_moments` found."""
        self.facts: dict[str, float] = {}
        """Of the iteration's answers."""
        self.first_facts: dict[str, float] = {}
        """Of the first iteration's."""
        self._iteration = 0  # begun ones
        self._place = self._length
        self._answers: list[Answer] = []
        self._lessons: list[Lesson] = []
        self._graph: Graph | None = None
        """Of the iteration's first micro-batch, until both parts have learnt from it."""

    @property
    def micro_batches(self) -> int:
        """Of a step, on this process, the policy's and the critic's counted alone."""
        own = self._config.objective.mini_batch // self._layout.data_world
        return len(PARTS) * (own // self._rows)

    @property
    def _length(self) -> int:
        """Micro-batches of an iteration."""
        return self._config.steps_per_iteration * self.micro_batches

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> PpoBatch:
        """This process's next micro-batch."""
        if self._place == self._length:
            self._begin_iteration()
        step, number = divmod(self._place, self.micro_batches)
        hand, part = divmod(number, len(PARTS))
        self._place += 1
        graph = self._graph
        if self._place >= len(PARTS):
            self._graph = None
        return self._lay_out(self._hands(step)[hand], PARTS[part], graph)

    def state_dict(self) -> dict[str, Any]:
        """Where it is, and all that the rest of the iteration needs; the same on every process."""
        return {
            "fingerprint": self._fingerprint,
            "iteration": self._iteration,
            "step": self._place // self.micro_batches,
            "controller": self.controller.state_dict(),
            "moments": None if self.moments is None else dataclasses.asdict(self.moments),
            "facts": self.facts,
            "first_facts": self.first_facts,
            "answers": [dataclasses.asdict(answer) for answer in self._answers],
            "lessons": [dataclasses.asdict(lesson) for lesson in self._lessons],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at a saved position, between two steps.

        Raises:
            ArrieroError: it is one of other prompts, or of iterations of another size.
        """
        if state["fingerprint"] != self._fingerprint:
            raise ArrieroError("resume: the prompts, the batch or the seed changed; choose another folder")
        self._iteration, self._place = state["iteration"], state["step"] * self.micro_batches
        self.controller.load_state_dict(state["controller"])
        self.moments = None if state["moments"] is None else Moments(**state["moments"])
        self.facts, self.first_facts = state["facts"], state["first_facts"]
        self._answers = [Answer.read(values) for values in state["answers"]]
        self._lessons = [Lesson.read(values) for values in state["lessons"]]

    @property
    def _fingerprint(self) -> int:
        config = self._config
        sizes = config.rollout.batch, config.objective.mini_batch, config.objective.epochs, config.seed
        return seed_of(*sizes, [asked.ids for asked in self._sampler.asked])

    def _begin_iteration(self) -> None:
        """New answers, and what is to be learnt of them."""
        config, objective = self._config, self._config.objective
        first = self.first_moments()
        self._iteration += 1
        self._place = 0
        self._answers = self._sample(config.rollout.batch, self._iteration)
        raw = [answer.score for answer in self._answers]
        moments = Moments.of(raw) if config.reward.normalise == "batch" else first
        scores = final_scores(self._answers, moments, config.reward.missing_score)
        looks = self._look()
        self._lessons = lessons(scores, looks, objective, self.controller.beta)
        watched = [judge.name for judge in self._sampler.watch]
        self.facts = {
            **facts_of(self._answers, scores, looks, watched),
            "explained_variance": explained(self._lessons),
            "beta": self.controller.beta,
            "iteration": self._iteration,
        }
        self.first_facts = self.first_facts or self.facts
        self.controller.update(self.facts["kl"], len(self._answers))

    def first_moments(self) -> Moments:
        """Of the scores of the first policy's answers to some prompts; all processes must call together.

        Without normalisation those that change nothing.
        """
        if self.moments is None:
            if self._config.reward.normalise == "none":
                self.moments = Moments()
            else:
                first = self._sample(_FIRST_ANSWERS, "first")
                self.moments = Moments.of([answer.score for answer in first])
        return self.moments

    @property
    def _value_moments(self) -> Moments:
        """By which the critic's values are normalised: as the first scores were, where it began as the reward model."""
        return self.first_moments() if self._players.values_are_scores else Moments()

    def _sample(self, count: int, purpose: object) -> list[Answer]:
        """So many answers, of all processes together, in the order of their prompts."""
        rank, world = self._layout.data_rank, self._layout.data_world
        own = range(rank * count // world, (rank + 1) * count // world)
        begun = max(self._iteration - 1, 0) * count
        numbers = [self._prompt(begun + place) for place in own]
        seeds = [seed_of(self._config.seed, purpose, place) for place in own]
        return [answer for part in self._layout.gather(self._sampler.answer(numbers, seeds)) for answer in part]

    def _prompt(self, place: int) -> int:
        """Which prompt is asked at a place of the run: each once before any comes again."""
        count = len(self._sampler.asked)
        epoch, place = divmod(place, count)
        return int(Permutation(count, f"{self._config.seed}/prompts/{epoch}").at(np.array([place]))[0])

    def _look(self) -> list[Look]:
        """What the players make of the answers, in the micro-batches of the first epoch."""
        steps = self._config.steps_per_iteration // self._config.objective.epochs
        own, self._graph = look_at(
            self._players,
            self._sampler.asked,
            self._answers,
            [hand for step in range(steps) for hand in self._hands(step)],
            self._config.rollout.temperature,
            self._value_moments,
            keep_first=self._layout.plain,  # sharded weights go between a forward pass and its backward pass
        )
        every = {number: look for part in self._layout.gather(own) for number, look in part.items()}
        return [every[number] for number in range(len(self._answers))]

    def _hands(self, step: int) -> list[list[int]]:
        """Numbers of the answers of a step's micro-batches on this process, about as many tokens in each."""
        batch, size = self._config.rollout.batch, self._config.objective.mini_batch
        epoch, number = divmod(step, batch // size)
        order = Permutation(batch, f"{self._config.seed}/answers/{self._iteration}/{epoch}").at(np.arange(batch))
        own = size // self._layout.data_world
        first = number * size + self._layout.data_rank * own
        hands: list[list[int]] = [[] for _ in range(own // self._rows)]
        for i in sorted(order[first : first + own].tolist(), key=self._tokens, reverse=True):
            min(hands, key=lambda hand: sum(map(self._tokens, hand))).append(i)
        return hands

    def _tokens(self, number: int) -> int:
        answer = self._answers[number]
        return len(self._sampler.asked[answer.prompt].ids) + len(answer.ids)

    def _lay_out(self, hand: Sequence[int], part: Literal["policy", "critic"], graph: Graph | None) -> PpoBatch:
        answers, taught = [self._answers[i] for i in hand], [self._lessons[i] for i in hand]
        row = lay_answers([self._sampler.asked[answer.prompt].ids for answer in answers], [x.ids for x in answers])
        if part == "policy":
            columns = [(lesson.logprobs, lesson.advantages) for lesson in taught]
        else:
            columns = [(lesson.values, lesson.returns) for lesson in taught]
        old, goal = (torch.tensor([x for column in some for x in column]) for some in zip(*columns, strict=True))
        device = self._layout.device
        return PpoBatch(part, row.to(device), old.to(device), goal.to(device), self._value_moments, graph)


def build_controller(config: ObjectiveConfig) -> Controller:
    """Who sets β, as the settings say."""
    if config.controller == "adaptive":
        return AdaptiveBeta(config.beta, target=config.target_kl, horizon=config.horizon)
    return FixedBeta(config.beta)
