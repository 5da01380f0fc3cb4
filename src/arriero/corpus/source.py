"""What a user says of a source: its kind, its files, and what LLaMA leaves open."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from arriero.common.errors import ArrieroError

Kind = Literal["commoncrawl", "c4", "github", "wikipedia", "books", "arxiv", "stackexchange", "files"]
Part = Literal["head", "middle", "tail"]


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One source. Settings of no meaning for its kind are refused."""

    kind: Kind
    """Which of LLaMA's recipes; or files, for a folder of your own."""
    paths: tuple[Path, ...]
    """Files, folders with all below them, and patterns with *."""
    licence: str | None = None
    """Of all its documents, where the files do not say it."""
    field: str = "text"
    """The field of JSON Lines that holds the text (c4, github)."""
    extractor: Literal["resiliparse", "trafilatura"] = "resiliparse"
    """What finds the text of a web page: resiliparse is fast, trafilatura precise (commoncrawl, c4)."""
    languages: tuple[str, ...] = ()
    """Codes of the languages that are kept; by default all, and English for c4."""
    threshold: float | None = None
    """Least probability of a document's language; by default 0.5, and 0.99 for c4."""
    perplexity: Path | None = None
    """Folder of a language model by `arriero corpus train-lm`: scores documents, and keeps the parts named in keep."""
    keep: tuple[Part, ...] = ("head", "middle")
    """Which thirds by perplexity stay: head is nearest to the model's own text."""
    classifier: Path | None = None
    """Folder of a classifier by `arriero corpus train-classifier`: keeps pages that look like what it was shown."""
    classifier_threshold: float = 0.25
    """Least probability that a page is kept with."""
    c4: Literal["none", "paper", "code"] | None = None
    """C4's rules, as its paper or its code has them; by default code for c4, and none else."""
    bad_words: Path | None = None
    """A file with a word on each line: C4's rules drop pages that hold one."""
    gopher: bool = False
    """Gopher's rules of quality and repetition too."""
    near_duplicates: float | None = None
    """Similarity from which on one of two documents goes, such as 0.8; by default only books are compared."""
    evaluations: tuple[Path, ...] = ()
    """Evaluation sets (text, JSON Lines): documents that share 13 words in a row with one are dropped."""
    private: Literal["keep", "replace", "drop"] | None = None
    """E-mail addresses, telephone numbers, keys and the like: stay, become marks such as <EMAIL>, or the document goes;
    by default replace for files, and keep else."""
    licences: tuple[str, ...] = ("MIT", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0")
    """Licences of the repositories that are kept; empty for any (github)."""

    def __post_init__(self) -> None:
        if not self.paths:
            raise ArrieroError("paths: expected at least one file or folder, got none")
        for name in ("threshold", "classifier_threshold", "near_duplicates"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ArrieroError(f"{name}: expected more than 0 and at most 1, got {value}")
        if not self.keep:
            raise ArrieroError(f"keep: expected one or more of {', '.join(get_args(Part))}, got none")
        for name, kinds in _ONLY_FOR.items():
            if self.kind not in kinds and getattr(self, name) != _DEFAULTS[name]:
                raise ArrieroError(f"{name}: a setting of {' and '.join(kinds)}, and this source is {self.kind}")

    @property
    def assets(self) -> tuple[Path, ...]:
        """Files and folders that decide what is kept, beside the source's own."""
        given = (self.perplexity, self.classifier, self.bad_words, *self.evaluations)
        return tuple(path for path in given if path is not None)


_ONLY_FOR: dict[str, tuple[Kind, ...]] = {
    "field": ("c4", "github"),
    "extractor": ("commoncrawl", "c4"),
    "licences": ("github",),
}
_DEFAULTS = {name: SourceConfig.__dataclass_fields__[name].default for name in _ONLY_FOR}
