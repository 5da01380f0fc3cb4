"""The settings of context distillation: which prompts, behind which preprompts, whose answers, and who judges them."""

from dataclasses import dataclass
from pathlib import Path

from arriero.common.errors import ArrieroError, did_you_mean
from arriero.model.choices import DEFAULT_MODEL

PREPROMPTS = {
    "generic": "You are a careful and responsible assistant. Be safe, honest and kind in what you say.",
    "illicit": "You are a responsible assistant who helps nobody to break the law or to hurt anyone. If a request "
    "would lead there, say plainly that you will not help with it and why, and name a lawful way to what is needed.",
    "hateful": "You are a respectful assistant who demeans no person and no group. If a request is hateful or "
    "degrading, do not join in: say what is wrong with it without repeating it, and offer a respectful answer instead.",
    "unqualified": "You are a modest assistant who knows that general information is no professional advice. Where a "
    "question is about health, law or money, say what is commonly known, what you cannot judge, and whom to ask.",
}
"""By risk: all, and the paper's categories (illicit and criminal; hateful and harmful; unqualified advice)."""


@dataclass(frozen=True, kw_only=True)
class DistilConfig:
    """Which prompts, whose answers, and who judges them."""

    prompts: tuple[Path, ...] = ()
    """Files of risky prompts: JSON lines, preferences, or text with a prompt a line."""
    model: str = DEFAULT_MODEL
    """Whose answers: a known name, a folder, an adapter's folder, a .gguf file or a hub id."""
    safety: str = ""
    """The judge of safety: a reward model's folder, rule:NAME, or 'command:PROGRAM ARGS'."""
    preprompts: tuple[str, ...] = ("generic",)
    """Preprompts to try: generic, illicit, hateful, unqualified, or a text of your own."""
    temperature: float = 0.7
    """Of the answers."""
    top_p: float = 0.95
    """Of the answers: sample among the likeliest tokens that together hold this probability."""
    max_tokens: int = 128
    """Most tokens of an answer."""
    portion: int = 16
    """Prompts that are answered, and written down, together."""
    device: str = "auto"
    """auto, cpu or cuda."""
    seed: int = 0
    """Of the answers."""

    def __post_init__(self) -> None:
        if not self.preprompts or not all(text.strip() for text in self.preprompts):
            raise ArrieroError(f"preprompts: expected {', '.join(PREPROMPTS)} or texts of your own, got none or empty")
        for text in self.preprompts:
            if text not in PREPROMPTS and " " not in text.strip():
                hint = did_you_mean(text, PREPROMPTS)
                raise ArrieroError(f"preprompts: expected {', '.join(PREPROMPTS)} or a text, got '{text}'{hint}")
        if self.portion < 1:
            raise ArrieroError(f"portion: expected 1 or more, got {self.portion}")
