"""An engine that never stops: requests join and leave between two steps, from any thread.

One thread decodes; all others only hand it requests and wait for what it tells them. What a request says does not
depend on the others that decode beside it (`scheduler.py`).
"""

import dataclasses
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

from arriero.common.errors import ArrieroError, BusyError
from arriero.generate.engine import Engine, evaluating
from arriero.generate.request import Completion, Delta, Request
from arriero.generate.row import Row, open_rows
from arriero.generate.scheduler import LiveStats
from arriero.model.paged_cache import PAGE

__all__ = ["Live", "LiveStats"]

T = TypeVar("T")
_STEP_TOKENS = 512  # of one forward pass: bounds how long a prompt holds up the answers being written
Listener = Callable[[Delta | BaseException], None]


class Live:
    """An `Engine` for many threads at once; call `close` at the end."""

    def __init__(self, engine: Engine, *, max_waiting: int = 256) -> None:
        """Start decoding.

        Args:
            engine: nothing else may use its model meanwhile, but through `between`.
            max_waiting: most samples that wait beside the engine's `max_batch` that run.

        Raises:
            ArrieroError: the engine's cache is too small for any request.
        """
        self.engine, self.tokenizer, self.model = engine, engine.tokenizer, engine.model
        self.context = min(engine.context, engine.max_pages * PAGE)
        """Most tokens of prompt and answer together: what the model was trained for, if the cache holds it."""
        if not engine.max_pages:
            has, page = engine.max_cache_bytes, PAGE * engine.token_bytes
            raise ArrieroError(f"a KV cache of {has:,} bytes is too small: {PAGE} tokens take {page:,}")
        self.max_waiting = max_waiting
        self._scheduler = engine.open_scheduler(engine.max_pages, _STEP_TOKENS)
        self._changed = threading.Condition()  # guards what follows
        self._arrived: deque[_Asked] = deque()
        self._open: dict[Row, _Asked] = {}  # by the rows that have not ended
        self._work: deque[Callable[[], None]] = deque()
        self._closing = self._ended = False
        self._thread = threading.Thread(target=self._run, name="arriero-live", daemon=True)
        self._thread.start()

    def submit(self, request: Request, listen: Listener) -> None:
        """Begin a request and return at once.

        Args:
            request: what to continue; setting its `cancel` ends it.
            listen: called on the decoding thread with each delta, the last of each sample carrying its completion, or
                with the exception that ended the request; it must return at once.

        Raises:
            ArrieroError: as `Engine.generate` does.
            BusyError: too many wait already, or the engine is closing.
        """
        self._submit(request, listen)

    def stream(self, request: Request) -> Generator[Delta, None, None]:
        """As `Engine.stream`. Raises as `submit` does; closing the iterator ends the request."""
        told: SimpleQueue[Delta | BaseException] = SimpleQueue()
        rows = self._submit(request, told.put)
        deltas = _listen(told, rows)
        weakref.finalize(deltas, _drop, rows).atexit = False  # it may be closed before it has begun
        return deltas

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """As `Engine.generate`, beside whatever else is running; waits where `submit` would raise BusyError."""
        for request in requests:
            self.engine.check(request)
        told: SimpleQueue[tuple[int, Delta | BaseException]] = SimpleQueue()
        opened: list[Row] = []
        done: dict[tuple[int, int], Completion] = {}
        try:
            for index, request in enumerate(requests):
                opened += self._submit(request, partial(_tell_of, told, index), wait=True)
            while len(done) < len(opened):
                index, delta = told.get()
                if isinstance(delta, BaseException):
                    raise delta
                if delta.completion is not None:
                    done[index, delta.sample] = dataclasses.replace(delta.completion, request=index)
        finally:
            _drop(opened)
        return [done[key] for key in sorted(done)]

    def between(self, work: Callable[[], T]) -> T:
        """The result of `work`, done on the decoding thread between two steps: adapters in and out.

        What was kept of prompts is forgotten; requests that can no longer be served, because their adapter has gone,
        end with the error that says so.
        """
        if threading.current_thread() is self._thread:
            return work()
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:  # the caller's, who gets it from the future
                future.set_exception(error)

        with self._changed:
            ended = self._ended
            if not ended:
                self._work.append(run)
                self._changed.notify_all()
        return work() if ended else future.result()

    def stats(self) -> LiveStats:
        """Figures of this moment."""
        with self._changed:
            arrived = sum(len(asked.rows) for asked in self._arrived)
        return self._scheduler.stats(arrived)

    def close(self, patience_s: float = 0.0) -> None:
        """Take no more requests; end those that are not done after `patience_s` seconds, as cancelled."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(patience_s)
        with self._changed:
            _drop(list(self._open))
            self._changed.notify_all()
        self._thread.join()

    def _submit(self, request: Request, listen: Listener, *, wait: bool = False) -> list[Row]:
        self.engine.check(request)
        rows = open_rows(request, 0, self.tokenizer, stream=True)
        most = self.engine.max_batch + self.max_waiting
        with self._changed:
            while wait and len(self._open) >= most and not self._closing:
                self._changed.wait()
            if self._closing:
                raise BusyError("the engine is closing: it takes no more requests")
            if len(self._open) >= most:
                raise BusyError(f"{len(self._open)} answers are being written or waited for already: try later")
            asked = _Asked(rows, listen)
            self._open.update(dict.fromkeys(rows, asked))
            self._arrived.append(asked)
            self._changed.notify_all()
        return rows

    def _run(self) -> None:
        with evaluating(self.model):
            while self._prepare():
                try:
                    self._tell(self._scheduler.step())
                except Exception as error:  # whatever it is, it is told to those who wait for an answer
                    self._fail(error)

    def _prepare(self) -> bool:
        """Wait until there is something to decode, and do what was to be done between two steps; False at the end."""
        while True:
            with self._changed:
                while not (self._work or self._open or self._closing):
                    self._changed.wait()
                work, self._work = self._work, deque()
                while self._arrived:
                    self._scheduler.add(self._arrived.popleft().rows)
                if not work:
                    self._ended = not self._open
                    return not self._ended
            for run in work:
                run()
            self._scheduler.forget()
            self._end_unservable()

    def _end_unservable(self) -> None:
        for asked in set(self._open.values()):
            try:
                self.engine.check(asked.request)
            except ArrieroError as error:
                self._give_up(asked, error)

    def _fail(self, error: Exception) -> None:
        self._scheduler.clear()
        for asked in set(self._open.values()):
            self._give_up(asked, error)

    def _tell(self, moved: Sequence[Row]) -> None:
        for row in moved:
            asked, delta = self._open.get(row), row.delta()
            if asked is None or delta is None:
                continue
            if delta.completion is not None:
                self._close_rows([row])
            try:
                asked.listen(delta)
            except Exception:  # nobody listens any more
                _drop(asked.rows)

    def _give_up(self, asked: "_Asked", error: Exception) -> None:
        """End a request by an error."""
        _drop(asked.rows)
        self._close_rows(asked.rows)
        with suppress(Exception):
            asked.listen(error)

    def _close_rows(self, rows: Sequence[Row]) -> None:
        """Make room for others."""
        with self._changed:
            for row in rows:
                self._open.pop(row, None)
            self._changed.notify_all()


@dataclasses.dataclass(frozen=True, eq=False)
class _Asked:
    """A request, and who hears of it."""

    rows: list[Row]
    listen: Listener

    @property
    def request(self) -> Request:
        return self.rows[0].request


def _listen(told: "SimpleQueue[Delta | BaseException]", rows: list[Row]) -> Generator[Delta, None, None]:
    """What is told of a request, until its last sample has ended."""
    left = len(rows)
    try:
        while left:
            delta = told.get()
            if isinstance(delta, BaseException):
                raise delta
            left -= delta.completion is not None
            yield delta
    finally:
        _drop(rows)


def _tell_of(told: "SimpleQueue[tuple[int, Delta | BaseException]]", index: int, delta: Delta | BaseException) -> None:
    told.put((index, delta))


def _drop(rows: Sequence[Row]) -> None:
    for row in rows:
        row.dropped = True
