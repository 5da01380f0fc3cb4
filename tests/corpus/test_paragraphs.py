"""Repeated paragraphs: which go, which copy stays, and that the split into parts decides nothing."""

import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.corpus import dedup
from arriero.corpus.document import Document
from arriero.corpus.paragraphs import Preset, RepeatedParagraphs, normalise, shortest

PAGES = [
    "Title A\nHome | About\nLlamas walk.\nSame line 1",
    "Title B\nhome | about\nAlpacas run!\nSame  line",
    "Home | About\nX y",
]


def document(number: int, text: str) -> Document:
    return Document(id=f"x#{number}", text=text, origin="o")


def remove(folder: Path, texts: Sequence[str], preset: Preset, parts: int = 1, seed: int = 0) -> list[str | None]:
    """The texts that are left, None for a document that is dropped."""
    step = RepeatedParagraphs(preset)
    documents = [document(number, text) for number, text in enumerate(texts)]
    shuffled = documents[:]
    random.Random(seed).shuffle(shuffled)
    files = []
    for part in range(parts):
        collector = step.collector()
        for each in shuffled[part::parts]:
            collector.add(each)
        files.append(folder / f"{part}-{seed}.keys")
        collector.save(files[-1])
    step.resolve(files, folder / "verdict")
    made = list(step.step(folder / "verdict")(documents))
    return [None if each.dropped else each.text for each in made]


def test_ccnet_removes_every_copy_and_no_title(tmp_path: Path) -> None:
    left = ["Title A\nLlamas walk.\nSame line 1", "Title B\nAlpacas run!\nSame  line", PAGES[2]]
    assert remove(tmp_path, PAGES, "ccnet") == left


def test_case_digits_and_punctuation_do_not_count_accents_do() -> None:
    assert normalise("  ÉTÉ 2019, “ok”\u200b\x07!\n\n٣a ") == "été 0000, ok!\n\n0a"


def test_c4_keeps_one_copy(tmp_path: Path) -> None:
    left = remove(tmp_path, PAGES, "c4-code")
    assert sum(text is not None and "about" in text.lower() for text in left) == 1
    assert all(text is None or "Same" not in text or text.count("Same") == 1 for text in left)


def test_spans_of_three_sentences_are_c4s_unit_on_paper(tmp_path: Path) -> None:
    shared = "One is here. Two is there! Is three anywhere? "
    texts = [f"Alpha begins. {shared}\n\nOmega  ends.", f"{shared}Beta follows.", "One is here. Two is there! Other."]
    left = remove(tmp_path, texts, "c4-paper")
    first_stays = [texts[0], "Beta follows.", texts[2]]
    assert left in (first_stays, ["Alpha begins. Omega  ends.", *texts[1:]])


@pytest.mark.parametrize("preset", ["ccnet", "c4-paper", "c4-code"])
@pytest.mark.parametrize("texts", [[], ["one"], ["a\nb", "c\nd"], ["", "\n\n"], ["T\nx"] * 3], ids=str)
def test_no_documents_no_duplicates_and_very_few_paragraphs_are_fine(
    tmp_path: Path, preset: Preset, texts: list[str]
) -> None:
    left = remove(tmp_path, texts, preset)
    assert len(left) == len(texts)
    if len(set(texts)) == len(texts):
        assert left == texts


def test_a_document_of_nothing_else_is_dropped(tmp_path: Path) -> None:
    assert remove(tmp_path, ["T\nsame", "U\nsame", "V\nother"], "ccnet") == [None, None, "V\nother"]


@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=5).map("\n".join), max_size=12),
    st.integers(1, 5),
    st.integers(0, 3),
    st.sampled_from(["ccnet", "c4-code", "c4-paper"]),
)
def test_neither_parts_nor_order_nor_passes_decide(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], parts: int, seed: int, preset: Preset
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    whole = remove(folder, texts, preset)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedup, "BUDGET", 64)
        assert remove(folder, texts, preset, parts, seed) == whole


def test_every_copy_is_found_in_a_corpus_of_some_size(tmp_path: Path) -> None:
    words = ["".join(letters) for letters in itertools.product("abcdefghijklm", repeat=3)]
    texts = [f"Title\nmenu of {words[number % 50]}\nline of {word}" for number, word in enumerate(words)]
    left = remove(tmp_path, texts, "ccnet", parts=7)
    assert left == [f"Title\nline of {word}" for word in words]


def test_short_documents_go_first() -> None:
    made = list(shortest()([document(0, "x" * 299), document(1, "x" * 300)]))
    assert [each.dropped for each in made] == ["shorter than 300 characters", None]
