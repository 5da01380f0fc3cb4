"""The loss of one of PPO's micro-batches, and what there is to see of a step (PPO, arXiv 1707.06347)."""

import math

from arriero.align.logprobs import answer_logprobs, answer_values
from arriero.align.ppo_batches import PpoBatch
from arriero.align.ppo_config import ObjectiveConfig
from arriero.align.ppo_loss import policy_loss, value_loss
from arriero.align.ppo_models import ActorCritic, Players
from arriero.model.heads import VALUE
from arriero.train.loop import Loss


class PpoLoss:
    """The loop's loss function; it also keeps the extremes of the ratios, which are no sums."""

    def __init__(self, players: Players, config: ObjectiveConfig, temperature: float) -> None:
        self._players, self._config, self._temperature = players, config, temperature
        self._least, self._greatest = math.inf, -math.inf

    def __call__(self, model: ActorCritic, batch: PpoBatch) -> Loss:
        """Sums over the tokens of the answers, which the policy's part alone counts."""
        return self._policy_part(batch) if batch.part == "policy" else self._critic_part(batch)

    def take_extremes(self) -> tuple[float, float]:
        """The least and the greatest ratio since this was last asked."""
        extremes = self._least, self._greatest
        self._least, self._greatest = math.inf, -math.inf
        return extremes

    def _policy_part(self, batch: PpoBatch) -> Loss:
        policy, graph = self._players.policy, batch.graph
        if graph is None:
            logprobs, entropies = policy.compute(answer_logprobs, batch.row, self._temperature)  # (M,), (M,)
        else:
            policy.switch_on()  # the backward pass may compute again
            logprobs, entropies = graph.logprobs, graph.entropies
        loss = policy_loss(logprobs, batch.old, batch.goal, self._config.ratio_clip)
        self._least = min(self._least, float(loss.ratios.min()))
        self._greatest = max(self._greatest, float(loss.ratios.max()))
        metrics = {
            "policy_loss": loss.total,
            "clip_share": loss.clipped.sum(),
            "entropy": entropies.sum(),
            "step_kl": (loss.ratios - 1 - loss.ratios.log()).sum(),  # k3 of the policy that sampled
        }
        return Loss(loss.total, len(batch.goal), metrics)

    def _critic_part(self, batch: PpoBatch) -> Loss:
        critic, graph = self._players.critic, batch.graph
        if graph is None:
            raw = critic.compute(answer_values, batch.row, VALUE)  # (M,)
        else:
            critic.switch_on()
            raw = graph.values
        values = batch.moments.normalise(raw)
        loss = value_loss(values, batch.old, batch.goal, self._config.value_clip)
        metrics = {"value_loss": loss.total, "value_clip_share": loss.clipped.sum()}
        return Loss(self._config.value_coefficient * loss.total, 0, metrics)
