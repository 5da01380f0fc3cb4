"""A stage of the road: the commands that it consists of, what it needs and what it makes; and the place of them all."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

StageName = Literal[
    "answer", "corpus", "tokenizer", "tokenize", "pretrain", "sft", "preferences", "reward", "rejection", "ppo", "lora",
    "retriever", "card",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much each stage does, on two cores of a machine of usual speed."""

    modules: int
    """Of the standard library, whose code is read; docstrings are read of all."""
    vocab_size: int
    model: str
    """Preset of the model that is pretrained."""
    pretrain_steps: int
    """Of 4 rows of 256 tokens."""
    examples: int
    """To fine-tune the pretrained model on."""
    epochs: float
    prompts: int
    """That pairs, rewards, rejection sampling and PPO are about."""
    samples: int
    """K: answers to each prompt in rejection sampling."""
    iterations: int
    """Of PPO, of 32 answers."""
    lora_examples: int
    """To fine-tune SmolLM2's upper layers on."""
    retriever_epochs: float
    evaluated: int
    """Held-out questions that are answered with what is found."""

    def at_speed(self, speed: float) -> "Size":
        """What a machine of another speed gets done in the same time, in the stages that take most of it."""
        return replace(
            self,
            pretrain_steps=max(40, round(self.pretrain_steps * speed)),
            prompts=max(24, round(self.prompts * min(1.0, speed))),
            lora_examples=max(32, round(self.lora_examples * min(1.0, speed))),
        )


FULL = Size(
    modules=200,
    vocab_size=2048,
    model="tiny-6m",
    pretrain_steps=1200,
    examples=1500,
    epochs=2.0,
    prompts=360,
    samples=8,
    iterations=30,
    lora_examples=320,
    retriever_epochs=2.0,
    evaluated=8,
)
FAST = Size(
    modules=60,
    vocab_size=2048,
    model="tiny-6m",
    pretrain_steps=280,
    examples=500,
    epochs=2.0,
    prompts=64,
    samples=4,
    iterations=8,
    lora_examples=48,
    retriever_epochs=1.0,
    evaluated=2,
)


@dataclass(frozen=True, kw_only=True)
class Road:
    """Where all stages lie, and how large they are."""

    path: Path
    size: Size
    device: str = "auto"

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def on_device(self) -> tuple[str, ...]:
        """The option that says on which device, where one was asked for."""
        return () if self.device == "auto" else ("--device", self.device)


@dataclass(frozen=True, kw_only=True)
class Call:
    """A command of arriero with its words, as they may be typed."""

    name: str
    words: tuple[str, ...]
    makes: Path | None = None
    """What is there when it came to its end, where a later command of the stage reads it."""

    @classmethod
    def of(cls, name: str, *words: object, makes: Path | None = None) -> "Call":
        """With its words made text."""
        return cls(name=name, words=tuple(map(str, words)), makes=makes)

    def __str__(self) -> str:
        return f"arriero {self.name} {shlex.join(self.words)}"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage."""

    name: StageName
    title: str
    """What it does, as an order."""
    tells: str
    """What is to be learnt from it, in a line or two."""
    needs: tuple[StageName, ...] = ()
    """Stages whose results it reads."""
    made: str
    """Its last result, below the road's folder: the stage is done when it is there."""
    prepare: Callable[[Road], None] = lambda road: None
    """Writes what its commands read."""
    calls: Callable[[Road], list[Call]]
    runs: tuple[str, ...] = ()
    """Folders of its training runs, with diaries."""
