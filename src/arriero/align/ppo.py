"""PPO as Llama 2 used it (Touvron et al., arXiv 2307.09288, section 3.2.3): a policy learns from the scores it gets.

The one loop, on batches that the policy makes itself: `ppo_batches.py`. A run is a folder as fine-tuning's; at the end
it holds `adapter/` in PEFT's format or `model/` in Hugging Face's: the policy of the step whose held-out answers were
scored best, among those that had not gone too far from where it began.
"""

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from arriero.align.ppo_batches import PpoBatches
from arriero.align.ppo_config import PpoConfig
from arriero.align.ppo_models import POLICY, ActorCritic, Players, build_players, load_policy
from arriero.align.ppo_step import PpoLoss
from arriero.align.ppo_watch import PpoWatcher, measure
from arriero.align.prompts import Prompt, read_prompts, split_prompts
from arriero.align.rollout import Asked, Sampler
from arriero.align.scoring import load_scorer
from arriero.common.errors import ArrieroError
from arriero.model.adapter_export import export_peft
from arriero.model.export import export_model
from arriero.model.layers import set_recompute
from arriero.model.quantised import quantised_to
from arriero.model.source import LoadedModel, load_model, name_base
from arriero.train.carbon import EnergyMeter
from arriero.train.checkpoint import Checkpoints, best_checkpoint, is_newer, load_weights
from arriero.train.loop import End, Loop, StepResult
from arriero.train.loop_config import LoopConfig
from arriero.train.parallel import Layout, laid_out
from arriero.train.run_facts import take_up
from arriero.train.run_folder import RunFolder
from arriero.train.run_log import RunLog
from arriero.train.sft import micro_rows
from arriero.train.speaker import speaker
from arriero.train.speed import release_freed_memory
from arriero.train.watch import Pace

ADAPTER = "adapter"
"""The folder of the finished policy in the run's."""
_SHOWN = 3
"""Held-out prompts whose answers are shown at each evaluation."""


@dataclass(frozen=True)
class Prepared:
    """A run before its first step."""

    players: Players
    asked: list[Asked]
    held_out: list[Asked]
    too_long: int
    """Prompts that were left out."""
    micro_rows: int
    """Answers of a micro-batch."""
    loop: LoopConfig


def prepare(config: PpoConfig, world: int = 1) -> Prepared:
    """Read prompts and models, and see what a run would be; nothing is written.

    Args:
        world: processes that see different answers.

    Raises:
        ArrieroError: models, prompts or sizes do not fit each other.
    """
    prompts = read_prompts(config.prompts.prompts)
    if config.prompts.eval_prompts:
        held_out = read_prompts(config.prompts.eval_prompts)
    else:
        prompts, held_out = split_prompts(prompts, config.prompts.eval_share, config.seed)
    players = build_players(config)
    asked, out = _encode(prompts, players.loaded, config), _encode(held_out, players.loaded, config)
    if not asked:
        raise ArrieroError(
            f"none of {len(prompts)} prompts has at most {config.prompts.max_prompt_tokens} tokens and leaves room for "
            f"an answer of {config.rollout.max_tokens}: raise --max-prompt-tokens, or lower --max-tokens"
        )
    mean = sum(len(one.ids) for one in asked) / len(asked) + config.rollout.max_tokens
    rows = micro_rows(config.objective.mini_batch, config.training.rows, config.device, mean, world, name="mini_batch")
    return Prepared(
        players=players,
        asked=asked,
        held_out=out[: config.prompts.eval_count],
        too_long=len(prompts) + len(held_out) - len(asked) - len(out),
        micro_rows=rows,
        loop=_loop(config, rows, world),
    )


def ppo(run: Path, config: PpoConfig, allow: Sequence[str] = (), prepared: Prepared | None = None) -> End:
    """Train in the folder `run`, continuing what is there.

    Args:
        allow: fields that may differ from those of the run begun there.
        prepared: what `prepare` gave, where that was called before.

    Raises:
        ArrieroError: prompts, models or the run's config do not fit each other; the message says how.
    """
    # policy and critic learn in turns, so that a step's last micro-batch is not the last one of both
    parallel = dataclasses.replace(config.parallel, sum_every=True)
    with laid_out(parallel, config.device, config.dtype) as layout:
        folder = RunFolder(run)
        if layout.is_main:
            folder.check(config, allow)
        prepared = prepared or prepare(config, layout.data_world)
        return _train(folder, config, prepared, layout, allow)


def _train(folder: RunFolder, config: PpoConfig, prepared: Prepared, layout: Layout, allow: Sequence[str]) -> End:
    players = _lay_out(prepared.players, layout)
    set_recompute(players.learners, config.recompute)
    watch = [load_scorer(spec) for spec in config.reward.watch]
    batches = PpoBatches(config, Sampler(players, prepared.asked, config.rollout, layout, watch), prepared.micro_rows)
    held_out = Sampler(players, prepared.held_out, config.rollout, layout, watch)
    loss = PpoLoss(players, config.objective, config.rollout.temperature)
    with ExitStack() as block:
        watcher = block.enter_context(_watcher(config, folder, prepared, batches, held_out, loss))
        if layout.is_main:
            block.enter_context(folder.hold(config, allow))
        loop = Loop(
            players.learners,
            batches,
            loss,
            config=prepared.loop,
            optimizer=config.optim.resolve(config.method),
            schedule=config.schedule,
            layout=layout,
            watcher=watcher,
            store=Checkpoints(folder.checkpoints, **dataclasses.asdict(config.checkpoints)),
            tidy=release_freed_memory,
            halt=lambda result: _too_far(result, batches, config),
        )
        facts = {"method": config.method, "base": config.model, "prompts": len(prepared.asked)}
        facts |= {"held_out": len(prepared.held_out), "too_long": prepared.too_long}
        resumed = take_up(loop, folder, config, watcher.log, batch_tokens=None, **facts)
        if not resumed:
            watcher.on_validation(0)  # what the policy was before
        end = loop.run()
        if end in ("finished", "stopped early") and layout.is_main:
            if loop.best is None and prepared.held_out:
                detail = "no evaluation lay within --max-kl: the policy as it is now comes out"
                watcher.on_event(loop.step, "warning", detail)
            _export(folder, config, best_checkpoint(folder.checkpoints, loop.best))
    return end


def _encode(prompts: Sequence[Prompt], loaded: LoadedModel, config: PpoConfig) -> list[Asked]:
    """The prompts that leave room for an answer, as tokens."""
    most = min(config.prompts.max_prompt_tokens, loaded.context - config.rollout.max_tokens - 1)
    asked = [Asked(prompt, loaded.tokenizer.encode_chat(list(prompt.messages))) for prompt in prompts]
    return [one for one in asked if len(one.ids) <= most]


def _loop(config: PpoConfig, micro_rows: int, world: int) -> LoopConfig:
    training, steps = config.training, config.steps_per_iteration
    return LoopConfig(
        steps=training.iterations * steps,
        accumulation=2 * (config.objective.mini_batch // (micro_rows * world)),
        validate_every=steps * (training.validate_every or max(1, training.iterations // 8)),
        checkpoint_every=steps * training.checkpoint_every,
        max_minutes=training.max_minutes,
        spike_sigmas=0.0,  # the losses of PPO tell nothing by their height
        keep_best=True,
        patience=training.patience,
    )


def _lay_out(players: Players, layout: Layout) -> Players:
    """The players on their device; those that learn as the layout says."""
    learning = {id(role.model): role.model for role in (players.policy, players.critic)}
    for model in players.models:
        if id(model) in learning:
            layout.apply(model)
        else:
            model.to(layout.device, layout.dtype)
    return players


def _too_far(result: StepResult, batches: PpoBatches, config: PpoConfig) -> str | None:
    most, kl = config.objective.max_kl, batches.facts["kl"]
    if most is None or kl <= most:
        return None
    return f"the policy is {kl:.1f} nats from where it began, beyond the {most:g} of --max-kl"


def _watcher(
    config: PpoConfig,
    folder: RunFolder,
    prepared: Prepared,
    batches: PpoBatches,
    held_out: Sampler,
    loss: PpoLoss,
) -> PpoWatcher:
    layout, players, missing = held_out.layout, held_out.players, config.reward.missing_score
    shown = [(one.prompt.messages[-1]["content"], one.ids) for one in prepared.held_out[:_SHOWN]]
    speak = speaker(players.policy.model, players.loaded.tokenizer, shown, layout, max_tokens=config.rollout.max_tokens)

    def sample() -> list[tuple[str, str]]:
        players.policy.switch_on()
        return speak()

    return PpoWatcher(
        RunLog(folder.path, config.trackers) if layout.is_main else None,
        Pace(steps=prepared.loop.steps, batch_tokens=None, flops_per_token=0.0, peak_flops=None),
        meter=EnergyMeter(devices=layout.world) if layout.is_main else None,
        batches=batches,
        loss=loss,
        gather=layout.gather,
        max_kl=config.objective.max_kl,
        validate=(lambda: measure(held_out, prepared.micro_rows, batches.first_moments, missing))
        if prepared.held_out
        else None,
        sample=sample if shown else None,
    )


def _export(folder: RunFolder, config: PpoConfig, checkpoint: Path | None) -> None:
    """Write the best checkpoint's policy as an adapter or a model, unless that was done."""
    target = folder.path / ADAPTER if config.method == "lora" else folder.model
    if checkpoint is None or is_newer(target / "tokenizer_config.json", checkpoint):
        return
    if config.method == "full":
        loaded = load_model(config.model, device="cpu", dtype="float32")
        load_weights(checkpoint, ActorCritic(loaded.model, loaded.model))
        export_model(loaded, target, "f32")
        return
    loaded = load_policy(config)
    load_weights(checkpoint, ActorCritic(loaded.model, loaded.model))
    export_peft(loaded, POLICY, target, name_base(config.model), quantised=quantised_to(loaded.model))
