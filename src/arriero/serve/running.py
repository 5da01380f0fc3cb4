"""Requests that the engine works on, seen from the event loop: their text as it comes, their end, their cancellation.

The engine calls back on its own thread; what it says is handed to the loop, so that nothing here ever waits for a token
but by `await`. A request whose client leaves is cancelled, and its row is free after the token in progress.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial

from anyio import CancelScope
from starlette.requests import Request as HttpRequest

from arriero.generate.live import Live
from arriero.generate.request import Completion, Delta, Request
from arriero.serve.errors import ApiError

Item = tuple[int, Delta | BaseException]


class Running:
    """Some requests of one client."""

    def __init__(self, cancel: threading.Event, timeout_s: float, first: Callable[[float], object]) -> None:
        """`Running.start` makes it.

        Args:
            cancel: the event that all of the requests watch.
            timeout_s: seconds from now until they are ended.
            first: told how many seconds the first token took.
        """
        self._cancel = cancel
        self._loop = asyncio.get_running_loop()
        self._told: asyncio.Queue[Item] = asyncio.Queue()
        self._begun = time.monotonic()
        self._deadline = self._begun + timeout_s
        self._first: Callable[[float], object] | None = first
        self._left = 0

    @classmethod
    def start(
        cls,
        live: Live,
        requests: Sequence[Request],
        cancel: threading.Event,
        timeout_s: float,
        first: Callable[[float], object],
    ) -> "Running":
        """Hand requests to the engine.

        Raises:
            ApiError: they are more than the server ever takes at once.
            ArrieroError: one of them cannot be served; none is then.
            BusyError: the queue is full.
        """
        samples, most = sum(request.sampling.n for request in requests), live.engine.max_batch + live.max_waiting
        if samples > most:
            param = "n" if len(requests) == 1 else "prompt"
            message = f"{param}: {samples} answers at once, and this server writes at most {most}: ask for fewer"
            raise ApiError(400, message, param, "too_many")
        running = cls(cancel, timeout_s, first)
        try:
            for index, request in enumerate(requests):
                live.submit(request, partial(running._listen, index))
                running._left += request.sampling.n
        except BaseException:
            running.cancel()
            raise
        return running

    async def deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        """(index of the request, what it gained), until all have ended.

        Raises:
            TimeoutError: it took too long; all are cancelled.
            ApiError: the server is stopping.
        """
        while self._left:
            try:
                async with asyncio.timeout(self._deadline - time.monotonic()):
                    index, item = await self._told.get()
            except TimeoutError:
                self.cancel()
                raise
            if isinstance(item, BaseException):
                self.cancel()
                raise item
            if self._first is not None:
                self._first(time.monotonic() - self._begun)
                self._first = None
            if item.completion is not None:
                self._left -= 1
                if item.completion.finish_reason == "cancelled" and not self._cancel.is_set():
                    raise ApiError(503, "the server is stopping: ask again in a moment", code="stopping")
            yield index, item

    async def completions(self) -> list[list[Completion]]:
        """All samples of each request, when the last has ended; raises as `deltas`."""
        done: dict[tuple[int, int], Completion] = {}
        async for index, delta in self.deltas():
            if delta.completion is not None:
                done[index, delta.sample] = delta.completion
        rows: list[list[Completion]] = [[] for _ in {index for index, _ in done}]
        for index, sample in sorted(done):
            rows[index].append(done[index, sample])
        return rows

    def cancel(self) -> None:
        """End all that still runs."""
        self._cancel.set()

    def _listen(self, index: int, item: Delta | BaseException) -> None:
        """On the decoding thread."""
        with suppress(RuntimeError):  # the loop is closed: the server has ended
            self._loop.call_soon_threadsafe(self._told.put_nowait, (index, item))


@contextmanager
def ended_by(cancel: threading.Event) -> Iterator[None]:
    """Set the event at the end of the block, however it ends."""
    try:
        yield
    finally:
        cancel.set()


@asynccontextmanager
async def watched(http: HttpRequest, cancel: threading.Event) -> AsyncIterator[None]:
    """`connected`, and the event is set at the block's end in any case."""
    with ended_by(cancel):
        async with connected(http, cancel):
            yield


@asynccontextmanager
async def connected(http: HttpRequest, cancel: threading.Event) -> AsyncIterator[None]:
    """When the client leaves, the block is ended and the event is set.

    Raises:
        ApiError: the client has left: nobody will read the answer.
    """

    async def watch() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass
        cancel.set()
        scope.cancel()

    with CancelScope() as scope:
        task = asyncio.create_task(watch())
        try:
            yield
        finally:
            task.cancel()
    if scope.cancelled_caught:
        raise ApiError(499, "the client has left", code="cancelled")
