"""Preferences in and out of the files of others: HH-RLHF, TRL, and tables as annotation tools write them.

    dialogue     {"chosen": "\\n\\nHuman: …\\n\\nAssistant: …", "rejected": …}            HH-RLHF
    preference   {"prompt", "chosen", "rejected"}, texts or lists of messages           TRL; the prompt may be implicit
    table        CSV or JSONL with prompt, response_a, response_b and choice (a or b)   Argilla, Label Studio and others

Beside these, a row may have `degree` (or `margin`), `safety`, `annotator`, `batch`, `source`, `kind`, and `model_a`,
`model_b` or `models`: what is known is kept.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from arriero.align.preferences import Comparison, Degree, Judgement, Kind, Preferences, Response, Safety
from arriero.common.compression import open_bytes
from arriero.common.errors import ArrieroError, FormatError, NotFoundError
from arriero.common.files import atomic_file
from arriero.tokenizer.chat import Message
from arriero.train.examples import read_rows, read_turns, split_dialogue

_CHOICES = {
    "a": 1, "b": 2, "1": 1, "2": 2, "first": 1, "second": 2, "left": 1, "right": 2, "response_a": 1, "response_b": 2,
    "response-1": 1, "response-2": 2,
}  # fmt: skip
_FIRST = ("response_a", "response-1", "response_1", "answer_a", "left")
_SECOND = ("response_b", "response-2", "response_2", "answer_b", "right")
_CHOICE = ("choice", "preference", "label", "chosen")
_LONGEST_FIELD = 2**31 - 1
"""Characters; csv's own bound of 131,072 would refuse long chats that were exported as a table."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What became of the rows; counts."""

    taken: int
    equal: int
    """Left out: both responses are the same."""
    empty: int
    """Left out: a response says nothing."""
    unlike: int
    """Left out: the two dialogues differ before their last answers, which so are answers to different prompts."""


def import_preferences(
    paths: Sequence[Path], into: Preferences, *, kind: Kind, batch: str, source: str | None = None
) -> Imported:
    """Read files into a file of preferences, each whole or not at all.

    Args:
        kind: what the pairs were judged by, where the rows do not say.
        batch: the name of the batch, likewise.
        source: where the pairs come from; by default the file's name.

    Raises:
        FormatError: a row is none of the formats; names file and line.
    """
    taken = equal = empty = unlike = 0
    for path in paths:
        with into.batch():
            for where, row in _rows(path):
                pair = _read(row, where)
                if pair is None:
                    unlike += 1
                    continue
                texts = {pair.first.text.strip(), pair.second.text.strip()}
                if len(texts) < 2 or "" in texts:
                    equal, empty = equal + (len(texts) < 2), empty + (len(texts) == 2)
                    continue
                facts = {"kind": kind, "batch": batch, "annotator": "imported", "source": source or path.name}
                facts |= {name: str(row[name]) for name in facts if row.get(name)}
                try:
                    judged_by = _known(facts["kind"], Kind, "kind")
                    number = into.add_pair(pair.prompt, pair.first, pair.second, kind=judged_by, source=facts["source"])
                    into.judge(number, pair.judged(facts["annotator"], facts["batch"], number, into))
                except UnicodeEncodeError as error:
                    raise FormatError(f"{where}: expected text, got half a surrogate pair ({error.reason})") from error
                except ArrieroError as error:
                    raise FormatError(f"{where}: {error}") from error
                taken += 1
    return Imported(taken=taken, equal=equal, empty=empty, unlike=unlike)


def export_preferences(
    comparisons: Iterable[Comparison], path: Path, format: Literal["trl", "hh", "csv"] = "trl"
) -> int:
    """Write comparisons as TRL's or HH-RLHF's JSON lines, or as a table; how many there are."""
    count = 0
    with atomic_file(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        writer: Any = None
        for comparison in comparisons:
            count += 1
            if format == "csv":
                row = _table_row(comparison)
                writer = writer or csv.DictWriter(file, list(row))
                if count == 1:
                    writer.writeheader()
                writer.writerow(row)
            else:
                row = _dialogue_row(comparison) if format == "hh" else _trl_row(comparison)
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return count


@dataclass(frozen=True)
class _Read:
    """A row's pair: the first response is the chosen one where the format says so."""

    prompt: list[Message]
    first: Response
    second: Response
    choice: int
    row: Mapping[str, Any]

    def judged(self, annotator: str, batch: str, number: int, into: Preferences) -> Judgement:
        """The judgement, of the responses in the order in which the file of preferences has them."""
        chosen = self.first if self.choice == 1 else self.second
        choice: Literal[1, 2] = 1 if into.pair(number).first.text == chosen.text else 2
        degree = _degree(self.row.get("degree", self.row.get("margin")))
        safety = self.row.get("safety")
        known = None if safety in (None, "") else _known(str(safety), Safety, "safety")
        return Judgement(choice=choice, degree=degree, safety=known, annotator=annotator, judge="imported", batch=batch)


def _read(row: Any, where: str) -> _Read | None:
    if not isinstance(row, Mapping):
        raise FormatError(f"{where}: found a {type(row).__name__}; expected an object with chosen and rejected")
    try:
        if row.get("chosen") is not None and row.get("rejected") is not None:
            return _read_chosen(row)
        return _read_table(row)
    except ValueError as error:
        keys = ", ".join(f"'{key}'" for key in row) or "none"
        raise FormatError(
            f"{where}: {error} (keys found: {keys}); expected prompt, chosen and rejected, or prompt, response_a, "
            "response_b and choice"
        ) from None


def _read_chosen(row: Mapping[str, Any]) -> _Read | None:
    """None where the two are no answers to one prompt."""
    chosen, rejected = row["chosen"], row["rejected"]
    if row.get("prompt") is not None:
        prompt = read_turns(row["prompt"], "prompt", "user")
        answers = [read_turns(answer, "response", "assistant") for answer in (chosen, rejected)]
        answers = [turns[len(prompt) :] if turns[: len(prompt)] == prompt else turns for turns in answers]
    else:
        both = [
            split_dialogue(answer) if isinstance(answer, str) else read_turns(answer, "chosen", "assistant")
            for answer in (chosen, rejected)
        ]
        shared = 0
        while shared < min(map(len, both)) - 1 and both[0][shared] == both[1][shared]:
            shared += 1
        prompt, answers = both[0][:shared], [turns[shared:] for turns in both]
    if any(len(turns) != 1 or turns[0]["role"] != "assistant" for turns in answers):
        return None
    names = row.get("models")
    models = [str(name) for name in names] if isinstance(names, list) and len(names) == 2 else ["unknown"] * 2
    first, second = (
        Response(text=turns[0]["content"], model=model) for turns, model in zip(answers, models, strict=True)
    )
    return _Read(prompt, first, second, 1, row)


def _read_table(row: Mapping[str, Any]) -> _Read:
    texts = [next((row[name] for name in names if row.get(name)), None) for names in (_FIRST, _SECOND)]
    choice = next((row[name] for name in _CHOICE if row.get(name) not in (None, "")), None)
    if row.get("prompt") is None or None in texts or choice is None:
        raise ValueError("no prompt, two responses and choice")
    number = _CHOICES.get(str(choice).strip().lower())
    if number is None:
        raise ValueError(f"choice {choice!r} is neither a nor b")
    prompt = _chat_or_text(row["prompt"])
    first, second = (
        Response(text=str(text), model=str(row.get(name) or "unknown"))
        for text, name in zip(texts, ("model_a", "model_b"), strict=True)
    )
    return _Read(read_turns(prompt, "prompt", "user"), first, second, number, row)


def _chat_or_text(prompt: Any) -> Any:
    """A chat written as JSON is read; a text that merely begins with a bracket stays one."""
    if not isinstance(prompt, str) or not prompt.lstrip().startswith("["):
        return prompt
    try:
        turns = json.loads(prompt)
    except (ValueError, RecursionError):
        return prompt
    return turns if turns and all(isinstance(turn, Mapping) for turn in turns) else prompt


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    if not path.is_file():
        raise NotFoundError(f"no such file: {path}")
    if path.suffix != ".csv":
        yield from read_rows(path)
        return
    with open_bytes(path) as (content, _):
        text = io.TextIOWrapper(content, encoding="utf-8-sig", newline="")
        csv.field_size_limit(_LONGEST_FIELD)
        try:
            for number, row in enumerate(csv.DictReader(text), start=2):
                yield f"{path}, row {number}", row
        except (csv.Error, UnicodeDecodeError) as error:
            raise FormatError(f"{path}: no CSV in UTF-8 ({error})") from error


def _degree(value: Any) -> Degree | None:
    """A degree by its name, or by 1 to 4, negligibly to significantly."""
    names: tuple[Degree, ...] = get_args(Degree)
    if value is None or value == "":
        return None
    if str(value).strip() in ("1", "2", "3", "4"):
        return names[4 - int(value)]
    known: Degree = _known(str(value).strip().lower().replace("_", " "), Degree, "degree")
    return known


def _known(value: str, kind: Any, name: str) -> Any:
    if value not in get_args(kind):
        raise ArrieroError(f"{name}: expected {', '.join(get_args(kind))}, got '{value}'")
    return value


def _facts(comparison: Comparison) -> dict[str, Any]:
    judgement, pair = comparison.judgement, comparison.pair
    return {
        "degree": judgement.degree,
        "safety": judgement.safety,
        "annotator": judgement.annotator,
        "judge": judgement.judge,
        "batch": judgement.batch,
        "kind": pair.kind,
        "source": pair.source,
    }


def _trl_row(comparison: Comparison) -> dict[str, Any]:
    chosen, rejected = comparison.chosen, comparison.rejected
    return {
        "prompt": list(comparison.pair.prompt),
        "chosen": [{"role": "assistant", "content": chosen.text}],
        "rejected": [{"role": "assistant", "content": rejected.text}],
        "models": [chosen.model, rejected.model],
        **_facts(comparison),
    }


def _dialogue_row(comparison: Comparison) -> dict[str, Any]:
    names = {"user": "Human", "assistant": "Assistant"}
    if strange := [message["role"] for message in comparison.pair.prompt if message["role"] not in names]:
        raise ArrieroError(f"HH-RLHF's format knows Human and Assistant alone, and a prompt has one of {strange[0]}")
    head = "".join(f"\n\n{names[message['role']]}: {message['content']}" for message in comparison.pair.prompt)
    texts = {"chosen": comparison.chosen.text, "rejected": comparison.rejected.text}
    return {name: f"{head}\n\nAssistant: {text}" for name, text in texts.items()} | _facts(comparison)


def _table_row(comparison: Comparison) -> dict[str, Any]:
    pair = comparison.pair
    return {
        "prompt": json.dumps(list(pair.prompt), ensure_ascii=False),
        "response_a": pair.first.text,
        "response_b": pair.second.text,
        "choice": "ab"[comparison.judgement.choice - 1],
        "model_a": pair.first.model,
        "model_b": pair.second.model,
        **_facts(comparison),
    }
