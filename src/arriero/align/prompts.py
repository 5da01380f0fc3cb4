"""Prompts to answer: what sampling, rejection sampling and PPO begin with, out of any file that holds some.

    a file of preferences      the prompt of each pair
    JSON lines, JSON, Parquet  {"prompt"}, {"messages"} or {"instruction"}, or a row of any format that fine-tuning
                               reads; a last answer of the assistant is dropped: it is what the model is to say
    .txt                       a prompt a line

A row may say `"safety": true` or `"kind": "safety"`: Llama 2 (arXiv 2307.09288, section 3.2.3) rewards answers to such
prompts by the safety reward model alone.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from arriero.align.preferences import Preferences
from arriero.common.compression import DAMAGE, open_bytes
from arriero.common.errors import ArrieroError, FormatError, NotFoundError
from arriero.common.sqlite_file import is_sqlite
from arriero.tokenizer.chat import Message
from arriero.train.examples import detect, find_files, read_row, read_rows, read_turns, split_dialogue

_TEXT = ".txt"
_DIALOGUE = "\n\nHuman:"
_YES = {True: True, "true": True, False: False, "false": False}


@dataclass(frozen=True)
class Prompt:
    """A chat that waits for an answer."""

    messages: tuple[Message, ...]
    """The last one is the user's."""
    safety: bool = False
    """Whether the answer's safety decides, and not its helpfulness."""
    where: str = ""
    """File and line, for messages."""

    @property
    def key(self) -> str:
        """The same for the same chat, in any file, order or process."""
        text = json.dumps([[turn["role"], turn["content"]] for turn in self.messages], ensure_ascii=False)
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def read_prompts(paths: Sequence[Path], *, safety: bool = False) -> list[Prompt]:
    """The prompts of all files, in order; one that is there several times is taken once.

    Args:
        paths: files, or folders of JSON lines, JSON and Parquet files.
        safety: all of them are safety prompts, whatever the rows say.

    Raises:
        NotFoundError: a path does not exist.
        FormatError: a row holds no prompt, or one that does not end with the user's message; names file and line.
    """
    found: dict[tuple[tuple[str, str], ...], Prompt] = {}
    for prompt in _read(paths):
        asked = replace(prompt, safety=True) if safety else prompt
        same = tuple((turn["role"], turn["content"]) for turn in asked.messages)
        known = found.setdefault(same, asked)
        if asked.safety and not known.safety:
            found[same] = replace(known, safety=True)
    if not found:
        raise ArrieroError("no prompts: expected files with a prompt or more, such as --prompts prompts.jsonl")
    return list(found.values())


def split_prompts(prompts: Sequence[Prompt], share: float, seed: int = 0) -> tuple[list[Prompt], list[Prompt]]:
    """Prompts to train on, and about a share held out; at least one each, where there are two or more.

    Which side a prompt is on depends on its words and the seed alone: prompts that differ in case, spaces or marks
    only are on the same side, and a prompt that comes later moves none.

    Raises:
        ArrieroError: the share is not from 0 up to 1, or all prompts would be on one side.
    """
    if not 0 <= share < 1:
        raise ArrieroError(f"share: expected a number from 0 up to 1, got {share}")
    if not share:
        return list(prompts), []
    places = [_place(prompt, seed) for prompt in prompts]
    different = sorted(set(places))
    if len(different) < 2:
        raise ArrieroError(f"expected two different prompts or more, to hold one out, got {len(different)}")
    count = min(max(sum(place < share for place in different), 1), len(different) - 1)
    bound = different[count - 1]
    training = [prompt for prompt, place in zip(prompts, places, strict=True) if place > bound]
    return training, [prompt for prompt, place in zip(prompts, places, strict=True) if place <= bound]


def _place(prompt: Prompt, seed: int) -> float:
    """A number from 0 up to 1 for the prompt's words."""
    words = " ".join(
        "".join(letter if letter.isalnum() else " " for letter in turn["content"].casefold())
        for turn in prompt.messages
    )
    digest = hashlib.blake2b(f"{seed}/{' '.join(words.split())}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def _read(paths: Sequence[Path]) -> Iterator[Prompt]:
    for path in paths:
        if path.is_file() and is_sqlite(path):
            yield from _of_preferences(path)
        elif path.is_file() and _is_text(path):
            yield from _of_lines(path)
        elif path.exists():
            for file in find_files([path]):
                for where, row in read_rows(file):
                    yield _of_row(row, where)
        else:
            raise NotFoundError(f"no such file of prompts: {path}")


def _is_text(path: Path) -> bool:
    return _TEXT in path.suffixes[-2:]


def _of_preferences(path: Path) -> Iterator[Prompt]:
    with Preferences(path) as preferences:
        for pair in preferences.pairs():
            yield Prompt(pair.prompt, pair.kind == "safety", f"{path}, pair {pair.id}")


def _of_lines(path: Path) -> Iterator[Prompt]:
    try:
        with open_bytes(path) as (content, _):
            lines = content.read().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: expected text in UTF-8 ({error.reason}): convert it, e.g. with iconv") from error
    except DAMAGE as error:
        raise FormatError(f"{path}: damaged or cut short ({error})") from error
    for number, line in enumerate(lines, start=1):
        if text := line.strip():
            yield Prompt(({"role": "user", "content": text},), where=f"{path}, line {number}")


def _of_row(row: Any, where: str) -> Prompt:
    if not isinstance(row, Mapping):
        raise FormatError(f"{where}: found a {type(row).__name__}; expected an object with prompt or messages")
    messages = _messages(row, where)
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise FormatError(f"{where}: expected a prompt that ends with a message of the user")
    declared = row.get("safety", False)
    is_safety = _YES.get(declared if isinstance(declared, bool) else str(declared).lower(), False)
    return Prompt(tuple(messages), is_safety or row.get("kind") == "safety", where)


def _messages(row: Mapping[str, Any], where: str) -> list[Message]:
    """The chat of a row, with the answer if it has one."""
    key = next((key for key in ("prompt", "messages", "instruction") if row.get(key) is not None), None)
    if key is None:
        return list(read_row(row, detect(row, where), where).messages)
    try:
        if isinstance(row[key], str) and row[key].startswith(_DIALOGUE):
            return split_dialogue(row[key])
        turns = read_turns(row[key], key, "user")
        if key == "instruction" and isinstance(row.get("input"), str) and row["input"].strip():
            turns[-1]["content"] += "\n\n" + row["input"]
        return turns
    except ValueError as error:
        raise FormatError(f"{where}: found {error}; expected a text, or a list of messages") from None
