"""A bar on the error stream while documents are taken in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from arriero.common.progress import progress

if TYPE_CHECKING:
    from arriero.rag.ingest import IngestProgress


@contextmanager
def ingest_bar(description: str) -> Iterator[Callable[["IngestProgress"], None]]:
    """A bar in percent of an ingest's work."""
    with progress(description, 100, "%") as advance:
        shown = 0

        def tell(state: "IngestProgress") -> None:
            nonlocal shown
            if (now := int(state.share * 100)) > shown:
                advance(now - shown)
                shown = now

        yield tell
