"""One writer at a time: a lock on a file that the kernel releases when its holder dies, however it dies."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from arriero.common.errors import ArrieroError

_PAUSE_S = 0.05


@contextmanager
def hold_lock(path: Path, *, wait_s: float, what: str = "the collection") -> Iterator[None]:
    """Hold the lock for the block, waiting up to `wait_s` seconds for another process to give it up.

    Args:
        path: the file of the lock, in the folder that is written.
        wait_s: seconds.
        what: what an error calls the folder's content.

    Raises:
        ArrieroError: another process kept it, or the folder cannot be written.
    """
    deadline = time.monotonic() + wait_s
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise ArrieroError(f"{what} in {path.parent} cannot be written ({error.strerror})") from error
    try:
        while not _try(handle):
            if time.monotonic() >= deadline:
                holder = os.pread(handle, 20, 0).decode("ascii", "replace").strip() or "unknown"
                raise ArrieroError(
                    f"another process (id {holder}) is writing to {what} in {path.parent}: "
                    "try again when it has finished"
                )
            time.sleep(_PAUSE_S)
        with suppress(OSError):  # the disk is full: the lock holds without a name
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


def _try(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
