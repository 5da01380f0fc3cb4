"""Over how many turns an instruction holds (Llama 2, arXiv 2307.09288, section 3.3 and appendix).

A dialogue begins with an instruction that programs can check; the model answers one question after the other, and each
answer counts as kept or broken. Beside it, the same dialogues without the instruction tell how many answers keep to it
by chance, and those with the instruction in every message how many would if nothing had to be remembered.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from statistics import fmean
from typing import get_args

from arriero.align.dialogue import Said, Talk, Where, converse, lay_out
from arriero.align.ghost_config import Place
from arriero.align.instructions import HELD_OUT_OPENINGS, Constraint, Instruction, opening
from arriero.align.questions import draw_questions
from arriero.align.win_rate import wilson
from arriero.common.errors import ArrieroError
from arriero.generate.engine import Engine, SamplingConfig
from arriero.tokenizer.chat import Message

MEASURED = tuple(map(opening, HELD_OUT_OPENINGS))
"""What is measured by default: words to begin with that no example was made with."""
PAPER_TURNS = (2, 4, 6, 20)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """How many answers of one turn keep to the instruction."""

    turn: int
    """1, 2, …"""
    kept: int
    answers: int
    """Dialogues that came so far."""
    low: float
    """Of the 95% interval (Wilson)."""
    high: float

    @property
    def share(self) -> float | None:
        """None where no dialogue came so far."""
        return self.kept / self.answers if self.answers else None


@dataclass(frozen=True, kw_only=True)
class Adherence:
    """One model's, with the instruction in some of the messages."""

    model: str
    where: Where
    turns: tuple[Kept, ...]
    """One a turn."""
    survived: float
    """Mean number of turns before the first broken answer."""


@dataclass(frozen=True)
class Measured:
    """A model's adherence, and one of its dialogues to look at."""

    adherence: tuple[Adherence, ...]
    example: tuple[Message, ...]
    """The longest dialogue with the instruction in the first turn; empty where the model never said anything."""
    instruction: str
    """Of that dialogue."""


def measure_adherence(
    name: str,
    engine: Engine,
    *,
    constraints: Sequence[Constraint] = MEASURED,
    turns: int = max(PAPER_TURNS),
    dialogues: int = 5,
    place: Place = "user",
    sampling: SamplingConfig | None = None,
    seed: int = 0,
) -> Measured:
    """Let a model hold the dialogues, and see where it keeps to the instructions.

    Args:
        name: of the model.
        engine: with it.
        constraints: each is an instruction of its own; all must have a check.
        turns: of a dialogue.
        dialogues: of each instruction; their questions are those of `questions.HELD_OUT`.
        place: where in the first turn the instruction stands.
        sampling: of the answers; greedy by default.
        seed: of questions and answers.

    Raises:
        ArrieroError: a constraint has no check, there is none, or there are fewer questions than turns.
    """
    if unchecked := [one.text for one in constraints if not one.check]:
        raise ArrieroError(f"no program can tell whether an answer keeps to '{unchecked[0]}': give it a check")
    if not constraints or dialogues < 1:
        raise ArrieroError(f"expected instructions and dialogues, got {len(constraints)} and {dialogues}")
    asked = draw_questions(dialogues, turns, seed, held_out=True)
    pairs = [(_alone(one), Talk(questions, one.text)) for one in constraints for questions in asked]
    talks = [talk for _, talk in pairs]
    sampling = sampling or SamplingConfig(max_tokens=64, seed=seed)
    held = {where: converse(engine, talks, sampling, where=where, place=place) for where in get_args(Where)}
    adherence = tuple(
        _count(name, where, [instruction for instruction, _ in pairs], answers, turns)
        for where, answers in held.items()
    )
    shown = max(range(len(talks)), key=lambda i: len(held["first"][i]))
    said = [answer.text for answer in held["first"][shown]]
    talk = replace(talks[shown], questions=talks[shown].questions[: len(said)])
    return Measured(adherence, tuple(lay_out(talk, said, "first", place)) if said else (), talk.instruction)


def _alone(constraint: Constraint) -> Instruction:
    return Instruction(text=constraint.text, short=constraint.short, checks=(constraint.check,))


def _count(
    name: str, where: Where, instructions: Sequence[Instruction], held: Sequence[Sequence[Said]], turns: int
) -> Adherence:
    """What was kept, turn by turn."""
    kept = [
        [instruction.kept(answer.text) for answer in answers]
        for instruction, answers in zip(instructions, held, strict=True)
    ]
    rows = []
    for turn in range(turns):
        reached = [row[turn] for row in kept if turn < len(row)]
        low, high = wilson(sum(reached), len(reached))
        rows.append(Kept(turn=turn + 1, kept=sum(reached), answers=len(reached), low=low, high=high))
    survived = fmean(len(list(takewhile(bool, row))) for row in kept)
    return Adherence(model=name, where=where, turns=tuple(rows), survived=survived)
