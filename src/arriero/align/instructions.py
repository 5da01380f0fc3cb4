"""Instructions that are to hold for a whole dialogue (Llama 2, arXiv 2307.09288, section 3.3).

The paper draws hobbies, languages and public figures, combines them at random, and makes half of the instructions terse
("Figure: Napoleon."). Its lists are not published: these are ours. Two kinds are ours as well, of which a program can
tell whether an answer keeps to them: `opening`, the word that answers begin with, and `length`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arriero.align.adherence import LANGUAGES, read_check
from arriero.common.errors import ArrieroError, FormatError, did_you_mean
from arriero.train.examples import read_rows


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """One thing to keep to."""

    kind: str
    """An instruction has at most one of each kind."""
    text: str
    """As it is said to the model."""
    short: str
    """The same in few words."""
    check: str = ""
    """What tells whether an answer keeps to it, as `read_check` reads it; empty where no program can."""


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """Constraints that hold together."""

    text: str
    """As it is said to the model."""
    short: str
    checks: tuple[str, ...] = ()

    def kept(self, answer: str) -> bool:
        """Whether an answer keeps to all that a program can tell."""
        return all(read_check(check)(answer) for check in self.checks)


PAPER_KINDS = ("hobby", "language", "figure")
HOBBIES = (
    "tennis", "chess", "gardening", "sailing", "baking bread", "bird watching", "painting", "mountain climbing",
    "knitting", "playing the piano", "astronomy", "fishing", "pottery", "cycling", "collecting stamps", "dancing",
    "photography", "swimming", "woodwork", "reading mystery novels", "cooking", "hiking", "juggling", "origami",
)  # fmt: skip
FIGURES = (
    "Napoleon", "Cleopatra", "Albert Einstein", "William Shakespeare", "Marie Curie", "Julius Caesar",
    "Leonardo da Vinci", "Joan of Arc", "Isaac Newton", "Charles Darwin", "Queen Victoria", "Galileo", "Socrates",
    "Abraham Lincoln", "Mozart", "Christopher Columbus", "Jane Austen", "Marco Polo", "Beethoven", "Hannibal",
)  # fmt: skip
OPENINGS = (
    "Hello", "Greetings", "Aloha", "Bravo", "Hi", "Bonjour", "Ciao", "Great", "Excellent", "Salutations", "Cheers",
    "Hooray", "Wow", "Indeed", "Listen", "Behold",
)  # fmt: skip
HELD_OUT_OPENINGS = ("Ahoy", "Hey", "Hola", "Namaste", "Welcome", "Howdy")
"""For measuring: no example is made with them."""
LENGTHS = (10, 15, 20)


def opening(word: str) -> Constraint:
    """Each answer begins with a word."""
    return Constraint(
        kind="opening", text=f'Start every answer with "{word}!".', short=f"Opening: {word}.",
        check=f"begins:{word}",
    )  # fmt: skip


CONSTRAINTS = (
    *(Constraint(kind="hobby", text=f"You enjoy {name}.", short=f"Hobby: {name}.") for name in HOBBIES),
    *(
        Constraint(
            kind="language", text=f"Always speak in {name} from now on.", short=f"Language: {name}.",
            check=f"language:{name}",
        )
        for name in LANGUAGES if name != "English"
    ),
    *(Constraint(kind="figure", text=f"Always act as {name} from now on.", short=f"Figure: {name}.")
      for name in FIGURES),
    *map(opening, OPENINGS),
    *(
        Constraint(
            kind="length", text=f"Use at most {count} words in every answer.", short=f"Length: {count} words.",
            check=f"words:{count}",
        )
        for count in LENGTHS
    ),
)  # fmt: skip


def read_constraints(path: Path) -> list[Constraint]:
    """Constraints of one's own: `{"kind", "text", "short", "check"}` a line, of which `short` and `check` may be left
    out.

    Raises:
        FormatError: a row is none; names file and line.
    """
    found = [_of_row(row, where) for where, row in read_rows(path)]
    if not found:
        raise FormatError(f'{path}: no row in it: expected lines such as {{"kind": "figure", "text": "Act as …"}}')
    return found


def draw_instruction(constraints: Sequence[Constraint], kinds: Sequence[str], seed: int, number: int) -> Instruction:
    """One to all of the kinds, in any order, one constraint of each; terse in half of the cases, as in the paper.

    Args:
        constraints: to choose from.
        kinds: which of their kinds.
        seed: of the draw.
        number: of the dialogue that it is for.

    Raises:
        ArrieroError: there is no constraint of a kind.
    """
    by_kind = group(constraints, kinds)
    dice = np.random.default_rng([seed, number])
    order = dice.permutation(len(kinds))[: dice.integers(1, len(kinds) + 1)]
    drawn = [by_kind[kinds[place]][dice.integers(len(by_kind[kinds[place]]))] for place in order]
    text = " ".join(one.text for one in drawn)
    return Instruction(
        text=text,
        short=" ".join(one.short for one in drawn) if dice.random() < 0.5 else text,
        checks=tuple(one.check for one in drawn if one.check),
    )


def group(constraints: Sequence[Constraint], kinds: Sequence[str]) -> dict[str, list[Constraint]]:
    """The constraints by kind.

    Raises:
        ArrieroError: there is no constraint of a kind, or no kind.
    """
    known = {one.kind: [other for other in constraints if other.kind == one.kind] for one in constraints}
    for kind in kinds:
        if kind not in known:
            expected = f"expected kinds of {', '.join(known)}"
            raise ArrieroError(f"kinds: {expected}, got '{kind}'{did_you_mean(kind, known)}")
    if not kinds:
        raise ArrieroError(f"kinds: expected one or more of {', '.join(known)}, got none")
    return {kind: known[kind] for kind in kinds}


def _of_row(row: Any, where: str) -> Constraint:
    given = row if isinstance(row, Mapping) else {}
    text = given.get("text", "")
    values = {"kind": given.get("kind", "own"), "text": text, "short": given.get("short", text)}
    values["check"] = given.get("check", "")
    if not all(isinstance(value, str) for value in values.values()) or not text.strip():
        raise FormatError(f'{where}: expected an object such as {{"kind": "figure", "text": "Act as Napoleon."}}')
    try:
        "".join(values.values()).encode()
        if values["check"]:
            read_check(values["check"])
    except UnicodeEncodeError:
        raise FormatError(f"{where}: a lone surrogate, which is no character") from None
    except ArrieroError as error:
        raise FormatError(f"{where}: {error}") from None
    return Constraint(**values)
