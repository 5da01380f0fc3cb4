"""Documents that hold thirteen words of an evaluation set go, and only these."""

import json
from pathlib import Path

import pytest

from arriero.common.errors import ArrieroError
from arriero.corpus.decontaminate import Decontaminate
from arriero.corpus.document import Document

QUESTION = "Which animal carries wool and loads over the high mountains of Peru and Bolivia every single year?"
SHORT = "What is the capital city of Peru, really?"


@pytest.fixture
def step(tmp_path: Path) -> Decontaminate:
    rows = [{"question": QUESTION, "answers": ["a llama", {"x": SHORT}]}, {"question": "Too short to count"}]
    (tmp_path / "set.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Decontaminate([tmp_path / "set.jsonl"])


def is_dropped(step: Decontaminate, text: str) -> bool:
    (document,) = step([Document(id="x", text=text, origin="o")])
    assert document.dropped in (None, "decontamination: part of an evaluation set")
    return document.dropped is not None


def test_thirteen_words_in_a_row_are_enough(step: Decontaminate) -> None:
    words = QUESTION.split()
    assert is_dropped(step, f"before {' '.join(words[2:15])} after")
    assert not is_dropped(step, f"before {' '.join(words[2:14])} after")


def test_case_and_punctuation_do_not_count(step: Decontaminate) -> None:
    assert is_dropped(step, QUESTION.upper().replace(" ", ", "))


def test_a_shorter_text_counts_as_a_whole_from_eight_words_on(step: Decontaminate) -> None:
    assert is_dropped(step, f"they ask: {SHORT} and more")
    assert not is_dropped(step, "too short to count")
    assert not is_dropped(step, "")


def test_sets_are_text_or_json_and_anything_else_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(QUESTION)
    (tmp_path / "b.json").write_text(json.dumps({"data": [QUESTION]}))
    for name in ("a.txt", "b.json"):
        assert is_dropped(Decontaminate([tmp_path / name]), QUESTION)
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "short.txt").write_text("two words")
    for name in ("bad.json", "latin.txt", "short.txt", "gone.txt"):
        with pytest.raises(ArrieroError, match=name):
            Decontaminate([tmp_path / name])
