"""A random order of n things that is computed place by place and never stored.

A Feistel network over an even number of bits, walked until it falls below n (Black & Rogaway, "Ciphers with Arbitrary
Finite Domains", 2002), permutes 0 … n − 1 by a key: the order of a billion documents costs nothing to hold or to
resume, where a shuffled array costs 8 GB and its own file in every checkpoint.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

ROUNDS = 8
"""Four make a network of random functions pseudorandom; small n wants more."""


class Permutation:
    """The order of `n` things that belongs to `key`."""

    def __init__(self, n: int, key: str) -> None:
        self.n = n
        half = max(1, (max(n - 1, 1).bit_length() + 1) // 2)
        self._half, self._mask = np.uint64(half), np.uint64((1 << half) - 1)
        digest = hashlib.blake2b(key.encode(), digest_size=8 * ROUNDS).digest()
        self._keys = np.frombuffer(digest, np.dtype("<u8"))

    def at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """What stands at each of `places`, from 0 to n − 1."""
        values = self._permute(places.astype(np.uint64))
        while len(beyond := np.flatnonzero(values >= self.n)):
            values[beyond] = self._permute(values[beyond])
        return values.astype(np.int64)

    def _permute(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & self._mask)
        return (left << self._half) | right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser; products wrap around."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
