"""What the commands on runs share: their settings without what is the command's own, and this process's place."""

import os
from dataclasses import fields
from typing import Any, TypeVar

S = TypeVar("S")


def settings_of(config: Any, kind: type[S]) -> S:
    """The settings of a run, out of a command's config that adds to them."""
    return kind(**{field.name: getattr(config, field.name) for field in fields(kind)})  # type: ignore[arg-type]


def processes() -> int:
    """How many processes `torchrun` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the one that tells."""
    return os.environ.get("RANK", "0") == "0"
