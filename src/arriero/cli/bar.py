"""A bar in percent of the input's bytes, for commands that read files."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from arriero.common.progress import progress


@contextmanager
def reading_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Show the bar on the error stream; the yielded function is called with the bytes done, and all bytes."""
    with progress(description, 100, "%") as advance:
        shown = 0

        def tell(done: int, total: int) -> None:
            nonlocal shown
            if (now := 100 * done // max(1, total)) > shown:
                advance(now - shown)
                shown = now

        yield tell
