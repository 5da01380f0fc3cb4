"""The page that a passage is cut from, as far as a collection holds it: put together again from its passages.

Passages cover every character that is no blank, with their places in the document's text (`rag/chunk.py`), so that no
file has to be parsed again, or be there at all. Blanks between two passages are not kept; so many line breaks stand for
them, or one blank for one. Text of a neighbouring page that shares a passage with the page comes along.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from arriero.common.errors import NotFoundError
from arriero.rag.passage import Passage
from arriero.rag.store import Store

_NEIGHBOURS = 50
"""Passages looked at on either side."""
_CHARACTERS = 3000
"""Shown on either side where there are no pages."""


@dataclass(frozen=True, kw_only=True)
class PageText:
    """A passage in its page; offsets count characters (code points)."""

    passage: Passage
    text: str
    start: int
    """The passage's first character in `text`."""
    end: int


def find_page(store: Store, number: int) -> PageText:
    """The passage of an id, and its page, or the text around it where there are no pages.

    Raises:
        NotFoundError: the passage is gone, or never was.
    """
    with store.read():
        found = store.passages([number]).get(number)
        if found is None:
            raise NotFoundError(f"there is no passage {number}: its document may have been removed or replaced")
        passage = found[0]
        ids = store.passage_ids({"document": passage.document})
        place = int(np.searchsorted(ids, number))
        near = store.passages(ids[max(0, place - _NEIGHBOURS) : place + _NEIGHBOURS + 1].tolist())
    same = [other for other, _, _ in near.values() if _shares_page(other, passage)]
    first, text = _join(sorted(same, key=lambda other: other.start))
    return PageText(passage=passage, text=text, start=passage.start - first, end=passage.end - first)


def _shares_page(other: Passage, passage: Passage) -> bool:
    if passage.page is None or other.page is None:
        return passage.start - _CHARACTERS <= other.start and other.end <= passage.end + _CHARACTERS
    return other.page <= passage.page <= (other.page_end or other.page)


def _join(passages: Sequence[Passage]) -> tuple[int, str]:
    """Where in the document the passages begin, and their text with every character in its place."""
    first = end = passages[0].start
    parts = []
    for passage in passages:
        gap = passage.start - end
        if gap > 0:
            parts.append(" " if gap == 1 else "\n" * gap)
        if passage.end > end:
            parts.append(passage.text[max(0, -gap) :])
            end = passage.end
    return first, "".join(parts)
