"""Reward models on real preferences, beside the rules that a model must beat to have learnt more than lengths.

Helpfulness: AlpacaEval's pairs, judged by GPT-4, where the longer answer wins about three times of four. Harmlessness:
pairs of HH-RLHF's harmless part, where the shorter one wins a little more often than not. Prompts are held out by their
words, so that no prompt is on both sides; intervals are Wilson's over pairs, though pairs of one prompt are less than
independent. SmolLM2-135M-Instruct learns by LoRA in its upper ten layers, whose backward pass ends there.

    python benchmarks/reward.py --helpful helpful_pairs_dev.jsonl.gz --harmless hh_harmless_dev.jsonl.gz
        [--keep FOLDER] [--json]
"""

import argparse
import json
import math
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from figures import Figure, as_json, beside, print_targets

from arriero.align.preferences import Kind
from arriero.align.reward_config import ComparisonsConfig, RewardModelConfig, RewardOptimizerConfig
from arriero.align.reward_measure import Accuracy, Evaluation, read_evaluation
from arriero.align.reward_train import EVALUATION, train_reward
from arriero.common.machine import machine_line
from arriero.model.lora_config import LoraConfig
from arriero.train.sft_config import EpochsConfig

UPPER = r"layers\.2\d\..*(wq|wk|wv|wo|w1|w2|w3)"
"""The matrices of the last ten of SmolLM2's thirty layers."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """One reward model."""

    kind: Kind
    data: Path
    epochs: float
    tokens: int
    """Longest dialogue; a longer one takes time that a laptop has not."""


def main() -> int:
    """Train both, and tell the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--helpful", type=Path, help="preferences by helpfulness")
    parser.add_argument("--harmless", type=Path, help="preferences by safety")
    parser.add_argument("--keep", type=Path, help="keep the runs here, and go on with what is there")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    cases = [
        Case("helpfulness", given.helpful, 1.0, 200) if given.helpful else None,
        Case("safety", given.harmless, 1.0, 400) if given.harmless else None,
    ]
    with tempfile.TemporaryDirectory() as scratch:
        rows = [_run(case, given.keep or Path(scratch)) for case in cases if case is not None]
    if given.json:
        told = [{"minutes": minutes, **asdict(found)} for found, minutes in rows]
        figures = [figure for found, _ in rows for figure in judge(found)]
        print(json.dumps({"models": told, "targets": as_json(figures)}))
        return 0
    print(f"{machine_line(CPU)}\n")
    for found, minutes in rows:
        _tell(found, minutes)
    return 0


def _run(case: Case, folder: Path) -> tuple[Evaluation, float]:
    settings = RewardModelConfig(
        device="cpu",
        comparisons=ComparisonsConfig(preferences=(case.data,), kind=case.kind, eval_share=0.15, tokens=case.tokens),
        training=EpochsConfig(epochs=case.epochs, patience=0, batch=16),
        optim=RewardOptimizerConfig(lr=5e-4),
        lora=LoraConfig(rank=16, alpha=32.0, targets=(UPPER,)),
    )
    began = time.monotonic()
    run = folder / case.kind
    if (end := train_reward(run, settings)) != "finished":
        sys.exit(f"{case.kind}: {end}")
    return read_evaluation(run / EVALUATION), (time.monotonic() - began) / 60


def _tell(found: Evaluation, minutes: float) -> None:
    print(f"## {found.kind}, {minutes:.0f} minutes\n")
    print("| held-out pairs | right | 95% | of |\n|---|---|---|---|")
    rows = {"reward model": found.accuracy, "the longer wins": found.longer, "the shorter wins": found.shorter}
    for name, own in {**rows, **found.degrees}.items():
        print(f"| {name} | {own.share:.1%} | {own.low:.1%}–{own.high:.1%} | {own.count:,} |")
    print(f"\nloss {found.loss:.3f}, calibration error {found.calibration_error:.3f}\n")
    print_targets(judge(found))
    print()


def judge(found: Evaluation) -> list[Figure]:
    """The accuracy beside the simplest rule's, in per cent."""
    own: Accuracy = found.accuracy
    rule, name = (
        (found.longer, "the longer wins") if found.kind == "helpfulness" else (found.shorter, "the shorter wins")
    )
    share, told = 100 * own.share, f"reward model, {found.kind}: held-out accuracy"
    if found.kind == "helpfulness":
        return [beside(f"{told} ÷ {name}", share, 100 * rule.share, name, "%", least=1.0)]
    least = share - 200 * math.sqrt(own.share * (1 - own.share) / own.count)
    return [
        Figure(what=told, value=share, least=60.0, unit="%"),
        beside(f"{told} less two standard errors ÷ {name}", least, 100 * rule.share, name, "%", least=1.0),
    ]


if __name__ == "__main__":
    sys.exit(main())
