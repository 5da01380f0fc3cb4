"""Who takes part in PPO: policy, reference, critic and reward, over as few weights in memory as can be.

With LoRA all four are one Llama: the policy and the critic are adapters in training, the reward model is one at rest,
and the reference is what the policy began as: the base itself, or the adapter of fine-tuning. The critic begins as a
copy of the reward model (Llama 2, arXiv 2307.09288, does not say; so did InstructGPT, arXiv 2203.02155). A reward model
over other weights is a Llama of its own, and the critic an adapter over that. With all weights in training each of the
four is a Llama.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from arriero.align.ppo_config import PpoConfig
from arriero.align.reward_model import RewardModel, load_reward_model, same_words
from arriero.align.scoring import Scorer, load_scorer
from arriero.common.errors import ArrieroError
from arriero.model.adapters import Adapters
from arriero.model.config import LlamaConfig
from arriero.model.heads import VALUE, add_head, head_of
from arriero.model.lora import LowRank
from arriero.model.lora_config import LoraConfig
from arriero.model.source import LoadedModel, is_adapter, load_model
from arriero.model.transformer import Llama

POLICY, CRITIC, REWARD, SAFETY = "policy", "critic", "reward", "safety"
"""Names of adapters, and of the rewards' heads."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class Role:
    """A model as one of the four sees it."""

    model: Llama
    adapter: str | None = None
    """The one that is on; None: none."""

    def switch_on(self) -> None:
        """Have the model be this role, until another one is switched on."""
        if self.model.adapters is not None:
            Adapters.of(self.model).activate(self.adapter)

    def compute(self, function: Callable[..., _T], *args: Any) -> _T:
        """`function(model, …)` in this role, in which the model stays: a backward pass may compute again."""
        self.switch_on()
        return self.model.compute(function, *args)


class ActorCritic(nn.Module):
    """What learns: policy and critic, which may be two adapters of one Llama."""

    def __init__(self, policy: Llama, critic: Llama) -> None:
        super().__init__()
        self.policy, self.critic = policy, critic

    @property
    def config(self) -> LlamaConfig:
        """The policy's shape."""
        return self.policy.config

    @property
    def n_params(self) -> int:
        """The policy's parameters, without adapters and heads."""
        return self.policy.n_params


@dataclass(frozen=True)
class Players:
    """All that take part, before they are laid out over processes."""

    loaded: LoadedModel
    """What the policy began as, with its tokenizer."""
    policy: Role
    reference: Role
    critic: Role
    reward: Scorer
    safety: Scorer | None

    @property
    def judges(self) -> list[Scorer]:
        """Reward, and safety if there is one."""
        return [self.reward] if self.safety is None else [self.reward, self.safety]

    @property
    def learners(self) -> ActorCritic:
        """What is to be trained."""
        return ActorCritic(self.policy.model, self.critic.model)

    @property
    def values_are_scores(self) -> bool:
        """Whether the critic began as the reward model, whose scores its values are."""
        return isinstance(self.reward, RewardModel)

    @property
    def models(self) -> list[Llama]:
        """Every Llama that is in memory, once."""
        found = [self.policy.model, self.reference.model, self.critic.model]
        found += [judge.model for judge in self.judges if isinstance(judge, RewardModel)]
        return list({id(model): model for model in found}.values())


def build_players(config: PpoConfig) -> Players:
    """Load whom the settings name.

    Raises:
        ArrieroError: a reward model gives no scores, or reads other tokens than the policy writes.
    """
    players = _share_weights(config) if config.method == "lora" else _separate_weights(config)
    for model in players.models:
        _stop_dropout(model)
    return players


def load_policy(config: PpoConfig) -> LoadedModel:
    """The policy as it begins, an adapter that is on and in training; the base is frozen.

    Raises:
        ArrieroError: it begins as an adapter, and another shape was asked for.
    """
    loaded = load_model(config.model, device="cpu", dtype="float32")
    adapters = Adapters.of(loaded.model)
    if adapters.active is None:
        adapters.add(POLICY, config.lora, seed=config.seed)
    else:
        if config.lora != LoraConfig():
            raise ArrieroError(f"the policy begins as the adapter {config.model}, and keeps its rank and targets")
        copy_adapter(loaded.model, adapters.active, POLICY)
        adapters.activate(POLICY)
    loaded.model.requires_grad_(False)
    _let_learn(loaded.model, POLICY)
    return loaded


def copy_adapter(model: Llama, name: str, copied: str) -> None:
    """A second adapter, equal to one of the model's."""
    adapters = Adapters.of(model)
    changes = {module: copy.deepcopy(change) for module, change in adapters.changes(name).items()}
    adapters.insert(copied, replace(adapters.configs[name], dropout=0.0), changes)


def _share_weights(config: PpoConfig) -> Players:
    loaded = load_policy(config)
    model = loaded.model
    before = next((name for name in Adapters.of(model).configs if name != POLICY), None)
    reward = _load_judge(config.reward.reward, loaded, REWARD, over=loaded)
    safety = _load_judge(config.reward.safety, loaded, SAFETY, over=loaded) if config.reward.safety else None
    host = reward.model if isinstance(reward, RewardModel) else model
    if isinstance(reward, RewardModel) and reward.adapter is not None:
        copy_adapter(host, reward.adapter, CRITIC)
    else:
        Adapters.of(host).add(CRITIC, config.lora, seed=config.seed + 1)
    for llama in {id(llama): llama for llama in (model, host)}.values():
        llama.requires_grad_(False)
    _let_learn(model, POLICY)
    _let_learn(host, CRITIC)
    _add_value_head(host, reward)
    return Players(loaded, Role(model, POLICY), Role(model, before), Role(host, CRITIC), reward, safety)


def _separate_weights(config: PpoConfig) -> Players:
    if is_adapter(Path(config.model).expanduser()):
        raise ArrieroError(
            f"method full: expected a model of its own, got the adapter {config.model}: merge it with "
            "`arriero adapter merge` first"
        )
    loaded, reference = (load_model(config.model, device="cpu", dtype="float32") for _ in range(2))
    reward = _load_judge(config.reward.reward, loaded, REWARD)
    safety = _load_judge(config.reward.safety, loaded, SAFETY) if config.reward.safety else None
    if isinstance(reward, RewardModel):
        critic = load_reward_model(config.reward.reward, device="cpu").model.float()
        if critic.adapters is not None:
            adapters = Adapters.of(critic)
            for name in list(adapters.configs):
                adapters.absorb(name)
    else:
        critic = load_model(config.model, device="cpu", dtype="float32").model
    _add_value_head(critic, reward)
    for name in [name for name in critic.heads if name != VALUE]:
        del critic.heads[name]
    critic.requires_grad_(True).output.requires_grad_(critic.config.tied_embeddings)  # no loss reaches its logits
    reference.model.requires_grad_(False)
    return Players(loaded, Role(loaded.model.requires_grad_(True)), Role(reference.model), Role(critic), reward, safety)


def _load_judge(spec: str, policy: LoadedModel, name: str, over: LoadedModel | None = None) -> Scorer:
    """A program, or a reward model that reads the policy's tokens as they are."""
    judge = load_scorer(spec, device="cpu", over=over, name=name)
    if isinstance(judge, RewardModel) and not same_words(judge.tokenizer, policy.tokenizer):
        raise ArrieroError(
            f"{spec} has another tokenizer or chat template than {policy.name}: expected a reward model that was made "
            "from the same model, as it and the critic read the policy's own tokens"
        )
    return judge


def _add_value_head(model: Llama, reward: Scorer) -> None:
    """The critic's head: the reward model's, or one that expects nothing yet."""
    head = add_head(model, VALUE)
    if isinstance(reward, RewardModel):
        head.weight.data.copy_(head_of(reward.model, reward.head).weight.data)
    else:
        head.weight.data.zero_()
    head.requires_grad_(True)


def _stop_dropout(model: Llama) -> None:
    """Off for good, in adapters that learn and at rest: else equal policies would differ."""
    for module in model.modules():
        if isinstance(module, LowRank):
            module.dropout = 0.0


def _let_learn(model: Llama, name: str) -> None:
    """Gradients for one adapter's parameters, beside those that learn already."""
    for change in Adapters.of(model).changes(name).values():
        for leaf, parameter in change.named_parameters():
            parameter.requires_grad_(not leaf.startswith("anchor"))
