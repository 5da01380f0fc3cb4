"""A sample of several sources of text: of bounded size, in one pass, the same for the same seed.

Text is cut into units of a few kilobytes. Each gets a random priority, and the units with the lowest ones that fit into
the budget are kept (reservoir sampling with a heap), so that every part of a source is equally likely to be in. One
unit in fifty of each source is held out, to measure on what was not trained on.
"""

import heapq
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from arriero.common.errors import ArrieroError, did_you_mean

UNIT = 4096
"""Most bytes of a unit."""
_HELD_OUT_EVERY, _HELD_OUT_FIRST = 50, 25
_HELD_OUT_BYTES = 2_000_000
"""Most bytes a source that are held out."""


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """How much of which source."""

    max_bytes: int = 100_000_000
    """Most bytes of text to use, in memory at once: a random sample of the sources, each in proportion to its size.
    Training takes 5 to 10 times as much memory, and up to 75 times for Chinese, Japanese and their like."""
    share: dict[str, float] | None = None
    """Share of a source in the sample, as NAME=NUMBER, one option for each source; they need not sum to 1."""
    seed: int = 0
    """Which random sample."""

    def __post_init__(self) -> None:
        if self.max_bytes < UNIT:
            raise ArrieroError(f"expected at least {UNIT} bytes to train on, got {self.max_bytes}")
        for name, share in (self.share or {}).items():
            if not 0 < share < float("inf"):
                raise ArrieroError(f"the share of source '{name}' must be a number above 0, got {share}")

    def check(self, names: Iterable[str]) -> None:
        """Raises ArrieroError unless the shares are of just the sources that there are."""
        if self.share is None:
            return
        names = list(names)
        for name in self.share:
            if name not in names:
                near = did_you_mean(name, names)
                raise ArrieroError(f"there is no source '{name}' to have a share{near}: there are {', '.join(names)}")
        if without := [name for name in names if name not in self.share]:
            raise ArrieroError(f"source '{without[0]}' has no share: give one to every source, or to none")


@dataclass(frozen=True, kw_only=True)
class SourceSample:
    """What was drawn of one source."""

    name: str
    bytes_read: int
    """UTF-8 bytes of its text."""
    training: list[bytes]
    """Units to train on, in the order of the text."""
    held_out: list[bytes]
    """Units that are in no training sample; none of a source that is too short."""
    first: list[bytes]
    """The first units, trained on or not."""

    @property
    def training_bytes(self) -> int:
        """Size of the units to train on."""
        return sum(map(len, self.training))

    @property
    def to_measure(self) -> list[bytes]:
        """The units that are held out, or where there are none, all."""
        return self.held_out or self.first

    def texts(self) -> Iterator[str]:
        """The texts to train on."""
        return (unit.decode() for unit in self.training)


def draw(sources: Mapping[str, Iterable[str]], options: SampleOptions) -> list[SourceSample]:
    """Read every source once, one after the other, and keep a sample of each.

    Raises:
        ArrieroError: a source without text, or shares of other sources than there are.
    """
    options.check(sources)
    common = None if options.share else _Reservoir(options.max_bytes, f"{options.seed}")
    drawn = []
    for name, texts in sources.items():
        training = common or _Reservoir(_budget(name, options), f"{options.seed} {name}")
        held_out = _Reservoir(_HELD_OUT_BYTES, f"{options.seed} held out {name}")
        first, size = list[bytes](), 0
        for number, unit in enumerate(cut(texts)):
            size += len(unit)
            if number < _HELD_OUT_FIRST:
                first.append(unit)
            chosen = held_out if number % _HELD_OUT_EVERY == _HELD_OUT_FIRST else training
            chosen.add(unit, name)
        if not size:
            raise ArrieroError(f"source '{name}' holds no text")
        drawn.append((name, size, training, held_out, first))
    return [
        SourceSample(
            name=name, bytes_read=size, training=training.kept(name), held_out=held_out.kept(name), first=first
        )
        for name, size, training, held_out, first in drawn
    ]


def cut(texts: Iterable[str]) -> Iterator[bytes]:
    """Texts as UTF-8 in units of at most `UNIT` bytes: long ones cut, at line ends or spaces; short ones joined."""
    held, size = list[bytes](), 0
    for text in texts:
        content = text.encode()
        if held and size + len(content) > UNIT:
            yield b"\n".join(held)
            held, size = [], 0
        if len(content) > UNIT:
            yield from _cut(content)
        elif content:
            held.append(content)
            size += len(content) + 1
    if held:
        yield b"\n".join(held)


def _cut(content: bytes) -> Iterator[bytes]:
    """All of the text in parts: after a line's end, else before a space, else between two characters."""
    start = 0
    while start < len(content):
        end = start + UNIT
        if end < len(content):
            line, space = content.rfind(b"\n", start, end) + 1, content.rfind(b" ", start + 1, end)
            end = line or (space if space > 0 else end)
            while content[end] & 0xC0 == 0x80:
                end -= 1
        yield content[start:end]
        start = end


def _budget(name: str, options: SampleOptions) -> int:
    assert options.share is not None
    return int(options.max_bytes * options.share[name] / sum(options.share.values()))


class _Reservoir:
    """Units with the lowest random priorities that fit into a number of bytes."""

    def __init__(self, budget: int, seed: str) -> None:
        self._budget, self._left = budget, budget
        self._random = random.Random(seed)  # noqa: S311 - a sample, no secret
        self._heap: list[tuple[float, int, str, bytes]] = []  # the highest priority first
        self._count = 0

    def add(self, unit: bytes, source: str) -> None:
        """Take a unit, and give up those with the highest priorities where the budget is exceeded."""
        self._count += 1
        heapq.heappush(self._heap, (-self._random.random(), self._count, source, unit))
        self._left -= len(unit)
        while self._left < 0:
            self._left += len(heapq.heappop(self._heap)[3])

    def kept(self, source: str) -> list[bytes]:
        """What is kept of a source, in the order it came."""
        chosen = sorted((count, unit) for _, count, name, unit in self._heap if name == source)
        return [unit for _, unit in chosen]
