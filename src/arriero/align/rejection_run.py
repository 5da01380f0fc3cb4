"""One iteration of rejection sampling, from prompts to a fine-tuned model; killed at any place, it goes on there."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from arriero.align.candidates import read_candidates
from arriero.align.prompts import Prompt, read_prompts
from arriero.align.rejection import Best, Drawing, best_answers, mean_best, refresh_scores, write_best
from arriero.align.rejection_config import RejectionConfig
from arriero.align.reward import Reward
from arriero.align.reward_curve import RewardCurve, reward_curve
from arriero.align.variants import Variant, load_variants
from arriero.common.errors import ArrieroError
from arriero.common.files import atomic_file
from arriero.common.lock import hold_lock
from arriero.common.settings import flatten, read_settings, write_settings
from arriero.model.source import base_of, is_adapter, weights_digest
from arriero.train.sft import ADAPTER, sft
from arriero.train.sft_config import ExamplesConfig, SftConfig

_WAIT_S = 3.0


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What an iteration's answers depend on; equal settings go on with it."""

    model: str
    weights: str
    """A digest of the model's files: a version that was trained anew begins another iteration."""
    reward: str
    prompts: str
    """A digest of all prompts."""
    samples: int
    temperatures: tuple[float, ...]
    sweep_prompts: int
    max_tokens: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """What an iteration came to."""

    iteration: int
    model: str
    reward: str
    temperature: float
    """The one that was taken."""
    sweep: dict[str, float]
    """Mean reward of the best answers at each temperature, where several were tried."""
    samples: int
    prompts: int
    """That were answered."""
    too_long: int
    """Prompts that leave an answer no room in the context."""
    unanswered: int
    """Prompts without an answer that came to its end, in any iteration."""
    rescored: int
    """Prompts of earlier iterations whose answers had another reward's scores."""
    curve: RewardCurve
    """Of this iteration's answers."""
    best: Path
    """The best answers, as examples."""
    best_reward: float | None
    """Their mean score; None where there are none."""
    best_from: dict[str, int]
    """How many of them each iteration gave."""
    made: Path | None
    """The fine-tuned adapter or model; None where the fine-tuning was left out, or stopped."""


def reject(run: Path, config: RejectionConfig) -> Rejected:
    """Sample, choose and fine-tune in the folder `run`; the iteration that was asked for goes on, or begins.

    Raises:
        ArrieroError: prompts, model or scorers are not there or do not suit; nothing that was done is lost.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ArrieroError(
            "rejection sampling runs in one process: give --choose-only, then `torchrun … arriero sft --data BEST`"
        )
    prompts = _prompts(config)
    with hold_lock(run / "run.lock", wait_s=_WAIT_S, what="the run"):
        result, best = _choose(run, config, prompts)
        if not config.choose_only:
            result = replace(result, made=_fine_tune(run / f"sft-{result.iteration:03d}", result.best, best, config))
        with atomic_file(run / f"result-{result.iteration:03d}.json") as aside:
            aside.write_text(json.dumps(asdict(result), default=str) + "\n", encoding="utf-8")
    return result


def samples_file(run: Path, iteration: int) -> Path:
    """Where an iteration's answers are."""
    return run / f"samples-{iteration:03d}.jsonl"


def _choose(run: Path, config: RejectionConfig, prompts: Sequence[Prompt]) -> tuple[Rejected, list[Best]]:
    """Draw what is missing, and choose; the models are let go of before anything is trained."""
    scorers = [spec for spec in (config.reward, config.safety) if spec is not None]
    variant = load_variants([config.model], beside=scorers, device=config.device, max_batch=config.draw.decode_rows)[0]
    reward = Reward.load(config.reward, config.safety, device=config.device, beside=variant)
    fitting = _fitting(prompts, variant, config.draw.max_tokens)
    number = _iteration(run, config, prompts, reward)
    drawing = Drawing(
        samples_file(run, number), variant, reward, config.draw.samples, config.draw.max_tokens, config.seed
    )
    together = max(1, config.draw.decode_rows // config.draw.samples)
    temperature, sweep = _temperature(drawing, fitting, config, together)
    answered = drawing.draw(fitting, temperature, together)
    rescored = sum(refresh_scores(samples_file(run, n), reward) for n in range(1, number))
    best = best_answers([(n, read_candidates(samples_file(run, n))) for n in range(1, number + 1)])
    file = run / f"best-{number:03d}.jsonl"
    write_best(file, best)
    chosen = {own.prompt.key for own in best}
    result = Rejected(
        iteration=number,
        model=config.model,
        reward=reward.name,
        temperature=temperature,
        sweep=sweep,
        samples=config.draw.samples,
        prompts=len(answered),
        too_long=len(prompts) - len(fitting),
        unanswered=sum(prompt.key not in chosen for prompt in fitting),
        rescored=rescored,
        curve=reward_curve([own for row in answered if (own := row.scores) is not None]),
        best=file,
        best_reward=sum(own.answer.score or 0.0 for own in best) / len(best) if best else None,
        best_from={str(n): count for n, count in sorted(Counter(own.iteration for own in best).items())},
        made=None,
    )
    return result, best


def _prompts(config: RejectionConfig) -> list[Prompt]:
    prompts = read_prompts(config.prompts)
    if not config.safety_prompts:
        return prompts
    risky = read_prompts(config.safety_prompts, safety=True)
    keys = {prompt.key for prompt in risky}
    return [prompt for prompt in prompts if prompt.key not in keys] + risky


def _iteration(run: Path, config: RejectionConfig, prompts: Sequence[Prompt], reward: Reward) -> int:
    """The number of the iteration with these settings, if it is the last one; else the next, which so begins."""
    place = Path(config.model).expanduser()
    draw = config.draw
    asked = Asked(
        model=config.model,
        weights=weights_digest(place if place.exists() else None),
        reward=reward.name,
        prompts=hashlib.blake2b("".join(prompt.key for prompt in prompts).encode(), digest_size=8).hexdigest(),
        samples=draw.samples,
        temperatures=tuple(map(float, draw.temperatures)),
        sweep_prompts=draw.sweep_prompts,
        max_tokens=draw.max_tokens,
        seed=config.seed,
    )
    numbers = [int(found[1]) for file in run.iterdir() if (found := re.fullmatch(r"iteration-(\d+)\.toml", file.name))]
    last = max(numbers, default=0)
    if last and read_settings(run / f"iteration-{last:03d}.toml") == flatten(asked):
        return last
    number = last + (last == 0 or samples_file(run, last).exists())  # one that never drew an answer gives way
    write_settings(run / f"iteration-{number:03d}.toml", asked)
    return number


def _fitting(prompts: Sequence[Prompt], variant: Variant, max_tokens: int) -> list[Prompt]:
    """The prompts that leave an answer room in the context."""
    fitting = [prompt for prompt in prompts if variant.fits(prompt, max_tokens)]
    if not fitting:
        raise ArrieroError(
            f"none of {len(prompts)} prompts leaves room for an answer of {max_tokens} tokens in the context of "
            f"{variant.engine.context}: lower --max-tokens, or give shorter prompts"
        )
    return fitting


def _temperature(
    drawing: Drawing, prompts: Sequence[Prompt], config: RejectionConfig, together: int
) -> tuple[float, dict[str, float]]:
    """The temperature with the best answers on a few prompts, the lowest of equal ones; and what each came to."""
    temperatures = sorted(config.draw.temperatures)
    if len(temperatures) == 1:
        return temperatures[0], {}
    few = sorted(prompts, key=lambda prompt: prompt.key)[: config.draw.sweep_prompts]
    found = {temperature: mean_best(drawing.draw(few, temperature, together)) for temperature in temperatures}
    return max(found, key=found.__getitem__), {f"{temperature:g}": mean for temperature, mean in found.items()}


def _fine_tune(run: Path, best: Path, answers: Sequence[Best], config: RejectionConfig) -> Path | None:
    """Fine-tune the base on the best answers; where the result is, if there is one yet."""
    if not answers:
        raise ArrieroError(
            f"no answer came to its end within {config.draw.max_tokens} tokens, so there is nothing to learn from: "
            "raise --max-tokens"
        )
    place = Path(config.model).expanduser()
    base = config.base or (base_of(place) if is_adapter(place) else config.model)
    examples = ExamplesConfig(data=(best,), answers="last", eval_share=config.eval_share)
    settings = SftConfig(
        model=base,
        method=config.method,
        examples=examples,
        training=config.training,
        lora=config.lora,
        optim=config.optim,
        device=config.device,
        seed=config.seed,
    )
    end = sft(run, settings)
    made = run / (ADAPTER if config.method == "lora" else "model")
    return made if end in ("finished", "stopped early") else None
