"""The settings of Ghost Attention's examples: which dialogues and instructions, whose answers, what is learnt."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from arriero.common.errors import ArrieroError
from arriero.model.choices import DEFAULT_MODEL

Place = Literal["user", "system"]
"""Where in the first turn an instruction stands that stands there alone: behind what the user says, or in a
system message."""


@dataclass(frozen=True, kw_only=True)
class GhostConfig:
    """Which dialogues, which instructions, and whose answers."""

    model: str = DEFAULT_MODEL
    """The newest model, which answers: a known name, a folder, an adapter's folder, a .gguf file or a hub id."""
    dialogues: tuple[Path, ...] = ()
    """Files of dialogues whose user's messages are taken, in any format that `arriero sft` reads; default: ours."""
    count: int | None = None
    """Dialogues to sample; default: each of the files once, or 200 of ours."""
    turns: int = 4
    """Most messages of the user in a dialogue."""
    constraints: Path | None = None
    """Constraints of your own as JSON lines of kind, text, short and check; default: ours."""
    kinds: tuple[str, ...] = ()
    """Kinds of constraint to combine; default: hobby, language and figure, as in Llama 2; or all of your own."""
    place: Place = "user"
    """Where the instruction stands in the examples: at the end of the first message, or in a system message."""
    learn: Literal["last", "each"] = "last"
    """Make one example of a dialogue, which ends with its last turn; or one of each turn, which ends with that."""
    only_adhering: bool = False
    """Leave out examples whose last answer breaks what a program can tell of the instruction."""
    temperature: float = 0.7
    """Of the answers."""
    top_p: float = 0.95
    """Of the answers: sample among the likeliest tokens that together hold this probability."""
    max_tokens: int = 128
    """Most tokens of an answer."""
    portion: int = 16
    """Dialogues that are held, and written down, together."""
    device: str = "auto"
    """auto, cpu or cuda."""
    seed: int = 0
    """Of dialogues, instructions and answers."""

    def __post_init__(self) -> None:
        for name in ("count", "turns", "portion"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ArrieroError(f"{name}: expected 1 or more, got {value}")
