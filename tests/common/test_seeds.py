"""Seeds for what is named."""

from arriero.common.seeds import seed_of


def test_seeds_differ_by_every_part_and_are_the_same_again():
    seeds = {seed_of(a, b, c) for a in range(3) for b in range(20) for c in ("x", "y", "z", "xy")}
    assert len(seeds) == 240
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seed_of(1, 23) != seed_of(12, 3)
    assert seed_of(1, "a") == seed_of(1, "a") == 1226463029
