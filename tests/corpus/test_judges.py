"""Perplexity and classifier: they tell good text from bad, come back from their folders, and tell what is damaged."""

import random
from pathlib import Path

import numpy as np
import pytest

from arriero.common.errors import ArrieroError, FormatError, NotFoundError
from arriero.corpus.arpa import write_arpa
from arriero.corpus.books import clean_book, read_book
from arriero.corpus.classifier import ByClassifier, Classifier, area_under_curve, train_classifier
from arriero.corpus.document import Document
from arriero.corpus.perplexity import ByPerplexity, LanguageModel, normalise
from arriero.corpus.train_lm import EXCERPT, _cutoffs, train_language_model

pytest.importorskip("sentencepiece")
FLOOR = 0.95
"""Of the share of pairs of a good and a bad text that are put in the right order."""


@pytest.fixture(scope="module")
def paragraphs(data_folder: Path) -> list[str]:
    """Runs of real sentences of one novel."""
    path = data_folder / "corpus" / "books" / "1342.txt"
    (book,) = clean_book()(read_book(path, "x"))
    words = book.text.split()
    return [" ".join(words[start : start + 120]) for start in range(0, len(words) - 120, 120)]


def spoil(text: str, kind: int, source: random.Random) -> str:
    """Text that no one wants: words in disorder, menus, or what is left of markup."""
    words = text.split()
    if kind == 0:
        source.shuffle(words)
        return " ".join(words)
    if kind == 1:
        menu = ["Home", "Login", "Cart (0)", "Share", "Next »", "Terms", "Privacy", "Top 10", "$9.99", "Subscribe"]
        return " | ".join(source.choices(menu, k=100))
    return " ".join(f"</{word[:3]}> {{{word}: {source.randrange(999)}px}};" for word in words)


@pytest.fixture(scope="module")
def bad(paragraphs: list[str]) -> list[str]:
    source = random.Random(0)
    return [spoil(text, number % 3, source) for number, text in enumerate(paragraphs)]


@pytest.fixture(scope="module")
def model(paragraphs: list[str]) -> LanguageModel:
    return train_language_model(paragraphs[: len(paragraphs) * 2 // 3], pieces=2000)


def test_perplexity_tells_prose_from_debris(model: LanguageModel, paragraphs: list[str], bad: list[str]) -> None:
    unseen = slice(len(paragraphs) * 2 // 3, None)
    good_scores, bad_scores = (
        np.array([model.perplexity(text) or 0.0 for text in texts[unseen]]) for texts in (paragraphs, bad)
    )
    assert area_under_curve(bad_scores, good_scores) > FLOOR


def test_the_classifier_tells_them_apart_too(paragraphs: list[str], bad: list[str]) -> None:
    half = len(paragraphs) // 2
    made = train_classifier(paragraphs[:half], bad[:half])
    good_scores, bad_scores = (
        np.array([made.probability(text) for text in texts[half:]]) for texts in (paragraphs, bad)
    )
    assert area_under_curve(good_scores, bad_scores) > 0.85  # a third have the same words, in disorder
    assert made.auc > 0.85


def test_perplexity_is_ccnets_formula(model: LanguageModel, paragraphs: list[str]) -> None:
    """10 ** (−Σ log10 p / Σ (pieces + 1)), over all lines of a document."""
    lines = [normalise(text) for text in paragraphs[:3]]
    sentences = model.pieces.encode(lines)
    logs = sum(float(model.ngrams.score([sentence])[0]) for sentence in sentences)
    expected = 10 ** (-logs / sum(len(sentence) + 1 for sentence in sentences))
    assert model.perplexity("\n \n".join(paragraphs[:3])) == pytest.approx(expected, rel=1e-9)


def test_the_cutoffs_are_the_30th_and_the_60th_percentile(model: LanguageModel, paragraphs: list[str]) -> None:
    sample = paragraphs[:50]
    expected = np.percentile([model.perplexity(text) or 0.0 for text in sample], [30, 60])
    assert _cutoffs(model, sample) == pytest.approx(tuple(expected))


def test_head_middle_and_tail_are_thirds_of_a_sample(model: LanguageModel) -> None:
    low, high = model.cutoffs
    assert 1 < low < high
    assert [model.part(score) for score in (low / 2, low, high)] == ["head", "middle", "tail"]


def test_a_model_comes_back_from_its_folder(model: LanguageModel, tmp_path: Path, paragraphs: list[str]) -> None:
    model.save(tmp_path / "lm", tmp_path / "lm.arpa")
    again = LanguageModel.load(tmp_path / "lm")
    assert again.perplexity(paragraphs[-1]) == model.perplexity(paragraphs[-1])
    assert again.cutoffs == model.cutoffs
    write_arpa(model.ngrams, model.pieces.names(), tmp_path / "lm" / "lm.arpa.gz")
    by_arpa = LanguageModel.load(tmp_path / "lm")
    assert by_arpa.perplexity(paragraphs[-1]) == pytest.approx(model.perplexity(paragraphs[-1]), rel=1e-3)


def test_the_step_keeps_the_parts_that_are_wanted(model: LanguageModel, tmp_path: Path, paragraphs: list[str]) -> None:
    model.save(tmp_path / "lm")
    documents = [Document(id="x", text=text, origin="o") for text in (paragraphs[0], "zz qq xx 77 ## " * 20, " ")]
    made = list(ByPerplexity(tmp_path / "lm", ("head", "middle"))(documents))
    assert [document.dropped for document in made] == [None, "perplexity: tail", "perplexity: no words"]
    assert made[0].metadata["part"] in ("head", "middle")
    assert made[1].metadata["perplexity"] > model.cutoffs[1]


def test_text_is_normalised_as_ccnet_does() -> None:
    assert normalise("Ça coûte 1.234 €, n° ٣") == "ca coute 0.000 €, n° 0"
    assert normalise("É\nWhat?\ud800") == "e\nwhat?�"


def test_classifiers_come_back_and_judge(tmp_path: Path, paragraphs: list[str], bad: list[str]) -> None:
    train_classifier(paragraphs[:60], bad[:60]).save(tmp_path / "c")
    step = ByClassifier(tmp_path / "c", 0.5)
    made = list(step([Document(id="x", text=text, origin="o") for text in (paragraphs[0], bad[1])]))
    assert [document.dropped for document in made] == [None, "classifier: unlike a reference"]
    assert made[0].metadata["reference"] > 0.5
    twice = train_classifier(paragraphs[:60], bad[:60])
    assert np.array_equal(twice.weights, Classifier.load(tmp_path / "c").weights)


def test_one_long_text_is_a_reference_too(paragraphs: list[str]) -> None:
    told: list[str] = []
    made = train_language_model(["\n".join(paragraphs)], pieces=60_000, tell=told.append)
    assert len(paragraphs[0]) < EXCERPT
    assert made.ngrams.vocab_size < 60_000
    assert any("the text is too small for 60,000" in what for what in told)


def test_the_same_text_gives_the_same_model(model: LanguageModel, paragraphs: list[str]) -> None:
    again = train_language_model(paragraphs[: len(paragraphs) * 2 // 3], pieces=2000)
    assert again.pieces == model.pieces
    assert again.cutoffs == model.cutoffs


def test_a_sample_sets_the_cutoffs(paragraphs: list[str], bad: list[str], model: LanguageModel) -> None:
    made = train_language_model(paragraphs[: len(paragraphs) * 2 // 3], pieces=2000, sample=bad)
    assert made.cutoffs[1] > model.cutoffs[1]
    with pytest.raises(ArrieroError, match="a sample with text in it"):
        train_language_model(paragraphs, pieces=2000, sample=[" "])


def test_a_long_document_is_scored_in_parts(model: LanguageModel, paragraphs: list[str]) -> None:
    lines = paragraphs[:40] * 30
    one_by_one = [model.perplexity(line) or 0.0 for line in paragraphs[:40]]
    score = model.perplexity("\n".join(lines))
    assert score is not None
    assert min(one_by_one) < score < max(one_by_one)
    assert score == pytest.approx(model.perplexity("\n".join(paragraphs[:40])), rel=1e-9)


def test_too_little_text_is_told() -> None:
    with pytest.raises(ArrieroError, match=r"20 documents or more .*, got 3"):
        train_language_model(["a b c"] * 3)
    with pytest.raises(ArrieroError, match=r"pieces: expected \d+ or more, .* got 5"):
        train_language_model([f"{chr(97 + number)} b c" for number in range(26)], pieces=5)
    with pytest.raises(ArrieroError, match="negative: expected 10 pages or more, got 1"):
        train_classifier(["x"] * 10, ["y"])


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    for load, names in (
        (LanguageModel.load, ("model.json", "pieces.model")),
        (Classifier.load, ("classifier.json", "classifier.safetensors")),
    ):
        folder = tmp_path / names[0]
        with pytest.raises(NotFoundError, match="`arriero corpus train-"):
            load(folder)
        folder.mkdir()
        for name in names:
            (folder / name).write_text("{}")
        with pytest.raises(FormatError, match="damaged"):
            load(folder)


@pytest.mark.parametrize("name", ["pieces.model", "ngrams/1.keys.npy", "ngrams/3.backoff.npy", "model.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_language_model_is_told(model: LanguageModel, tmp_path: Path, name: str, damage: str) -> None:
    model.save(tmp_path / "lm")
    path = tmp_path / "lm" / name
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises((FormatError, NotFoundError), match=r"(damaged|holds no) language model"):
        LanguageModel.load(tmp_path / "lm")


def test_areas_under_curves() -> None:
    assert area_under_curve(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1
    assert area_under_curve(np.array([1.0]), np.array([1.0, 0.0])) == 0.75
