"""What the tests of sampling share: a base of random weights, prompts, and scorers that are functions."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from arriero.align.prompts import Prompt
from arriero.model.adapter_export import export_peft
from arriero.model.adapters import Adapters
from arriero.model.heads import SCORE, add_head
from arriero.model.lora_config import LoraConfig
from arriero.model.source import load_model

ODD = "¿q? 🦙\u2028\u0301羊\u200d"


def ask(text: str, **facts) -> Prompt:
    """A prompt of one message."""
    return Prompt(({"role": "user", "content": text},), **facts)


def write_prompts(path: Path, *texts: str) -> Path:
    """A file of prompts."""
    path.write_text("\n".join(json.dumps({"prompt": text}) for text in texts), encoding="utf-8")
    return path


def write_adapter(base: Path | str, folder: Path, seed: int, *, head: bool = False) -> Path:
    """An adapter for the base that changes what it says; with a scalar head, a reward model."""
    loaded = load_model(str(base), device="cpu", dtype="float32")
    adapters = Adapters.of(loaded.model)
    adapters.add("adapter", LoraConfig(rank=2), seed=seed)
    for change in adapters.changes("adapter").values():
        change.b.data.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(seed))
    if head:
        add_head(loaded.model, SCORE, seed=seed)
    export_peft(loaded, "adapter", folder, str(base))
    return folder


@dataclass(frozen=True)
class Judge:
    """A scorer that is a function of the response."""

    points: Callable[[str], float]
    name: str = "judge"

    def score(self, prompts: Sequence[object], responses: Sequence[str]) -> list[float]:
        """The function's points."""
        assert len(prompts) == len(responses)
        return list(map(self.points, responses))
