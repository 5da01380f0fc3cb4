"""Keys and values of prompts' beginnings, kept for the next question about the same document.

A document stands before the question in its prompt, so what the model makes of it does not depend on the question and
is computed once. The least recently used are forgotten when the room is full.
"""

from collections import OrderedDict

from arriero.common.errors import ArrieroError
from arriero.model.kv_cache import KVCache

PrefixKey = tuple[str, tuple[int, ...]]
"""The adapter that is on, '' for none, and the tokens."""


class PrefixCache:
    """Caches of one row each, up to so many bytes in all."""

    def __init__(self, most_bytes: int) -> None:
        if most_bytes < 0:
            raise ArrieroError(f"keep_bytes: expected 0 (keep nothing) or more, got {most_bytes}")
        self.most_bytes = most_bytes
        self.bytes = 0
        self._kept: OrderedDict[PrefixKey, KVCache] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: PrefixKey) -> KVCache | None:
        """The beginning's keys and values, if they are here."""
        if (cache := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
        return cache

    def put(self, key: PrefixKey, cache: KVCache) -> None:
        """Keep a beginning, unless it is larger than all the room."""
        size = _size(cache)
        if size > self.most_bytes or key in self._kept:
            return
        while self.bytes + size > self.most_bytes:
            self.bytes -= _size(self._kept.popitem(last=False)[1])
        self._kept[key] = cache
        self.bytes += size

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
        self.bytes = 0


def _size(cache: KVCache) -> int:
    return cache.k.nbytes + cache.v.nbytes
