"""Errors that a user can mend, and the checks that raise them.

Every message is one line that says what was expected, what came, and how to mend it; the command line prints that line
and exits with code 2. Anything that is not an `ArrieroError` is a defect of ours and keeps its traceback.
"""

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class ArrieroError(ValueError):
    """Bad input, with a one-line message that says how to mend it."""


class FormatError(ArrieroError):
    """A file is truncated, corrupt, or of a kind that is not supported; the message names the file."""


class NotFoundError(ArrieroError):
    """A named thing (a model, a file, a collection, a document) does not exist; the message says how to get it."""


class BusyError(ArrieroError):
    """Too much is waiting already; the same request may be served a moment later."""


class StorageError(ArrieroError):
    """The disk is full or fails, or may not be written; what was stored before is unharmed."""


class MissingExtraError(ArrieroError):
    """An optional dependency is not installed; the message gives the install command."""


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency where it is used, so that `import arriero` stays light.

    Raises:
        MissingExtraError: naming the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # the dependency is there and is itself broken: not a missing extra
        message = f"{purpose} needs the package '{module}': pip install 'arriero[{extra}]'"
        raise MissingExtraError(message) from error


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """' (did you mean X?)' for the nearest candidate, or '' when none is near."""
    near = difflib.get_close_matches(word, list(candidates), n=1)
    return f" (did you mean {near[0]}?)" if near else ""
