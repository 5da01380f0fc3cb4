"""Models written beside their place, by one process at a time; what was there stays until what is new has proved right.

Beside the target `NAME` a folder `.NAME.new` holds what is being written and, for the moment of the exchange, what it
replaces. A process that is killed leaves it behind; the next one that writes the same target puts back what was taken
away and clears the rest.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from arriero.common.errors import ArrieroError
from arriero.common.lock import hold_lock

_LOCK, _REPLACED = ".lock", ".replaced"


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Yield a path for a file or folder to be written; on a clean exit it becomes `target`, on an error it goes away.

    Raises:
        ArrieroError: another process writes the target, or it cannot be written; then all is as it was.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100 - `resolve` would follow a link that is to be replaced
    aside = target.with_name(f".{target.name}.new")
    with hold_lock(aside / _LOCK, wait_s=0, what="what is exported"):
        if not (aside / _LOCK).exists():
            raise ArrieroError(f"{target}: another process has just written it: look at that first")
        replaced = aside / _REPLACED
        if os.path.lexists(replaced) and not os.path.lexists(target):
            replaced.rename(target)
        try:
            for left in aside.iterdir():
                if left.name != _LOCK:
                    _remove(left)
            yield aside / target.name
            _exchange(aside / target.name, target, replaced)
        except SafetensorError as error:
            raise ArrieroError(f"{target}: cannot be written ({error})") from error
        except OSError as error:
            reason = error.strerror or f"{error}: is the disk full?"  # NumPy counts bytes and gives no other reason
            raise ArrieroError(f"{error.filename or target}: cannot be written ({reason})") from error
        finally:
            shutil.rmtree(aside)


def _exchange(new: Path, target: Path, replaced: Path) -> None:
    """The new one in the target's place; a file takes another's at once, a folder after that is moved away."""
    if not new.is_dir() or not os.path.lexists(target):
        new.replace(target)
        return
    target.rename(replaced)
    try:
        new.rename(target)
    except OSError:
        replaced.rename(target)
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
