"""Seeds for what is named: the same in every process, order and attempt."""

import hashlib


def seed_of(*parts: object) -> int:
    """A seed of 31 bits, of the parts' representations: numbers, texts and tuples of them."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest(), "big") >> 1
