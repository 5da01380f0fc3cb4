"""Answers to choose from, in a file that outlives the process that writes it: one JSON object a line, a prompt's all.

    {"messages": […], "safety": false, "model": "…", "temperature": 1.0, "reward": "…",
     "answers": [{"text": "…", "score": 0.7, "ended": true, "tokens": 58}, …]}

A line is there whole or not at all: half of one, which a killed process leaves, is cut off when the file is next
written to. `reward` names who gave the scores, so that another one's are not compared with them.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from arriero.align.prompts import Prompt
from arriero.common.errors import ArrieroError, FormatError
from arriero.common.files import atomic_file
from arriero.tokenizer.chat import check_messages


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One answer."""

    text: str
    score: float | None
    """Raw; None for an empty answer, which no one scores."""
    ended: bool
    """Whether the model ended it, and not the limit of its length."""
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """A prompt's answers by one model at one temperature."""

    prompt: Prompt
    model: str
    temperature: float
    reward: str
    """Who gave the scores."""
    answers: tuple[Candidate, ...]

    @property
    def scores(self) -> list[float] | None:
        """Of all answers, an empty one's being the lowest of the others'; None where all are empty."""
        known = [answer.score for answer in self.answers if answer.score is not None]
        return known + [min(known)] * (len(self.answers) - len(known)) if known else None


def read_candidates(path: Path) -> list[Candidates]:
    """All whole lines of a file; none if there is no file.

    Raises:
        FormatError: a line is damaged; names file and line.
    """
    if not path.exists():
        return []
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    return [_parse(line, f"{path}, line {number}") for number, line in enumerate(whole.split(b"\n")[:-1], start=1)]


def append_candidates(path: Path, rows: Sequence[Candidates]) -> None:
    """Add lines that survive a power cut once this returns; half a line at the end of the file gives way to them."""
    with path.open("ab+") as file:
        _cut_half_a_line(file)
        file.writelines(_lines(rows))
        file.flush()
        os.fsync(file.fileno())


def replace_candidates(path: Path, rows: Sequence[Candidates]) -> None:
    """Write the file anew, whole or not at all."""
    with atomic_file(path) as aside, aside.open("wb") as file:
        file.writelines(_lines(rows))


def _cut_half_a_line(file: IO[bytes]) -> None:
    """Leave the file's position behind its last whole line, and nothing after that."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return
    file.seek(size - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def _lines(rows: Sequence[Candidates]) -> Iterator[bytes]:
    for row in rows:
        values = {
            "messages": list(row.prompt.messages),
            "safety": row.prompt.safety,
            "model": row.model,
            "temperature": row.temperature,
            "reward": row.reward,
            "answers": [asdict(answer) for answer in row.answers],
        }
        yield json.dumps(values, ensure_ascii=True).encode() + b"\n"


def _parse(line: bytes, where: str) -> Candidates:
    try:
        row: dict[str, Any] = json.loads(line)
        answers = tuple(
            Candidate(
                text=str(answer["text"]),
                score=None if answer["score"] is None else float(answer["score"]),
                ended=bool(answer["ended"]),
                tokens=int(answer["tokens"]),
            )
            for answer in row["answers"]
        )
        return Candidates(
            prompt=Prompt(tuple(check_messages(row["messages"])), bool(row["safety"]), where),
            model=str(row["model"]),
            temperature=float(row["temperature"]),
            reward=str(row["reward"]),
            answers=answers,
        )
    except (ValueError, KeyError, TypeError, ArrieroError) as error:
        raise FormatError(
            f"{where}: no line of candidates ({error}): expected what `arriero align reject` wrote"
        ) from None
