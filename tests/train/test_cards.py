"""Cards by the names that people and drivers give them."""

import pytest
import torch

from arriero.train.cards import CARDS, find_card, recognise_card
from arriero.train.speed import peak_flops


@pytest.mark.parametrize(
    ("driver", "card"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA GeForce RTX 2080", None),
        ("CPU", None),
    ],
)
def test_cards_are_recognised_by_what_drivers_call_them(driver, card):
    found = recognise_card(driver)
    assert (found and found.name) == card


@pytest.mark.parametrize("name", ["RTX-4090", "rtx-4090", "RTX 4090"])
def test_a_card_is_found_however_its_name_is_written(name):
    assert find_card(name) is CARDS["RTX-4090"]


def test_an_unknown_card_is_answered_with_the_nearest():
    with pytest.raises(
        ValueError, match=r"unknown card 'A100' \(did you mean a100-80gb\?\): expected one of A100-80GB"
    ):
        find_card("A100")


@pytest.mark.parametrize(("driver", "teraflops"), [("NVIDIA L4", 121), ("NVIDIA L40S", 362), ("NVIDIA T4", None)])
def test_a_runs_peak_is_that_of_its_cards(driver, teraflops, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: driver)
    peak = peak_flops(torch.device("cuda"), 2)
    assert peak == (None if teraflops is None else 2 * teraflops * 1e12)
