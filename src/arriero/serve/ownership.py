"""Whose an upload is, where several servers share a collection: a server's own, until that server ends or dies.

The names of a server's uploads begin with its own. In the collection's folder lies a lock by that name, which the
kernel frees with the server's process: only then the next server takes up what is left.
"""

import secrets
from contextlib import ExitStack, suppress
from pathlib import Path

from arriero.common.errors import ArrieroError
from arriero.common.lock import hold_lock

_LENGTH = 12
"""Characters of a server's name."""


class Ownership:
    """The uploads of one server, in all collections."""

    def __init__(self) -> None:
        self._name = secrets.token_hex(_LENGTH // 2)
        self._held = ExitStack()
        self._locks = set[Path]()

    def name_upload(self, collection: Path) -> str:
        """A name for a new upload to a collection, given by its folder."""
        lock = _lock(collection, self._name)
        if lock not in self._locks or not lock.exists():
            self._hold(lock)  # where that cannot be, it is free for all
        return self._name + secrets.token_hex(6)

    def take_over(self, collection: Path) -> None:
        """Make all uploads to a collection this server's whose own has ended."""
        for lock in collection.glob(".uploads-*.lock"):
            if lock not in self._locks:
                self._hold(lock)

    def owns(self, collection: Path, upload: str) -> bool:
        """Whether an upload, by its name, is this server's to take in."""
        lock = _lock(collection, upload[:_LENGTH])
        return lock in self._locks or not lock.exists()

    def close(self, left: set[str]) -> None:
        """Let the next server have what is left: these uploads."""
        owners = {upload[:_LENGTH] for upload in left}
        for lock in self._locks:
            if lock.name.removeprefix(".uploads-").removesuffix(".lock") not in owners:
                lock.unlink(missing_ok=True)
        self._held.close()

    def _hold(self, lock: Path) -> None:
        with suppress(ArrieroError):  # another has it
            self._held.enter_context(hold_lock(lock, wait_s=0, what="the uploads"))
            self._locks.add(lock)


def _lock(collection: Path, owner: str) -> Path:
    return collection / f".uploads-{owner}.lock"
