"""Rollouts: the policy answers prompts, and the answers are judged (Llama 2, arXiv 2307.09288, section 3.2.3).

Answers are sampled from the whole softmax, each from a seed of its own, and end with the first stop token, which is one
of theirs; nothing of them is edited. A reward model reads the very tokens that the policy was asked with and wrote, at
the one that ends the turn; where an answer has none, because it was too long, one is set behind it for the reward model
alone. Programs judge the text.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from arriero.align.combine import combine
from arriero.align.ppo_config import RolloutConfig
from arriero.align.ppo_models import Players, Role
from arriero.align.prompts import Prompt
from arriero.align.reward_model import RewardModel, encode_dialogue
from arriero.align.scoring import Scorer
from arriero.common.errors import ArrieroError
from arriero.generate.engine import Completion, Engine, Request, SamplingConfig
from arriero.model.adapters import Adapters
from arriero.model.quantised import quantised_to
from arriero.model.transformer import Llama
from arriero.train.parallel import Layout


@dataclass(frozen=True)
class Asked:
    """A prompt, and its tokens up to where the answer begins."""

    prompt: Prompt
    ids: list[int]


@dataclass(frozen=True)
class Answer:
    """What the policy said to a prompt, and what that was worth."""

    prompt: int
    """Its number."""
    ids: list[int]
    """The answer's tokens, the one that ends it included."""
    ended: bool
    """Whether it ends with a stop token, and says something before."""
    score: float
    """The judge's, raw; of two judges what they combine to."""
    watched: list[float]
    """The scores of those that are only looked at."""

    @classmethod
    def read(cls, values: dict[str, Any]) -> "Answer":
        """From a checkpoint's JSON."""
        return cls(**values)


class Sampler:
    """The policy as it is now, answering prompts under the eyes of the judges."""

    def __init__(
        self, players: Players, asked: Sequence[Asked], config: RolloutConfig, layout: Layout, watch: Sequence[Scorer]
    ) -> None:
        self.players, self.asked, self.config, self.layout, self.watch = players, asked, config, layout, watch
        tokenizer = players.loaded.tokenizer
        self._end = encode_dialogue(tokenizer, [{"role": "user", "content": "?"}], "!")[-1]

    def answer(self, numbers: Sequence[int], seeds: Sequence[int]) -> list[Answer]:
        """Answers to the prompts of these numbers, each by its seed; all processes must call together.

        Raises:
            ArrieroError: a judge fails, or gives what is no finite number.
        """
        policy = self.players.policy
        replicas = {id(model): self.layout.replica(model) for model in self._shared}
        model = replicas[id(policy.model)]
        Role(model, policy.adapter).switch_on()
        engine = Engine(
            model,
            self.players.loaded.tokenizer,
            context=self.players.loaded.context,
            max_batch=self.config.decode_rows,
        )
        requests = [self._request(*pair) for pair in zip(numbers, seeds, strict=True)]
        with _merged(model, policy.adapter):
            said = engine.generate(requests)
        scores = [self._ask(_on_replica(judge, replicas), numbers, said) for judge in self.players.judges]
        raw = scores[0]
        if self.players.safety is not None:
            raw = combine(scores[0], scores[1], [self.asked[number].prompt.safety for number in numbers])
        watched = [self._ask(judge, numbers, said) for judge in self.watch]
        return [
            Answer(
                prompt=number,
                ids=list(answer.ids),
                ended=answer.finish_reason == "stop" and bool(answer.text.strip()),
                score=raw[i],
                watched=[column[i] for column in watched],
            )
            for i, (number, answer) in enumerate(zip(numbers, said, strict=True))
        ]

    @property
    def _shared(self) -> list[Llama]:
        """What is trained and needed here: the policy's weights, and those that a reward model shares."""
        policy, critic = self.players.policy.model, self.players.critic.model
        read = {id(judge.model) for judge in self.players.judges if isinstance(judge, RewardModel)}
        return [policy, critic] if critic is not policy and id(critic) in read else [policy]

    def _request(self, number: int, seed: int) -> Request:
        sampling = SamplingConfig(temperature=self.config.temperature, max_tokens=self.config.max_tokens, seed=seed)
        return Request(prompt_ids=self.asked[number].ids, sampling=sampling)

    def _ask(self, judge: Scorer, numbers: Sequence[int], said: Sequence[Completion]) -> list[float]:
        if isinstance(judge, RewardModel):
            rows = [
                [*self.asked[number].ids, *answer.ids, *([] if answer.finish_reason == "stop" else [self._end])]
                for number, answer in zip(numbers, said, strict=True)
            ]
            return judge.score_ids(rows)
        prompts = [self.asked[number].prompt.messages for number in numbers]
        scores = judge.score(prompts, [answer.text for answer in said])
        if len(scores) != len(said) or not all(map(math.isfinite, scores)):
            raise ArrieroError(f"{judge.name}: expected {len(said)} finite scores, got {scores}")
        return scores


@contextmanager
def _merged(model: Llama, adapter: str | None) -> Iterator[None]:
    """Inside, an adapter is part of the weights, so that no token takes longer for it; not where that would round.

    What is learnt of the answers is computed of the adapter itself, as its weights are again.
    """
    if adapter is None or model.tok_embeddings.weight.dtype != torch.float32 or quantised_to(model) != "none":
        yield
        return
    adapters = Adapters.of(model)
    adapters.merge(adapter)
    try:
        yield
    finally:
        adapters.unmerge()


def _on_replica(judge: Scorer, replicas: dict[int, Llama]) -> Scorer:
    """A reward model that shares weights with what is being trained reads them from the replica."""
    if isinstance(judge, RewardModel) and id(judge.model) in replicas:
        return dataclasses.replace(judge, model=replicas[id(judge.model)])
    return judge
