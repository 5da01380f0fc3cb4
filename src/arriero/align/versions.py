"""Versions of a model, measured on held-out prompts as Llama 2 chose between its own (arXiv 2307.09288, section 3.4).

Each answers the same prompts from the same seeds; a judge of helpfulness scores the answers and, where there is one, a
judge of safety. Reward alone may be the reward model's errors: so the divergence from the first version, the answers'
lengths and whether they end stand beside it, and wins are also told at equal length.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from arriero.align.kl import divergence
from arriero.align.logprobs import answer_logprobs, lay_answers
from arriero.align.prompts import Prompt
from arriero.align.reward_model import portions
from arriero.align.scoring import Scorer
from arriero.align.win_rate import WinRate, wilson, win_rate
from arriero.common.errors import ArrieroError
from arriero.generate.engine import Completion, Engine, Request, SamplingConfig
from arriero.model.adapters import adapter_on
from arriero.model.source import LoadedModel, base_of, is_adapter, load_model


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean with its standard error."""

    value: float
    error: float


@dataclass(frozen=True, kw_only=True)
class VersionReport:
    """One version's answers in numbers."""

    name: str
    model: str
    """Its source."""
    helpfulness: Mean
    """Raw scores."""
    safety: Mean | None
    violations: float | None
    """Share of the answers that the judge of safety takes for unsafe: σ(score) < ½."""
    violations_low: float | None
    """Of the 95% interval."""
    violations_high: float | None
    kl: Mean
    """D_KL(version ‖ first version), nats an answer, by sampling."""
    tokens: float
    """Mean length of the answers."""
    ended: float
    """Share of the answers that end by themselves."""
    scores: list[float]
    """Each answer's helpfulness."""
    lengths: list[int]
    """Each answer's tokens."""

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "VersionReport":
        """From a file's JSON."""
        means = {name: values[name] for name in ("helpfulness", "safety", "kl")}
        return cls(**{**values, **{name: mean and Mean(**mean) for name, mean in means.items()}})


def measure_version(
    name: str,
    source: str,
    first: str,
    prompts: Sequence[Prompt],
    *,
    helpfulness: Scorer,
    safety: Scorer | None = None,
    sampling: SamplingConfig | None = None,
    device: str = "auto",
) -> VersionReport:
    """Let a version answer, and have the answers judged.

    Args:
        name: of the version.
        source: its model.
        first: the first version's, from which the divergence is told.
        prompts: what no version learnt from.
        helpfulness: a judge.
        safety: likewise.
        sampling: with a seed; each prompt's is that plus its number.

    Raises:
        ArrieroError: there are no prompts, a version cannot be loaded, or a judge fails.
    """
    if not prompts:
        raise ArrieroError(
            "expected prompts to measure versions on, got none: raise --eval-share, or give more prompts"
        )
    sampling = sampling or SamplingConfig(temperature=1.0, max_tokens=128, seed=0)
    loaded = load_model(source, device=device, dtype="float32")
    asked = [loaded.tokenizer.encode_chat(list(prompt.messages)) for prompt in prompts]
    said = _answer(loaded, asked, sampling)
    scores = _judge(helpfulness, prompts, said)
    safe = None if safety is None else _judge(safety, prompts, said)
    unsafe = None if safe is None else sum(score < 0 for score in safe)
    low, high = (None, None) if unsafe is None else wilson(unsafe, len(said))
    lengths = [len(answer.ids) for answer in said]
    return VersionReport(
        name=name,
        model=source,
        helpfulness=_mean(scores),
        safety=None if safe is None else _mean(safe),
        violations=None if unsafe is None else unsafe / len(said),
        violations_low=low,
        violations_high=high,
        kl=_mean(_sequence_kl(loaded, source, first, asked, said, sampling.temperature, device)),
        tokens=statistics.fmean(lengths),
        ended=sum(answer.finish_reason == "stop" for answer in said) / len(said),
        scores=scores,
        lengths=lengths,
    )


def compare_versions(old: VersionReport, new: VersionReport) -> WinRate:
    """How often the new version's answers are preferred."""
    return win_rate(old.scores, new.scores, old.lengths, new.lengths)


def _answer(loaded: LoadedModel, asked: Sequence[list[int]], sampling: SamplingConfig) -> list[Completion]:
    requests = [
        Request(prompt_ids=ids, sampling=replace(sampling, seed=(sampling.seed or 0) + number))
        for number, ids in enumerate(asked)
    ]
    return Engine(loaded.model, loaded.tokenizer, context=loaded.context).generate(requests)


def _judge(judge: Scorer, prompts: Sequence[Prompt], said: Sequence[Completion]) -> list[float]:
    """The answers' scores; one that says nothing gets the lowest of the others'."""
    spoken = [i for i, answer in enumerate(said) if answer.text.strip()]
    if not spoken:
        raise ArrieroError("every answer is empty: there is nothing to judge; does the model suit its chat template?")
    found = judge.score([prompts[i].messages for i in spoken], [said[i].text for i in spoken])
    scores = [min(found)] * len(said)
    for i, score in zip(spoken, found, strict=True):
        scores[i] = score
    return scores


def _sequence_kl(
    loaded: LoadedModel,
    source: str,
    first: str,
    asked: Sequence[list[int]],
    said: Sequence[Completion],
    temperature: float,
    device: str,
) -> list[float]:
    """Σ (log π − log π_0) of each answer's tokens."""
    if source == first:
        return [0.0] * len(said)
    own = _sequence_logprobs(loaded, asked, said, temperature)
    if is_adapter(Path(source).expanduser()) and base_of(Path(source).expanduser()) == first:
        with adapter_on(loaded.model, None):
            reference = _sequence_logprobs(loaded, asked, said, temperature)
    else:
        before = load_model(first, device=device, dtype="float32")
        reference = _sequence_logprobs(before, asked, said, temperature)
    return [float(divergence(x, y).k1.sum()) for x, y in zip(own, reference, strict=True)]


@torch.inference_mode()
def _sequence_logprobs(
    loaded: LoadedModel, asked: Sequence[list[int]], said: Sequence[Completion], temperature: float
) -> list[torch.Tensor]:
    """Log-probabilities of the tokens of each answer, (N,) each, in fp64."""
    found: dict[int, torch.Tensor] = {}
    device = loaded.model.tok_embeddings.weight.device
    for portion in portions([len(ids) + len(answer.ids) for ids, answer in zip(asked, said, strict=True)]):
        answers = [said[i].ids for i in portion]
        row = lay_answers([asked[i] for i in portion], answers).to(device)
        logprobs, _ = answer_logprobs(loaded.model, row, temperature or 1.0)
        own = torch.split(logprobs.double().cpu(), [len(answer) for answer in answers])
        found |= dict(zip(portion, own, strict=True))
    return [found[i] for i in range(len(said))]


def _mean(values: Sequence[float]) -> Mean:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return Mean(value=statistics.fmean(values), error=spread / math.sqrt(len(values)))
