"""What to change when a planned run doesn't fit into its devices: settings first, then more or larger devices."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from arriero.common.errors import ArrieroError
from arriero.train.cards import CARDS
from arriero.train.plan import Setup, estimate_memory, fits

MOST_DEVICES = 2**14
Change = tuple[str, Setup]
"""What is paid for it, and the setup with it."""


@dataclass(frozen=True)
class Advice:
    """One change, or several at once."""

    options: str
    """As on the command line."""
    costs: str
    """What is paid for it."""
    bytes_per_device: float
    fits: bool


def advise(setup: Setup) -> list[Advice]:
    """Settings that save memory, each alone; those it takes together, if none is enough alone; devices that suffice."""
    settings = [(costs, changed) for costs, changed in _settings(setup) if _memory(changed) < _memory(setup)]
    if not any(fits(changed) for _, changed in settings):
        together = settle(setup)
        if together not in (setup, *(changed for _, changed in settings)):
            settings.append(("all of that", together))
    changes = [*settings, *_devices(setup)]
    return [Advice(_options(setup, changed), costs, _memory(changed), fits(changed)) for costs, changed in changes]


def _memory(setup: Setup) -> float:
    return estimate_memory(setup).total


def _options(before: Setup, after: Setup) -> str:
    """What to write on the command line to get from one setup to the other."""
    pairs = [(name, getattr(before, name), getattr(after, name)) for name in ("dtype", "recompute", "rows")]
    pairs += [(name, getattr(before.layout, name), getattr(after.layout, name)) for name in ("replicate", "shard")]
    pairs += [("tensor", before.layout.tensor, after.layout.tensor), ("count", before.count, after.count)]
    pairs += [("accumulation", before.accumulation, after.accumulation), ("card", before.card.name, after.card.name)]
    if before.adapter and after.adapter:
        pairs.append(("quantise", before.adapter.quantise, after.adapter.quantise))
    words = [f"--{name} {new}" for name, old, new in pairs if old != new]
    return " ".join([*words, *(["--sum-every"] if after.layout.sum_every > before.layout.sum_every else [])])


def _settings(setup: Setup) -> Iterator[Change]:
    """From the cheapest to the dearest; the batch of a step stays as it is."""
    layout = setup.layout
    if setup.recompute == "none" and layout.tensor == 1:
        yield "a little time", replace(setup, recompute="selective")
    if layout.replicate > 1:
        yield "communication", replace(setup, layout=replace(layout, replicate=1, shard=0))
    if setup.accumulation > 1 and not layout.sum_every:
        yield "communication", replace(setup, layout=replace(layout, sum_every=True))
    if setup.rows > 1:
        yield "smaller products", replace(setup, rows=1, accumulation=setup.accumulation * setup.rows)
    if setup.dtype == "float32" and setup.card.peak_flops["bfloat16"] > setup.card.peak_flops["float32"]:
        yield "precision", replace(setup, dtype="bfloat16")
    if setup.adapter and setup.adapter.quantise == "none" and layout.tensor == 1:
        yield "time, and a little quality", replace(setup, adapter=replace(setup.adapter, quantise="nf4"))
    if setup.recompute != "full":
        yield "a third more time", replace(setup, recompute="full")
    for tensor in (2, 4, 8):
        if tensor > layout.tensor and (spread := _spread(setup, tensor)):
            yield "much communication: within a machine", spread
            break


def _spread(setup: Setup, tensor: int) -> Setup | None:
    """The matrices over so many devices; None where they divide neither the devices nor the matrices."""
    try:
        return replace(setup, layout=replace(setup.layout, tensor=tensor, shard=0))
    except ArrieroError:
        return None


def settle(setup: Setup) -> Setup:
    """One setting after the other, each that saves, until it fits or none is left."""
    while not fits(setup):
        better = (changed for _, changed in _settings(setup) if _memory(changed) < _memory(setup))
        if (following := next(better, None)) is None:
            break
        setup = following
    return setup


def _devices(setup: Setup) -> Iterator[Change]:
    """The next count, and the smallest card, with which it fits as it is."""
    count = 2 * setup.count
    while count <= MOST_DEVICES:
        more = replace(setup, count=count, layout=replace(setup.layout, shard=0))
        if fits(more):
            yield "more devices", more
            break
        count *= 2
    for card in sorted(CARDS.values(), key=lambda card: card.memory_bytes):
        if fits(larger := replace(setup, card=card)):
            yield "larger devices", larger
            break
