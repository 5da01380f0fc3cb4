"""Ctrl-C ends the work at hand and not the program."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stoppable(event: threading.Event | None) -> Iterator[None]:
    """While the block runs, the first Ctrl-C sets `event`; a second one interrupts as usual.

    Outside the main thread signals cannot be handled, and the block runs as it is.
    """
    if event is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def interruptible() -> Iterator[None]:
    """While the block runs Ctrl-C interrupts at once, also within `stoppable`: for work that looks at no event."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
