"""Examples of question and answer, made by a program from docstrings: a name, and what its author wrote of it.

They are no conversations of people, and do not pretend to be; yet every answer is a sentence that a person wrote.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from arriero.cli.road.texts import Docstring, docstrings, modules
from arriero.common.files import atomic_file
from arriero.common.seeds import seed_of

_QUESTIONS = {
    "module": "What is the module {} for?",
    "class": "What is {}?",
    "function": "What does {} do?",
}
_SENTENCE = re.compile(r"(.*?[.!?])(?:\s|$)", re.DOTALL)
_SHORTEST, _LONGEST = 20, 160
"""Characters of an answer."""


def make_examples() -> list[dict[str, str]]:
    """Questions and answers about the standard library, in an order that mixes modules and is always the same."""
    found: dict[str, str] = {}
    for docstring in docstrings(modules()):
        if (answer := first_sentence(docstring)) is not None:
            found.setdefault(_QUESTIONS[docstring.kind].format(docstring.name), answer)
    once = {answer: question for question, answer in reversed(found.items())}  # methods repeat what others say
    rows = [{"prompt": question, "completion": answer} for answer, question in once.items()]
    return sorted(rows, key=lambda row: seed_of(row["prompt"]))


def first_sentence(docstring: Docstring) -> str | None:
    """The first sentence of what was written, on one line; None where there is none that says something alone."""
    paragraph = docstring.text.strip().partition("\n\n")[0]
    match = _SENTENCE.match(paragraph)
    if match is None:
        return None
    text = " ".join(match[1].split())
    plain = text.isascii() and text[0].isalpha() and not any(mark in text for mark in (">>>", "->", "::", "=="))
    return text if plain and _SHORTEST <= len(text) <= _LONGEST and text.count(" ") >= 3 else None


def write_examples(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """JSON lines of `prompt` and `completion`, which `arriero sft` reads; whole or not at all."""
    with atomic_file(path) as aside:
        aside.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def write_prompts(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """The questions alone, one a line."""
    with atomic_file(path) as aside:
        aside.write_text("".join(f"{row['prompt']}\n" for row in rows), encoding="utf-8")
