"""Examples for fine-tuning out of files, in every format that is in use, told apart by their keys.

    messages     {"messages": [{"role", "content"}, …]}
    completion   {"prompt", "completion"}: texts, or lists of messages
    preference   {"chosen", "rejected"}, with or without "prompt"; the chosen answer is the example
    dialogue     the same as texts of several turns, "\\n\\nHuman: … \\n\\nAssistant: …", as HH-RLHF has them
    alpaca       {"instruction", "output"}, "input" and "system" if wanted
    sharegpt     {"conversations": [{"from", "value"}, …]}
    text         {"text"}

All become chats, but for `text`, which is continued as it is.
"""

import json
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from arriero.common.compression import DAMAGE, SUFFIXES, open_bytes
from arriero.common.errors import ArrieroError, FormatError, NotFoundError, require
from arriero.tokenizer.chat import ROLES, Message

Format = Literal["messages", "completion", "preference", "dialogue", "alpaca", "sharegpt", "text"]
KEYS: dict[Format, tuple[str, ...]] = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "preference": ("chosen", "rejected"),
    "dialogue": ("chosen", "rejected"),
    "completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "text": ("text",),
}
"""Keys that a row must have; a file is of the first format whose keys its first row has."""
SCHEMA = {
    "messages": '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}',
    "sharegpt": '{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}',
    "preference": '{"prompt": "…", "chosen": "…", "rejected": "…"}',
    "dialogue": r'{"chosen": "\n\nHuman: …\n\nAssistant: …", "rejected": …}',
    "completion": '{"prompt": "…", "completion": "…"}',
    "alpaca": '{"instruction": "…", "input": "…", "output": "…"}',
    "text": '{"text": "…"}',
}
_SHAREGPT = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant",
    "bing": "assistant", "bard": "assistant", "system": "system", "tool": "tool", "observation": "tool",
    "function_response": "tool",
}  # fmt: skip
_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):(?: |(?=\n|$))")
_KINDS = (".jsonl", ".ndjson", ".json", ".parquet")
_LONGEST_LINE = 1 << 26
"""Bytes of a row: what is longer is no example."""
_MOST_KEYS = 8
"""Keys of a row that a message shows."""


@dataclass(frozen=True)
class Example:
    """One chat to learn the answers of; or, without messages, one text to continue."""

    messages: tuple[Message, ...]
    text: str
    """Where there are no messages."""
    where: str
    """File and line, for messages."""


def read_examples(paths: Sequence[Path], format: Format | Literal["auto"] = "auto") -> tuple[list[Example], Format]:
    """All examples of the files, in order, and the format that they are in.

    Args:
        paths: JSON lines, a JSON list or Parquet, compressed or not; or folders of such files.
        format: what rows are; auto: what the first row's keys say.

    Raises:
        NotFoundError: a path does not exist.
        FormatError: a row is not of the format; names file, line, the keys found and what was expected.
    """
    if format != "auto" and format not in get_args(Format):
        raise ArrieroError(f"format: expected auto, {', '.join(get_args(Format))}, got '{format}'")
    examples: list[Example] = []
    found: Format | None = None if format == "auto" else format
    for file in find_files(paths):
        for where, row in read_rows(file):
            found = found or detect(row, where)
            examples.append(read_row(row, found, where))
    if found is None:
        raise FormatError(f"{paths[0]}: no row in it: expected lines such as {SCHEMA['messages']}")
    return examples, found


def find_files(paths: Sequence[Path]) -> list[Path]:
    """The files that paths name, those of folders by name, without hidden ones.

    Raises:
        ArrieroError, NotFoundError: no path is given, or one of them leads to no file of examples.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(
                file
                for file in path.iterdir()
                if file.is_file() and _kind(file) in _KINDS and not file.name.startswith(".")
            )
            if not inside:
                raise NotFoundError(f"{path}: no {', '.join(_KINDS)} file in it")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise NotFoundError(f"no such file or folder: {path}")
    if not files:
        raise ArrieroError("no data given: expected --data FILE, such as --data my.jsonl")
    return files


def read_row(row: Any, format: Format, where: str) -> Example:
    """The example that a row is.

    Raises:
        FormatError: the row is not of this format.
    """
    if not isinstance(row, Mapping):
        raise _wrong(where, f"a {type(row).__name__}", format)
    if missing := [key for key in KEYS[format] if row.get(key) is None]:
        absent = missing[0] not in row
        raise _wrong(where, f"{_keys(row)}, without '{missing[0]}'" if absent else f"null as '{missing[0]}'", format)
    try:
        if format == "text":
            return Example((), _text(row["text"], "text"), where)
        messages = tuple(_READERS[format](row))
    except _Wrong as problem:
        raise _wrong(where, str(problem), format) from None
    if not any(message["role"] == "assistant" for message in messages):
        raise _wrong(where, "no message of the assistant, so nothing to learn", format)
    return Example(messages, "", where)


def split_dialogue(text: str) -> list[Message]:
    """HH-RLHF's text of a dialogue as messages.

    Raises:
        ValueError: it does not begin with a turn.
    """
    parts = _TURN.split(text)
    if parts[0].strip() or len(parts) < 3:
        raise _Wrong(r"a text that does not begin with '\n\nHuman: '")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[name], "content": content.strip()}
        for name, content in zip(parts[1::2], parts[2::2], strict=True)
    ]


class _Wrong(ValueError):
    """What a row holds instead of what was expected."""


def detect(row: Any, where: str) -> Format:
    """The format whose keys a row has.

    Raises:
        FormatError: there is none; names place, keys found and what was expected.
    """
    if isinstance(row, Mapping):
        for format, needed in KEYS.items():
            if all(row.get(key) is not None for key in needed):
                is_dialogue = format == "preference" and (_has_turns(row.get("prompt")) or _has_turns(row["chosen"]))
                return "dialogue" if is_dialogue else format
    found = _keys(row) if isinstance(row, Mapping) else f"a {type(row).__name__}"
    raise FormatError(f"{where}: found {found}; expected the keys of one of: {'; '.join(SCHEMA.values())}")


def _has_turns(value: Any) -> bool:
    return isinstance(value, str) and _TURN.match(value) is not None


def _keys(row: Mapping[Any, Any]) -> str:
    shown = ", ".join(map(reprlib.repr, islice(row, _MOST_KEYS))) or "none"
    return f"the keys {shown}" + (f" and {len(row) - _MOST_KEYS:,} more" if len(row) > _MOST_KEYS else "")


def _wrong(where: str, found: str, format: Format) -> FormatError:
    return FormatError(f"{where}: found {found}; expected {SCHEMA[format]}")


def _text(value: Any, name: str) -> str:
    """A text, or a list of text parts as the OpenAI API has them."""
    parts = value if isinstance(value, list) else []
    if parts and all(isinstance(part, Mapping) and part.get("type") == "text" for part in parts):
        return "".join(_string(part.get("text"), name) for part in parts)
    return _string(value, name)


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _Wrong(f"'{name}' as {type(value).__name__} instead of text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _Wrong(f"a lone surrogate in '{name}', at character {error.start}") from None
    return value


def _message(value: Any, role_key: str = "role", content_key: str = "content") -> Message:
    if not isinstance(value, Mapping):
        raise _Wrong(f"a message that is a {type(value).__name__}")
    if value.get("tool_calls"):
        raise _Wrong("a message with tool_calls, which are not supported")
    role = value.get(role_key)
    if role_key == "from":
        role = _SHAREGPT.get(str(role), role)
    if role not in ROLES:
        raise _Wrong(f"the {role_key} {reprlib.repr(role)} in a message (known: {', '.join(ROLES)})")
    return {"role": str(role), "content": _text(value.get(content_key), content_key)}


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise _Wrong(f"'{name}' that is no list, or empty")
    return value


def read_turns(value: Any, name: str, role: str) -> list[Message]:
    """A list of messages, or a text as one message of `role`."""
    if isinstance(value, list):
        return [_message(message) for message in _list(value, name)]
    return [{"role": role, "content": _text(value, name)}]


def _of_messages(row: Mapping[str, Any]) -> list[Message]:
    return [_message(message) for message in _list(row["messages"], "messages")]


def _of_sharegpt(row: Mapping[str, Any]) -> list[Message]:
    turns = _list(row["conversations"], "conversations")
    keys = ("from", "value") if isinstance(turns[0], Mapping) and "from" in turns[0] else ("role", "content")
    return [*_system(row), *(_message(turn, *keys) for turn in turns)]


def _of_completion(row: Mapping[str, Any]) -> list[Message]:
    return [*read_turns(row["prompt"], "prompt", "user"), *read_turns(row["completion"], "completion", "assistant")]


def _of_preference(row: Mapping[str, Any]) -> list[Message]:
    """With a prompt of its own, or one that `chosen` begins with."""
    if row.get("prompt") is None and isinstance(row["chosen"], str):
        raise _Wrong("a text as 'chosen' without a 'prompt' that it answers")
    prompt = [] if row.get("prompt") is None else read_turns(row["prompt"], "prompt", "user")
    return _joined(prompt, read_turns(row["chosen"], "chosen", "assistant"))


def _of_dialogue(row: Mapping[str, Any]) -> list[Message]:
    """Likewise; a prompt may end with the mark of the answer's turn."""
    chosen, prompt = _text(row["chosen"], "chosen"), _optional(row, "prompt")
    if not prompt.strip():
        return split_dialogue(chosen)
    before = split_dialogue(prompt)
    if before[-1] == {"role": "assistant", "content": ""}:
        before.pop()
    answer: list[Message] = [{"role": "assistant", "content": chosen.strip()}]
    return _joined(before, split_dialogue(chosen) if _has_turns(chosen) else answer)


def _joined(prompt: list[Message], chosen: list[Message]) -> list[Message]:
    return chosen if chosen[: len(prompt)] == prompt else [*prompt, *chosen]


def _of_alpaca(row: Mapping[str, Any]) -> list[Message]:
    asked = [_text(row["instruction"], "instruction"), _optional(row, "input")]
    question = "\n\n".join(part for part in asked if part.strip())
    answer = _text(row["output"], "output")
    return [*_system(row), {"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _system(row: Mapping[str, Any]) -> list[Message]:
    """The system message, if there is one."""
    text = _optional(row, "system")
    return [{"role": "system", "content": text}] if text.strip() else []


def _optional(row: Mapping[str, Any], key: str) -> str:
    return "" if row.get(key) is None else _text(row[key], key)


_READERS = {
    "messages": _of_messages,
    "sharegpt": _of_sharegpt,
    "completion": _of_completion,
    "preference": _of_preference,
    "dialogue": _of_dialogue,
    "alpaca": _of_alpaca,
}


def _kind(file: Path) -> str:
    """The suffix, before one of compression."""
    return Path(file.stem if file.suffix in SUFFIXES else file.name).suffix.lower()


def read_rows(file: Path) -> Iterator[tuple[str, Any]]:
    """Each row, with the place to name in a message.

    Raises:
        FormatError: the file is of another kind, or damaged; the message names it.
    """
    kind = _kind(file)
    if kind not in _KINDS:
        raise FormatError(f"{file}: expected a {', '.join(_KINDS)} file, compressed or not")
    try:
        if kind == ".parquet":
            yield from _parquet_rows(file)
        elif kind == ".json":
            yield from _json_rows(file)
        else:
            yield from _lines(file)
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise FormatError(f"{file}: damaged or cut short ({error})") from error


def _lines(file: Path) -> Iterator[tuple[str, Any]]:
    with open_bytes(file) as (content, _):
        for number in range(1, 1 << 62):
            line = content.readline(_LONGEST_LINE + 1)
            if not line:
                return
            where = f"{file}, line {number}"
            if len(line) > _LONGEST_LINE:
                raise FormatError(f"{where}: longer than {_LONGEST_LINE >> 20} MiB: expected one JSON object a line")
            if text := line.removeprefix(b"\xef\xbb\xbf").strip():
                yield where, _parse(text, where)


def _json_rows(file: Path) -> Iterator[tuple[str, Any]]:
    with open_bytes(file) as (content, _):
        text = content.read().removeprefix(b"\xef\xbb\xbf")
    if text.lstrip()[:1] != b"[":  # one object a line, under another name
        yield from _lines(file)
        return
    yield from ((f"{file}, entry {number}", row) for number, row in enumerate(_parse(text, str(file)), start=1))


def _parse(text: bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        what = " ".join(str(error).split())
        expected = "expected one JSON object a line, or a list of them in a .json file"
        raise FormatError(f"{where}: no valid JSON ({what}); {expected}") from error


def _parquet_rows(file: Path) -> Iterator[tuple[str, Any]]:
    require("pyarrow", extra="train", purpose="reading a Parquet file")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number = 0
        for batch in pq.ParquetFile(file).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield f"{file}, row {number}", row
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise FormatError(f"{file}: no whole Parquet file ({' '.join(str(error).split())})") from error
