"""Which rows decode now: requests join and leave between steps."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from arriero.generate.batch import Batch
from arriero.generate.row import Row
from arriero.model.transformer import Llama


@dataclass(frozen=True)
class LiveStats:
    """What an engine is doing, and has done since it began."""

    running: int
    """Rows that decode or whose prompts are being read."""
    waiting: int
    """Rows that wait for room."""
    cache_tokens: int
    """Tokens of cache that these rows hold, in whole pages."""
    cache_room: int
    """Tokens of cache there are."""
    prompt_tokens: int
    """Tokens of the prompts read."""
    cached_prompt_tokens: int
    """How many of them were in the cache already."""
    generated_tokens: int
    steps: int
    """Forward passes."""
    preempted: int
    """How often a row lost its place to an older one, to be read again later."""


class Scheduler:
    """The rows that wait and those that run. For one thread."""

    def __init__(self, model: Llama) -> None:
        self.model = model
        self._waiting: deque[Row] = deque()
        self._running: Row | None = None
        self._steps: Iterator[list[Row]] = iter(())
        self._count = self._prompt_tokens = self._generated = 0

    def add(self, rows: Sequence[Row]) -> None:
        """Let rows wait for their turn."""
        self._waiting.extend(rows)

    @property
    def waiting(self) -> int:
        """Rows that wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Rows that have pages."""
        return int(self._running is not None)

    def stats(self, arrived: int = 0) -> LiveStats:
        """Figures of this moment; `arrived` rows wait beside those that wait here."""
        return LiveStats(
            running=self.running,
            waiting=self.waiting + arrived,
            cache_tokens=0,
            cache_room=0,
            prompt_tokens=self._prompt_tokens,
            cached_prompt_tokens=0,
            generated_tokens=self._generated,
            steps=self._count,
            preempted=0,
        )

    def forget(self) -> None:
        """Keep nothing of the prompts read so far: the model has changed."""

    def clear(self) -> None:
        """Drop all rows."""
        self._waiting.clear()
        self._running = None

    def step(self) -> list[Row]:
        """One forward pass; returns the rows that got tokens or ended."""
        if self._running is None:
            self._running = self._waiting.popleft()
            self._running.check_cancelled()
            if self._running.finish_reason is not None:
                return [self._end()]
            self._prompt_tokens += len(self._running.prompt)
            self._steps = Batch(self.model, [self._running]).run()
        row = self._running
        next(self._steps)
        self._count, self._generated = self._count + 1, self._generated + 1
        if row.finish_reason is not None:
            self._end()
        return [row]

    def _end(self) -> Row:
        row, self._running = self._running, None
        assert row is not None
        return row
