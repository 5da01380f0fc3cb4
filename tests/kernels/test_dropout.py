"""Philox against its authors' known answers, and the properties that attention relies on."""

import pytest
import torch

from arriero.kernels.dropout import dropout_keep, philox, threshold


def word(seed: int, *counter: int) -> int:
    return int(philox(seed, *(torch.tensor(c) for c in counter)))


def test_known_answers():
    # kat_vectors of the authors' Random123: counter 0, key 0
    assert word(0, 0, 0, 0) == 0x6627E8D5


def test_every_part_of_the_place_and_both_halves_of_the_seed_count():
    places = [(0, 0, 0, 0), (1, 0, 0, 0), (2**32, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    assert len({word(seed, *counter) for seed, *counter in places}) == len(places)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_keeps_the_share_that_it_should(rate):
    place = torch.arange(400)
    keep = dropout_keep(1, rate, torch.tensor(0), place[:, None], place[None])
    deviation = (rate * (1 - rate) / keep.numel()) ** 0.5
    assert abs(keep.double().mean().item() - (1 - rate)) <= 5 * deviation


def test_same_seed_same_mask_whatever_the_block():
    place = torch.arange(64)
    whole = dropout_keep(7, 0.3, torch.tensor(5), place[:, None], place[None])
    part = dropout_keep(7, 0.3, torch.tensor(5), place[16:32, None], place[None, 48:])
    assert torch.equal(part, whole[16:32, 48:])
    other = dropout_keep(8, 0.3, torch.tensor(5), place[:, None], place[None])
    assert 0.5 < (whole == other).double().mean() < 0.7  # two independent masks agree with 0.3² + 0.7² = 0.58


def test_threshold_is_the_share_of_all_words():
    assert threshold(0.25) == 2**30
