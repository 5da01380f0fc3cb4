"""What is seen of a PPO run while it goes on: held-out prompts, the numbers of each step, alarms.

Reward and divergence are told together: a reward that rises while the policy runs away is the reward model's error.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from arriero.align.experience import Moments, facts_of, final_scores, look_at
from arriero.align.ppo_batches import PpoBatches
from arriero.align.ppo_step import PpoLoss
from arriero.align.rollout import Sampler
from arriero.common.seeds import seed_of
from arriero.train.carbon import EnergyMeter
from arriero.train.loop import StepResult
from arriero.train.run_log import RunLog
from arriero.train.watch import Pace, RunWatcher

_GREATEST_RATIO = 10.0
"""Or its inverse: beyond, a step went too far."""
_LEAST_SHARE = 0.5
"""Of the first entropy: below, the policy says but one thing."""
_GREATEST_FALL = 0.25
"""Of the share of answers that end."""


class PpoWatcher(RunWatcher):
    """The loop's watcher, with what PPO has to say."""

    def __init__(
        self,
        log: RunLog | None,
        pace: Pace,
        *,
        meter: EnergyMeter | None,
        batches: PpoBatches,
        loss: PpoLoss,
        gather: Callable[[tuple[float, float]], list[tuple[float, float]]],
        max_kl: float | None,
        validate: Callable[[], dict[str, Any]] | None,
        sample: Callable[[], Sequence[tuple[str, str]]] | None,
    ) -> None:
        """Watch a run.

        Args:
            batches: tell of the iteration's answers.
            loss: tells of the ratios.
            gather: what all processes have.
            max_kl: nats an answer beyond which a policy is not the best one, whatever its reward.
        """
        super().__init__(log, pace, meter=meter, validate=validate, sample=sample)
        self.batches, self.loss, self.gather, self.max_kl = batches, loss, gather, max_kl
        self._raised: set[str] = set()

    def on_step(self, result: StepResult) -> None:
        """The step's line, with the facts of its iteration."""
        extremes = self.gather(self.loss.take_extremes())
        least, greatest = min(low for low, _ in extremes), max(high for _, high in extremes)
        told = {**result.metrics, **self.batches.facts, "ratio_least": least, "ratio_greatest": greatest}
        super().on_step(replace(result, metrics=told))
        found = alarms(told, self.batches.first_facts)
        for kind in found.keys() - self._raised:
            self.on_event(result.step, "alarm", found[kind])
        self._raised = set(found)

    def on_validation(self, step: int) -> float | None:
        """Answer the held-out prompts; what the loop is to lower is the negative reward."""
        numbers = self.validate() if self.validate is not None else None
        spoken = self.sample() if self.sample is not None else ()
        if self.log is not None:
            if numbers is not None:
                self.log.write("validation", step, **numbers)
                self._say(_in_words(step, numbers))
            for prompt, text in spoken:
                self.log.write("sample", step, prompt=prompt, text=text)
        if numbers is None:
            return None
        return math.inf if _too_far(numbers, self.max_kl) else float(numbers["loss"])


def alarms(told: Mapping[str, float], first: Mapping[str, float]) -> dict[str, str]:
    """What gives cause for concern, by kind.

    Args:
        told: of a step and its iteration.
        first: of the first iteration.
    """
    found = {}
    least, greatest = told["ratio_least"], told["ratio_greatest"]
    if greatest > _GREATEST_RATIO or least < 1 / _GREATEST_RATIO:
        found["ratio"] = f"a step too far: ratios from {least:.2g} to {greatest:.2g}; lower --lr"
    if told["entropy"] < _LEAST_SHARE * first["entropy"]:
        found["entropy"] = f"the policy's entropy fell from {first['entropy']:.2g} to {told['entropy']:.2g} nats"
    if told["eos_share"] < first["eos_share"] - _GREATEST_FALL:
        found["eos_share"] = f"{told['eos_share']:.0%} of the answers end, {first['eos_share']:.0%} did"
    if told["kl"] < -1:
        found["kl"] = f"a divergence of {told['kl']:.2g} nats: the policy is not what answers were sampled from"
    return found


def kept_of(validations: Sequence[Mapping[str, Any]], max_kl: float | None) -> Mapping[str, Any] | None:
    """The validation of the policy that a run kept: the lowest loss among those that had not gone too far, or the last.

    Args:
        validations: the diary's, the first one of what the policy was before.
        max_kl: of the run.
    """
    after = validations[1:]
    allowed = [line for line in after if not _too_far(line, max_kl)]
    return min(allowed, key=lambda line: float(line["loss"])) if allowed else next(reversed(after), None)


def _too_far(numbers: Mapping[str, Any], max_kl: float | None) -> bool:
    return max_kl is not None and float(numbers["kl"]) > max_kl


def measure(sampler: Sampler, rows: int, moments: Callable[[], Moments], missing: float | None) -> dict[str, Any]:
    """The facts of one answer to each held-out prompt, always from the same seeds.

    Args:
        sampler: of the held-out prompts.
        rows: answers that are computed at a time.
        moments: of the first policy's scores.
        missing: normalised score of answers without an end.
    """
    layout, count = sampler.layout, len(sampler.asked)
    each = -(-count // layout.data_world)
    own = [(layout.data_rank * each + i) % count for i in range(each)]  # as many on every process
    answers = sampler.answer(own, [seed_of("held out", number) for number in own])
    hands = [list(range(each))[i : i + rows] for i in range(0, each, rows)]
    looks, _ = look_at(sampler.players, sampler.asked, answers, hands, sampler.config.temperature, Moments())
    gathered = layout.gather([(answers[i], looks[i]) for i in range(each)])
    pairs = [pair for part in gathered for pair in part][:count]
    answered = [answer for answer, _ in pairs]
    scores = final_scores(answered, moments(), missing)
    watched = [judge.name for judge in sampler.watch]
    facts = facts_of(answered, scores, [look for _, look in pairs], watched)
    listed = {"scores": [answer.score for answer in answered], "lengths": [len(answer.ids) for answer in answered]}
    return {"loss": -facts["score"], **facts, **listed}


def _in_words(step: int, numbers: Mapping[str, Any]) -> str:
    watched = "".join(
        f", {name.removeprefix('watch/')} {value:.3g}" for name, value in numbers.items() if name.startswith("watch/")
    )
    return (
        f"step {step}: held-out reward {numbers['reward']:.3f}{watched}, KL {numbers['kl']:.2f} nats, "
        f"{numbers['length']:.0f} tokens, {numbers['eos_share']:.0%} end"
    )
