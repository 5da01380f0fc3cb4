"""Exact and near duplicates: which documents go, whatever the parts and their order."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arriero.common.errors import ArrieroError
from arriero.corpus import dedup, near_duplicates
from arriero.corpus.books import read_book
from arriero.corpus.dedup import CorpusStep
from arriero.corpus.document import Document
from arriero.corpus.exact import ExactDuplicates
from arriero.corpus.grams import hash_grams, hash_words
from arriero.corpus.near_duplicates import LEADERS, PERMUTATIONS, NearDuplicates, choose_bands, containment

pytest.importorskip("rensa")
WORDS = [f"{a}{b}" for a in "bcdfghklmnprst" for b in ("a", "e", "i", "o", "u", "an", "en", "on")]


def document(number: int, text: str) -> Document:
    return Document(id=f"x#{number:04d}", text=text, origin="o")


def kept(folder: Path, step: CorpusStep, documents: Sequence[Document], parts: int = 1, seed: int = 0) -> list[str]:
    """The ids that stay."""
    shuffled = list(documents)
    random.Random(seed).shuffle(shuffled)
    files = []
    for part in range(parts):
        collector = step.collector()
        for each in shuffled[part::parts]:
            collector.add(each)
        files.append(folder / f"{part}.keys")
        collector.save(files[-1])
    step.resolve(files, folder / "verdict")
    return [each.id for each in step.step(folder / "verdict")(documents) if not each.dropped]


def text_of(random_source: random.Random, words: int) -> list[str]:
    return random_source.choices(WORDS, k=words)


@given(st.lists(st.sampled_from(["", "a", "b", "é", "a "]), max_size=12), st.integers(1, 4), st.integers(0, 3))
def test_the_smallest_id_of_equal_texts_stays(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], parts: int, seed: int
) -> None:
    documents = [document(number, text) for number, text in enumerate(texts)]
    first = {text: each.id for text, each in reversed(list(zip(texts, documents, strict=True)))}
    assert kept(tmp_path_factory.mktemp("x"), ExactDuplicates(), documents, parts, seed) == sorted(first.values())


@pytest.mark.parametrize("step", [ExactDuplicates(), NearDuplicates()], ids=str)
@pytest.mark.parametrize("prefix", ["é" * 60, "folder/" * 20, ""])
def test_long_ids_are_compared_whole(tmp_path: Path, step: CorpusStep, prefix: str) -> None:
    documents = [Document(id=f"{prefix}#{number}", text="a b c d e f", origin="o") for number in range(8)]
    assert kept(tmp_path, step, documents, parts=3, seed=1) == [f"{prefix}#0"]


@pytest.mark.parametrize("step", [ExactDuplicates(), NearDuplicates()], ids=str)
def test_of_one_id_and_text_given_twice_nothing_is_lost(tmp_path: Path, step: CorpusStep) -> None:
    documents = [document(number, "the same words, again and again") for number in (1, 1, 2)]
    for parts in (1, 2, 3):
        assert kept(tmp_path, step, documents, parts) == ["x#0001", "x#0001"]


def test_a_small_budget_takes_longer_and_decides_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [document(number, str(number % 50)) for number in range(200)]
    monkeypatch.setattr(dedup, "BUDGET", 500)
    assert kept(tmp_path, ExactDuplicates(), documents, 3) == [each.id for each in documents[:50]]


def test_bands_are_chosen_about_the_threshold() -> None:
    for threshold in (0.5, 0.8, 0.95):
        bands, rows = choose_bands(threshold)
        assert bands * rows <= 128
        assert 1 - (1 - (threshold + 0.05) ** rows) ** bands > 0.9


def test_near_copies_are_found_and_others_left(tmp_path: Path) -> None:
    """Pairs of a known similarity: nearly all at 0.9 and above are found, none at 0.5 and below."""
    source = random.Random(1)
    documents, alike, unlike = [], 0, 0
    for pair in range(60):
        words = text_of(source, 400)
        copy = words[:]
        for _ in range(2 if pair % 2 else 40):
            copy[source.randrange(400)] = "changed"
        both = [document(2 * pair, " ".join(words)), document(2 * pair + 1, " ".join(copy))]
        one, other = (set(hash_grams(hash_words(each.text), 5).tolist()) for each in both)
        similarity = len(one & other) / len(one | other)
        alike += similarity >= 0.9
        unlike += similarity <= 0.5
        documents += both
    assert (alike, unlike) == (30, 30)
    stay = kept(tmp_path, NearDuplicates(0.8), documents)
    assert sum(each.id in stay for each in documents[2::4]) == 30
    assert sum(each.id in stay for each in documents[3::4]) <= 1
    assert all(each.id in stay for pair in range(0, 60, 2) for each in documents[2 * pair : 2 * pair + 2])


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(0, 5))
def test_neither_parts_nor_order_decide(tmp_path_factory: pytest.TempPathFactory, parts: int, seed: int) -> None:
    source = random.Random(2)
    base = [text_of(source, 60) for _ in range(5)]
    texts = [" ".join([*base[number % 5], *text_of(source, number % 4)]) for number in range(40)]
    documents = [document(number, text) for number, text in enumerate(texts)]
    folder = tmp_path_factory.mktemp("x")
    for step in (NearDuplicates(0.8), NearDuplicates(0.8, 0.9)):
        whole = kept(folder, step, documents)
        assert len(whole) < 40
        assert kept(folder, step, documents, parts, seed) == whole


def test_a_short_book_inside_of_a_long_one_stays(tmp_path: Path) -> None:
    words = text_of(random.Random(5), 5000)
    documents = [document(0, " ".join(words)), document(1, " ".join(words[:500])), document(2, " ".join(words[:4600]))]
    assert kept(tmp_path, NearDuplicates(0.8, 0.9), documents) == ["x#0000", "x#0001"]


def test_groups_that_share_a_bucket_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "choose_bands", lambda threshold: (1, 1))
    collector = NearDuplicates().collector()
    source = np.random.default_rng(0)
    signatures = source.integers(0, 1 << 32, (LEADERS, PERMUTATIONS), np.uint32)
    signatures[:, 0] = 1
    for number in range(40):
        collector.add(document(number, "x"))
    monkeypatch.setattr(collector, "_sign", lambda: None)
    monkeypatch.setattr(collector, "_signatures", [signatures[np.arange(40) % LEADERS]])
    collector.save(tmp_path / "keys")
    NearDuplicates().resolve([tmp_path / "keys"], tmp_path / "verdict")
    assert len(np.load(tmp_path / "verdict")) == 40 - LEADERS


@pytest.mark.parametrize("step", [ExactDuplicates(), NearDuplicates(), NearDuplicates(0.8, 0.9)], ids=str)
@pytest.mark.parametrize("texts", [[], [""], ["one word"], ["a b", "c d", "e"]], ids=str)
def test_few_documents_and_short_ones_are_fine(tmp_path: Path, step: CorpusStep, texts: list[str]) -> None:
    documents = [document(number, text) for number, text in enumerate(texts)]
    assert kept(tmp_path, step, documents) == [each.id for each in documents]


def test_short_texts_are_compared_whole(tmp_path: Path) -> None:
    documents = [document(0, "Hello, world!"), document(1, "hello world"), document(2, "hello there")]
    assert kept(tmp_path, NearDuplicates(), documents) == ["x#0000", "x#0002"]


def test_chinese_texts_are_not_one_word(tmp_path: Path) -> None:
    source = random.Random(3)
    text = "".join(chr(source.randrange(0x4E00, 0x9FA5)) for _ in range(500))
    documents = [document(0, text), document(1, text[:250] + "羊" + text[250:]), document(2, text[::-1])]
    assert kept(tmp_path, NearDuplicates(), documents) == ["x#0000", "x#0002"]


def test_two_editions_of_one_novel_are_duplicates_by_containment(data_folder: Path, tmp_path: Path) -> None:
    books = [next(read_book(data_folder / "corpus" / "books" / name, name)) for name in ("1342-0.txt", "1342.txt")]
    assert books[0].text != books[1].text
    assert kept(tmp_path, NearDuplicates(0.8, 0.9), books) == ["1342-0.txt#"]


def test_containment_is_of_the_smaller_set() -> None:
    a, b = np.arange(10, dtype=np.uint64), np.arange(5, 100, dtype=np.uint64)
    assert containment(a, b) == 0.5
    assert containment(a[:0], b) == 0.0


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.1, float("nan")])
def test_a_threshold_is_a_share(threshold: float) -> None:
    with pytest.raises(ArrieroError, match="more than 0 and at most 1"):
        NearDuplicates(threshold)
    with pytest.raises(ArrieroError, match="more than 0 and at most 1"):
        NearDuplicates(0.8, threshold)
