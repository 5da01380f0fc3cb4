"""Documents that hold thirteen words of an evaluation set go, and only these."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_short_texts_are_counted(step: Decontaminate) -> None:
    assert step.passed_over == 2


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


def test_fields_say_what_is_looked_at(tmp_path: Path) -> None:
    row = {"passage": QUESTION, "question": {"text": SHORT}}
    (tmp_path / "set.jsonl").write_text(json.dumps(row))
    step = Decontaminate([tmp_path / "set.jsonl"], fields=["question"])
    assert is_dropped(step, SHORT)
    assert not is_dropped(step, QUESTION)
    with pytest.raises(ArrieroError, match="nothing of 8 words"):
        Decontaminate([tmp_path / "set.jsonl"], fields=["Question"])


def cut(folder: Path, text: str) -> Document:
    (folder / "set.txt").write_text(QUESTION)
    (document,) = Decontaminate([folder / "set.txt"], cut=True)([Document(id="x", text=text, origin="o")])
    return document


def test_parts_are_cut_out_with_200_characters_about_them(tmp_path: Path) -> None:
    before, after = "“é—İ”, " * 100, "ü, 羊" * 150
    document = cut(tmp_path, f"{before}{QUESTION}{after}")
    assert document.text == f"{before[:-200]}\n\n{after[199:]}"
    assert document.metadata == {"decontaminated": 1}
    assert not document.dropped


def test_short_pieces_and_documents_in_many_pieces_go(tmp_path: Path) -> None:
    words = "some other words here " * 20
    assert cut(tmp_path, f"{'a ' * 300}{QUESTION}{words[:380]}{QUESTION} b").text == "a " * 200
    assert cut(tmp_path, f"{words[:300]} {QUESTION}").dropped == "decontamination: part of an evaluation set"
    ten = QUESTION.join([words[:200] * 3] * 10)
    assert cut(tmp_path, ten).metadata == {"decontaminated": 9}
    assert cut(tmp_path, ten + QUESTION + words * 2).dropped == "decontamination: evaluation sets all over"


def test_a_clean_document_is_left_as_it_is(tmp_path: Path) -> None:
    assert cut(tmp_path, "a clean\n\n document ").text == "a clean\n\n document "


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=60), st.integers(0, 2**32))
def test_a_document_is_dropped_when_it_holds_a_part(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], seed: int
) -> None:
    """Against a search for strings."""
    source = np.random.default_rng(seed)
    texts = [" ".join(source.choice(["a", "b"], size)) for size in (8, 9, 11, 13, 20)]
    path = tmp_path_factory.mktemp("x") / "set.json"
    path.write_text(json.dumps(texts))
    parts = {" ".join(text.split()[at : at + 13]) for text in texts for at in range(max(1, len(text.split()) - 12))}
    padded = f" {' '.join(words)} "
    assert is_dropped(Decontaminate([path]), padded) == any(f" {part} " in padded for part in parts)
