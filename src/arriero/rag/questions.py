"""Questions with their answers, from SQuAD's JSON (Rajpurkar et al. 2016, 2018), DPR's JSON, or JSON lines.

What trains and measures a retriever and a RAG model. A question without an answer is one that the documents do not
answer: to be refused.
"""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from arriero.common.compression import DAMAGE, open_bytes
from arriero.common.errors import ArrieroError, FormatError, NotFoundError
from arriero.common.files import atomic_file
from arriero.common.seeds import seed_of

QuestionFormat = Literal["squad", "dpr", "jsonl"]


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question."""

    id: str
    question: str
    """As it was typed."""
    answers: tuple[str, ...]
    """Each of which is right; none: the documents do not answer it."""
    title: str = ""
    """Of what it is about: questions of one title are held out together."""
    context: str | None = None
    """The paragraph that answers it."""
    positives: tuple[str, ...] = ()
    """Other passages that answer it."""
    negatives: tuple[str, ...] = ()
    """Passages that look as if they did."""
    synthetic: bool = False
    """Written by a model."""


def read_questions(paths: Sequence[Path], format: QuestionFormat | None = None) -> list[Question]:
    """All questions of some files, plain or compressed; of equal ones the first.

    Args:
        paths: the files.
        format: of them all; by default what each looks like.

    Raises:
        NotFoundError: a file is not there.
        FormatError: a file is none of the formats, or a question in it lacks something; the message says where.
    """
    if format is not None and format not in get_args(QuestionFormat):
        raise ArrieroError(f"format: expected {', '.join(get_args(QuestionFormat))}, got '{format}'")
    found: dict[tuple[str, str, str | None], Question] = {}
    for path in paths:
        for question in _read_file(path, format):
            found.setdefault((question.title, question.question, question.context), question)
    if not found:
        raise FormatError(f"no question in {', '.join(map(str, paths)) or 'no file'}")
    return list(found.values())


def write_questions(questions: Sequence[Question], path: Path) -> None:
    """Write JSON lines, whole or not at all."""
    lines = [json.dumps({k: v for k, v in asdict(each).items() if v}, ensure_ascii=False) for each in questions]
    with atomic_file(path) as aside:
        aside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def split_questions(questions: Sequence[Question], share: float, seed: int) -> tuple[list[Question], list[Question]]:
    """Questions to train on and questions held out; those of one title stay together.

    Questions without a title are titles of their own. One title at least is left to train on.

    Args:
        share: of the questions that are held out, about.
        seed: of the choice.

    Raises:
        ArrieroError: the share is not from 0 up to 1.
    """
    if not 0 <= share < 1:
        raise ArrieroError(f"eval_share: expected a number from 0 up to 1, got {share}")
    counts: dict[str, int] = {}
    for question in questions:
        counts[_group(question)] = counts.get(_group(question), 0) + 1
    held_out: set[str] = set()
    wanted, held = round(share * len(questions)), 0
    for title in sorted(counts, key=lambda title: (seed_of(seed, title), title)):
        if held >= wanted or held + counts[title] == len(questions):
            break
        held_out.add(title)
        held += counts[title]
    training = [question for question in questions if _group(question) not in held_out]
    return training, [question for question in questions if _group(question) in held_out]


def _group(question: Question) -> str:
    return question.title or f"\0{question.id}"


def _read_file(path: Path, format: QuestionFormat | None) -> Iterator[Question]:
    if not path.is_file():
        raise NotFoundError(f"no file of questions at {path}")
    text = _read_text(path)
    whole = _parse_whole(text)
    format = format or _guess(whole)
    if format == "jsonl":
        yield from _read_lines(path, text)
    elif whole is None:
        raise FormatError(f"{path}: expected one JSON document of {format}'s form")
    elif format == "squad":
        yield from _read_squad(path, whole)
    else:
        yield from _read_dpr(path, whole)


def _read_text(path: Path) -> str:
    try:
        with open_bytes(path) as (content, _):
            return content.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not UTF-8 (byte {error.start}): expected JSON") from error
    except (*DAMAGE, OSError, zlib.error) as error:
        raise FormatError(f"{path} cannot be read ({error})") from error


def _parse_whole(text: str) -> Any:
    """The document, where the text is one; None where it is lines."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _guess(whole: Any) -> QuestionFormat:
    if isinstance(whole, dict) and isinstance(whole.get("data"), list):
        return "squad"
    return "dpr" if isinstance(whole, list) else "jsonl"


def _read_squad(path: Path, whole: Any) -> Iterator[Question]:
    if not isinstance(whole, dict):
        raise FormatError(f"{path}: expected SQuAD's object with 'data', got {type(whole).__name__}")
    for number, article in enumerate(_list(whole, "data", str(path))):
        place = f"{path}, data[{number}]"
        for count, paragraph in enumerate(_list(article, "paragraphs", place)):
            here = f"{place}.paragraphs[{count}]"
            context = _text(paragraph, "context", here)
            for qa in _list(paragraph, "qas", here):
                impossible = isinstance(qa, dict) and qa.get("is_impossible")
                spans = [] if impossible else _list(qa, "answers", here)
                yield Question(
                    id=str(qa.get("id", "")) if isinstance(qa, dict) else "",
                    question=_text(qa, "question", here),
                    answers=_distinct([_text(span, "text", here) for span in spans]),
                    title=str(article.get("title", "")),
                    context=context if spans else None,
                )


def _read_dpr(path: Path, whole: Any) -> Iterator[Question]:
    if not isinstance(whole, list):
        raise FormatError(f"{path}: expected DPR's list of questions, got {type(whole).__name__}")
    for number, row in enumerate(whole):
        place = f"{path}, question {number}"
        passages = {key: _passages(row, key, place) for key in ("positive_ctxs", "hard_negative_ctxs")}
        yield Question(
            id=str(number),
            question=_text(row, "question", place),
            answers=_distinct(_texts(row, "answers", place)),
            context=next(iter(passages["positive_ctxs"]), None),
            positives=tuple(passages["positive_ctxs"][1:]),
            negatives=tuple(passages["hard_negative_ctxs"]),
        )


def _read_lines(path: Path, text: str) -> Iterator[Question]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{place}: not JSON ({error}): expected an object with question and answers") from error
        key = "answer" if isinstance(row, dict) and "answers" not in row and "answer" in row else "answers"
        yield Question(
            id=str(row.get("id", number)) if isinstance(row, dict) else "",
            question=_text(row, "question", place),
            answers=_distinct(_texts(row, key, place)),
            title=str(row.get("title", "")),
            context=None if row.get("context") is None else _text(row, "context", place),
            positives=tuple(_texts(row, "positives", place)),
            negatives=tuple(_texts(row, "negatives", place)),
            synthetic=row.get("synthetic") is True,
        )


def _passages(row: Any, key: str, place: str) -> list[str]:
    return [_text(passage, "text", f"{place}, {key}") for passage in (_list(row, key, place) if key in row else [])]


def _list(holder: Any, key: str, place: str) -> list[Any]:
    value = holder.get(key) if isinstance(holder, Mapping) else None
    if not isinstance(value, list):
        raise FormatError(f"{place}: expected a list '{key}', got {type(value).__name__}")
    return value


def _text(holder: Any, key: str, place: str) -> str:
    value = holder.get(key) if isinstance(holder, Mapping) else None
    if not isinstance(value, str) or not value.strip():
        raise FormatError(f"{place}: expected a text '{key}', got {'nothing' if value is None else repr(value)[:40]}")
    return value


def _texts(row: Mapping[str, Any], key: str, place: str) -> list[str]:
    """A list of texts, or one; absent: none."""
    value = row.get(key, [])
    value = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise FormatError(f"{place}: expected '{key}' to be a text or a list of texts, got {repr(value)[:40]}")
    return [each for each in value if each.strip()]


def _distinct(answers: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(answers))
