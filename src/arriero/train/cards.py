"""What processors can do, hold and draw, by their makers' data sheets.

Rates are of dense products: bfloat16 ones that add up in float32, without the structured sparsity that doubles the
figure in advertisements, and float32 ones as PyTorch does them by default, without tensor cores. Power is the board's
limit, which LLaMA (arXiv 2302.13971, section 6) takes as what it draws.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from arriero.common.errors import ArrieroError, did_you_mean

GIB = 2**30
DType = Literal["bfloat16", "float32"]
"""What training may compute in."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One kind of processor."""

    name: str
    peak_flops: Mapping[DType, float]
    """Operations a second."""
    memory_bytes: float
    watts: float


def _card(name: str, teraflops: float, single_teraflops: float, gib: float, watts: float) -> Card:
    return Card(
        name=name,
        peak_flops={"bfloat16": teraflops * 1e12, "float32": single_teraflops * 1e12},
        memory_bytes=gib * GIB,
        watts=watts,
    )


CPU_WATTS_PER_CORE = 12.0
"""Of a core whose model isn't known: Lannelongue et al., Green Algorithms, Advanced Science 2021."""

CARDS: dict[str, Card] = {
    card.name: card
    for card in (
        _card("A100-80GB", 312, 19.5, 80, 400),  # NVIDIA A100 Tensor Core GPU data sheet, SXM column
        _card("A100-40GB", 312, 19.5, 40, 400),  # the same
        _card("H100", 989.4, 67, 80, 700),  # NVIDIA H100 data sheet, SXM: 1,979 with sparsity
        _card("H200", 989.4, 67, 141e9 / GIB, 700),  # NVIDIA H200 data sheet, SXM: 141 GB
        _card("L4", 121, 30.3, 24, 72),  # NVIDIA L4 data sheet: 242 with sparsity
        _card("L40S", 362, 91.6, 48, 350),  # NVIDIA L40S data sheet: 733 with sparsity
        _card("RTX-3090", 71, 35.6, 24, 350),  # NVIDIA Ampere GA102 whitepaper, table of the GeForce cards
        _card("RTX-4090", 165.2, 82.6, 24, 450),  # NVIDIA Ada whitepaper, table of the GeForce cards
        _card("MI300X", 1307.4, 163.4, 192e9 / GIB, 750),  # AMD Instinct MI300X data sheet: 192 GB
        # One core of a server: 64 operations a cycle (two units of 16 lanes, multiply and add) at 2 GHz, and the
        # 4 GiB that clouds give with it.
        _card("cpu-core", 0.128, 0.128, 4, CPU_WATTS_PER_CORE),
    )
}


def find_card(name: str) -> Card:
    """The card of a name, in any case, with spaces or hyphens.

    Raises:
        ArrieroError: there is none.
    """
    by_name = {known.lower(): card for known, card in CARDS.items()}
    wanted = "-".join(name.lower().split())
    if wanted in by_name:
        return by_name[wanted]
    begun = [known for known in by_name if known.startswith(wanted)] if wanted else []
    near = did_you_mean(begun[0] if begun else wanted, by_name)
    raise ArrieroError(f"unknown card '{name}'{near}: expected one of {', '.join(CARDS)}")


def recognise_card(device_name: str) -> Card | None:
    """The card that a driver calls `device_name`, such as 'NVIDIA A100-SXM4-80GB'; None for one that isn't known.

    Slices of a card, laptops' chips and slower builds of the H100 bear its name, but not its figures.
    """
    words = device_name.upper().replace("-", " ").split()
    if {"MIG", "LAPTOP"}.intersection(words) or ("H100" in words and {"PCIE", "NVL"}.intersection(words)):
        return None
    for card in CARDS.values():
        model, *rest = card.name.upper().split("-")
        if model == "RTX":
            if rest[0] in words:
                return card
        elif model in words and (not rest or rest[0] in words):
            return card
    return None
