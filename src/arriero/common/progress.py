"""Progress of long work, on the error stream: share done, rate and time left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

Advance = Callable[[int], None]


@contextmanager
def progress(description: str, total: int, unit: str) -> Iterator[Advance]:
    """Show a bar while the block runs; call the yielded function with the number of units done since the last call.

    On a stream that is no terminal one line is printed at the end, so that logs stay short.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total)
        yield lambda done: bar.advance(task, done)


@contextmanager
def byte_progress(
    description: str, look: Callable[[], tuple[int, int]], *, of_bytes: bool
) -> Iterator[Callable[[], None]]:
    """Show a bar of work that others do; each call of the yielded function looks how far it is.

    Args:
        description: in front of the bar.
        look: tells (done, all).
        of_bytes: show amounts and rate in bytes, else plain numbers.
    """
    amounts = (DownloadColumn(), TransferSpeedColumn()) if of_bytes else (MofNCompleteColumn(),)
    columns = (TextColumn("{task.description}"), BarColumn(), *amounts, TimeElapsedColumn(), TextColumn("left"),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=None)

        def update() -> None:
            done, total = look()
            bar.update(task, completed=done, total=total)

        yield update
