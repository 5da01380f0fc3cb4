"""A run in a few numbers: what it is, how far it came, what it took."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from arriero.report.run import Line, Run, column, named, number
from arriero.train.carbon import JOULES_PER_MWH, PUE, carbon_tonnes, energy_mwh
from arriero.train.cards import recognise_card

SOURCES = {
    "rapl": "measured by the CPU's counters (RAPL)",
    "nvml": "measured by the GPUs' sensors (NVML)",
    "codecarbon": "told by codecarbon, which measures or estimates",
    "estimated": "estimated: watts × time",
}
ENDS = ("finished", "stopped early", "interrupted", "out of time")


@dataclass(frozen=True)
class Energy:
    """What a run took, and what that comes to by LLaMA's formula."""

    joules: float
    """Of the processors."""
    source: str
    """Who says so, in words."""
    mwh: float
    """With the data centre's overhead."""
    tonnes: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """NaN stands for what isn't known."""

    state: str
    steps: int
    total_steps: float
    tokens: float
    seconds: float
    loss: float
    """Mean of the last steps."""
    validation_loss: float
    perplexity: float
    best_loss: float
    """Lowest validation loss."""
    reward: float
    """Of a policy's held-out answers at the last validation, whose loss means nothing by itself."""
    kl: float
    """Their divergence from the reference, nats an answer."""
    tokens_per_second: float
    """Median."""
    mfu: float
    memory_bytes: float
    skipped: float
    energy: Energy | None


def summarise(run: Run) -> Summary:
    """The numbers of a run, as far as its diary goes."""
    validation = run.validations[-1] if run.validations else {}
    recent = [loss for loss in column(run.steps[-20:], "loss") if not math.isnan(loss)]
    return Summary(
        state=_state(run),
        steps=run.last.get("step", 0),
        total_steps=number(run.start, "total_steps"),
        tokens=number(run.last, "tokens"),
        seconds=number(run.last, "seconds"),
        loss=sum(recent) / len(recent) if recent else math.nan,
        validation_loss=number(validation, "loss"),
        perplexity=number(validation, "perplexity"),
        best_loss=_least(column(run.validations, "loss")),
        reward=number(validation, "reward"),
        kl=number(validation, "kl"),
        tokens_per_second=_median(column(run.steps, "tokens_per_second")),
        mfu=_median(column(run.steps, "mfu")),
        memory_bytes=-_least([-value for value in column(run.steps, "memory_bytes")]),
        skipped=number(run.last, "skipped"),
        energy=measure_energy(run),
    )


def _state(run: Run) -> str:
    """The end that the diary tells, unless steps follow it."""
    if not run.steps:
        return "not begun"
    ends = [event for event in run.events if str(event.get("event")) in ENDS]
    if not ends or ends[-1]["step"] < run.last["step"] or _resumed_after(run, ends[-1]):
        return "in progress"
    return str(ends[-1]["event"])


def _resumed_after(run: Run, end: Line) -> bool:
    """Whether the run was taken up again since."""
    return any(event.get("event") == "resumed" for event in run.events[run.events.index(end) :])


def measure_energy(run: Run) -> Energy | None:
    """What was measured; else device-hours times the power limit of a device that is known; else None."""
    lines = [line for line in run.energies if not math.isnan(number(line, "joules"))]
    if lines:
        ends = [before for before, after in pairwise(lines) if _begins_again(before, after)]
        joules = sum(column([*ends, lines[-1]], "joules"))
        sources = dict.fromkeys(str(line.get("source")) for line in lines)
        mwh = joules * PUE / JOULES_PER_MWH
        return Energy(joules, "; ".join(SOURCES.get(name, name) for name in sources), mwh, carbon_tonnes(mwh))
    hours, watts = device_hours(run), number(run.start, "watts")
    if math.isnan(watts) and (card := recognise_card(str(run.start.get("device_name")))):
        watts = card.watts
    if math.isnan(hours * watts):
        return None
    mwh = energy_mwh(hours, watts)
    return Energy(hours * watts * 3600, f"{SOURCES['estimated']}, {watts:g} W a device", mwh, carbon_tonnes(mwh))


def _begins_again(before: Line, after: Line) -> bool:
    """Whether a session ends between two counts: another is told to start, or the count falls back."""
    return bool(before["session"] != after["session"]) or number(after, "joules") < number(before, "joules")


def device_hours(run: Run) -> float:
    """Of all devices together."""
    return number(run.last, "seconds") * number(run.start, "devices") / 3600


@dataclass(frozen=True)
class Portion:
    """A source's part in a run, as planned and as it came."""

    source: str
    weight: float
    available: float
    planned_tokens: float
    planned_epochs: float
    tokens: float
    epochs: float


def mixture(run: Run) -> list[Portion]:
    """LLaMA's Table 1 for this run."""
    drawn = named(run.last, "source_tokens")
    portions = []
    for row in run.mixture:
        source, available = str(row.get("source")), number(row, "tokens_available")
        tokens = number(drawn, source)
        portions.append(
            Portion(
                source=source,
                weight=number(row, "weight"),
                available=available,
                planned_tokens=number(row, "planned_tokens"),
                planned_epochs=number(row, "planned_epochs"),
                tokens=tokens,
                epochs=tokens / available if available else math.nan,
            )
        )
    return portions


@dataclass(frozen=True)
class SourceLoss:
    """A source's held-out documents."""

    source: str
    loss: float
    perplexity: float
    bits_per_byte: float
    """Comparable between tokenizers."""
    best_loss: float
    tokens: float


def source_losses(run: Run) -> list[SourceLoss]:
    """The last validation, by source."""
    losses = []
    for source, values in named(run.validations[-1] if run.validations else {}, "by_source").items():
        line = values if isinstance(values, dict) else {}
        loss, tokens, size = (number(line, name) for name in ("loss", "tokens", "bytes"))
        earlier = [number(named(named(each, "by_source"), source), "loss") for each in run.validations]
        bits = loss * tokens / size / math.log(2) if size else math.nan
        losses.append(SourceLoss(source, loss, math.exp(min(loss, 700.0)), bits, _least(earlier), tokens))
    return losses


def examples(run: Run) -> dict[str, Any]:
    """Of fine-tuning: what the examples were, and what became of them."""
    line = run.examples
    if not line:
        return {}
    words = {
        "format": "format",
        "examples": "read",
        "kept": "trained on",
        "held_out": "held out",
        "dropped": "dropped, being too long",
        "truncated": "truncated, being too long",
        "repeated": "equal to an earlier one",
        "tokens": "tokens",
        "supervised": "tokens with a loss",
        "median_tokens": "tokens of an example, median",
        "longest_tokens": "tokens of the longest",
    }
    return {told: line.get(name) if name == "format" else number(line, name) for name, told in words.items()}


def samples(run: Run) -> dict[str, list[Line]]:
    """What the model wrote, by prompt, the latest first."""
    by_prompt: dict[str, list[Line]] = {}
    for line in reversed(run.samples):
        by_prompt.setdefault(str(line.get("prompt")), []).append(line)
    return by_prompt


def facts(run: Run) -> dict[str, Any]:
    """What was trained, and on what."""
    start, shape = run.start, named(run.start, "model")
    if not start:
        return {}
    values = {name: shape.get(name) for name in ("dim", "n_layers", "n_heads", "n_kv_heads", "hidden_dim")}
    layout = {name: ways for name, ways in named(start, "layout").items() if isinstance(ways, int) and ways > 1}
    versions = ", ".join(f"{name} {version}" for name, version in named(start, "versions").items())
    tuned = {"base": start["base"], "what learns": start.get("method")} if "base" in start else {}
    rag = {"RAG": f"{start['rag']}, {start.get('k')} documents a question"} if "rag" in start else {}
    return {
        **tuned,
        **rag,
        "parameters": number(start, "n_params"),
        "parameters that learn": number(start, "n_params_trained"),
        "without embeddings": number(start, "n_params_without_embeddings"),
        "shape": ", ".join(f"{name} {value}" for name, value in values.items() if value is not None),
        "vocabulary": number(shape, "vocab_size"),
        "devices": f"{start.get('devices', '?')} × {start.get('device_name', '?')}",
        "layout": ", ".join(f"{name} {ways}" for name, ways in layout.items()) or "one process",
        "dtype": start.get("dtype", "?"),
        "tokens a step": number(start, "batch_tokens"),
        "versions": versions,
    }


def _least(values: list[float]) -> float:
    return min((value for value in values if not math.isnan(value)), default=math.nan)


def _median(values: list[float]) -> float:
    known = sorted(value for value in values if not math.isnan(value))
    return known[len(known) // 2] if known else math.nan
