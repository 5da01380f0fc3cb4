"""Who scores answers: a reward model, a rule, or a program of the user's own.

    runs/helpful/reward         a reward model, as `arriero align reward` makes, or any `load_reward_model` takes
    rule:concise                a rule of `rules.py`
    command:python judge.py     a program: it reads one JSON object {"prompt": messages, "response": text} a line from
                                its standard input, and writes one number a line, in the same order

Scores are raw, logits of "this one is preferred"; higher is better.
"""

import json
import math
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from arriero.align.preferences import Judge
from arriero.align.reward_model import RewardModel, load_reward_model
from arriero.align.rules import rule_named
from arriero.common.errors import ArrieroError
from arriero.model.source import LoadedModel, weights_digest
from arriero.tokenizer.chat import Message

_RULE, _COMMAND = "rule:", "command:"
_SECONDS, _SECONDS_EACH = 60.0, 5.0
_SHOWN = 200
"""Characters of a program's complaint that an error repeats."""


class Scorer(Protocol):
    """Gives each response to a prompt a number."""

    @property
    def name(self) -> str:
        """As judgements and files call it."""

    def score(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> list[float]:
        """The raw score of each response.

        Raises:
            ArrieroError: there is none for a response, or it is not finite.
        """


def load_scorer(spec: str, *, device: str = "auto", over: LoadedModel | None = None, name: str = "reward") -> Scorer:
    """The scorer that a text names; see above.

    Args:
        device: where a reward model computes.
        over: a loaded model, whose base a reward model's adapter shares if it was made for it.
        name: of adapter and head there.

    Raises:
        NotFoundError, FormatError, ArrieroError: there is none, or it is damaged.
    """
    if spec.startswith(_RULE):
        return rule_named(spec.removeprefix(_RULE))
    if spec.startswith(_COMMAND):
        return Command.parse(spec.removeprefix(_COMMAND))
    return load_reward_model(spec, device=device, over=over, name=name)


def judge_of(scorer: Scorer) -> Judge:
    """How judgements by a scorer are marked."""
    return "reward model" if isinstance(scorer, RewardModel) else "program"


def identity_of(scorer: Scorer) -> str:
    """The same for the same scorer, and another one when a reward model at the same place was trained anew."""
    folder = Path(scorer.name).expanduser()
    if not isinstance(scorer, RewardModel) or not folder.exists():
        return scorer.name
    return f"{scorer.name} ({weights_digest(folder)})"


@dataclass(frozen=True)
class Command:
    """A program of the user's own, run once for each call of `score`."""

    words: tuple[str, ...]
    """The program and its arguments; no shell reads them."""
    seconds: float = _SECONDS
    """That it may take to begin."""
    seconds_each: float = _SECONDS_EACH
    """And for each response beside that."""

    @classmethod
    def parse(cls, line: str) -> "Command":
        """A command as it is typed, quotes and all.

        Raises:
            ArrieroError: there is no program in it, or a quote has no end.
        """
        try:
            words = tuple(shlex.split(line))
        except ValueError as error:
            raise ArrieroError(f"command: expected a program and its arguments, got '{line}' ({error})") from error
        if not words:
            raise ArrieroError("command: expected a program, as in 'command:python judge.py'")
        return cls(words)

    @property
    def name(self) -> str:
        """Such as `command:python judge.py`."""
        return _COMMAND + shlex.join(self.words)

    def score(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> list[float]:
        """What the program writes.

        Raises:
            ArrieroError: it cannot be run, fails, takes too long, or writes anything but one finite number a response.
        """
        if not responses:
            return []
        rows = [
            json.dumps({"prompt": list(prompt), "response": response}, ensure_ascii=True)
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        lines = self._run("\n".join(rows) + "\n", self.seconds + self.seconds_each * len(rows)).splitlines()
        if len(lines) != len(rows):
            raise ArrieroError(f"{self.name}: expected {len(rows)} lines, one a response, got {len(lines)}")
        return [self._number(line, i) for i, line in enumerate(lines, start=1)]

    def _run(self, given: str, seconds: float) -> str:
        try:
            done = subprocess.run(  # noqa: S603 - the user's own command
                self.words, input=given.encode(), capture_output=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            raise ArrieroError(f"{self.name}: no answer within {seconds:.0f} seconds") from None
        except OSError as error:
            raise ArrieroError(f"{self.name}: the program cannot be run ({error.strerror})") from error
        if done.returncode:
            said = " ".join(done.stderr.decode(errors="replace").split())[-_SHOWN:] or "nothing on its error stream"
            raise ArrieroError(f"{self.name}: expected exit code 0, got {done.returncode}; it said: {said}")
        return done.stdout.decode(errors="replace").strip()

    def _number(self, line: str, number: int) -> float:
        try:
            score = float(line)
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise ArrieroError(f"{self.name}: expected a finite number in line {number}, got '{line[:_SHOWN]}'")
        return score
