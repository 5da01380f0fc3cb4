"""Whose the pages of a cache are: counted, shared between rows that begin alike, and kept for rows still to come.

A full page is known by the pages before it, the adapter that made them, and its tokens: a chain (as the prefix caching
of vLLM has it, but with numbers given once instead of hashes, so that no two beginnings can be taken for each other).
Pages that no row holds are kept while there is room, and the least recently used goes first.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence

from arriero.model.paged_cache import PagedCache

Chain = Hashable
"""What stands before a page: a number given by `name`, or whatever tells first pages apart."""
_Key = tuple[Chain, tuple[int, ...]]


class Blocks:
    """The pages of one cache."""

    def __init__(self, cache: PagedCache) -> None:
        self.cache, self.count = cache, cache.k.shape[1]
        self._free = list(range(self.count - 1, -1, -1))
        self._written = bytearray(self.count)
        self._holders = [0] * self.count
        self._named: dict[_Key, int] = {}
        self._keys: dict[int, _Key] = {}
        self._links: dict[int, int] = {}
        self._last_link = 0
        self._kept: OrderedDict[int, None] = OrderedDict()  # named, held by none; the least recently used first

    @property
    def room(self) -> int:
        """Pages that can be taken."""
        return len(self._free) + len(self._kept)

    @property
    def held(self) -> int:
        """Pages that rows hold."""
        return self.count - self.room

    def take(self, count: int) -> list[int]:
        """So many pages, at most `room`, for one holder; what they hold may be read as zeros at first."""
        taken = []
        for _ in range(count):
            if self._free:
                page = self._free.pop()
            else:
                page, _ = self._kept.popitem(last=False)
                self._unname(page)
            self._holders[page] = 1
            taken.append(page)
        self.cache.clear([page for page in taken if self._written[page]])
        for page in taken:
            self._written[page] = 1
        return taken

    def share(self, pages: Iterable[int]) -> list[int]:
        """The same pages, for one holder more."""
        shared = list(pages)
        for page in shared:
            self._holders[page] += 1
        return shared

    def is_shared(self, page: int) -> bool:
        """Whether another holder would see what is written there."""
        return self._holders[page] > 1

    def release(self, pages: Sequence[int]) -> None:
        """One holder less; the last of a row's pages are forgotten first, for nothing leads to them but the others."""
        for page in reversed(pages):
            self._holders[page] -= 1
            if self._holders[page] == 0:
                if page in self._keys:
                    self._kept[page] = None
                else:
                    self._free.append(page)

    def find(self, before: Chain, tokens: Sequence[int]) -> tuple[int, Chain] | None:
        """The page that holds these tokens behind that chain, now held once more, and the chain with it."""
        page = self._named.get((before, tuple(tokens)))
        if page is None:
            return None
        self._kept.pop(page, None)
        self._holders[page] += 1
        return page, self._links[page]

    def name(self, page: int, before: Chain, tokens: Sequence[int]) -> Chain:
        """Let a page, full now, be found; returns the chain with it: that of an equal page if there is one."""
        key = before, tuple(tokens)
        equal = self._named.setdefault(key, page)
        if equal == page:
            self._last_link += 1
            self._keys[page], self._links[page] = key, self._last_link
        return self._links[equal]

    def forget(self) -> None:
        """Let nothing be found: what the pages hold is no longer what the model would make of their tokens."""
        for page in list(self._keys):
            self._unname(page)
        self._free.extend(self._kept)
        self._kept.clear()

    def _unname(self, page: int) -> None:
        del self._named[self._keys.pop(page)]
        del self._links[page]
