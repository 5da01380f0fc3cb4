"""Processes that work for another one: they leave Ctrl-C to it, and end with it."""

import contextlib
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import wait


def begin_work() -> None:
    """What each process of a pool does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """A pool's processes would wait for ever for one that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    with contextlib.suppress(OSError):
        wait([parent.sentinel])
    os._exit(1)
