r"""The files of a LaTeX paper joined to one text, as TeX reads them: main file first, `\input`s in place."""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from arriero.corpus.document import MAX_BYTES
from arriero.corpus.latex import verbatim_spans

MOST_DEPTH = 50
"""Of files in files."""
_INPUT = re.compile(
    r"\\(?:input|include|subfile)(?:\s*+\{([^{}\n]{1,200})\}|[ \t]++([^\s{}\\]{1,200}))"
    r"|\\(?:usepackage|RequirePackage)\s*+(?:\[[^]]{0,2000}\]\s*+)?\{([^{}]{1,1000})\}"  # 3: several, by commas
)
_CLASS = re.compile(r"\\document(?:class|style)\b")
_BEGIN, _END = r"\begin{document}", r"\end{document}"
_MOST_MAIN = 8
"""Files that could be the main one, for which is looked at how much they bring with them."""


class TooLong(ValueError):
    """The joined paper is longer than the longest document."""


class NestedTooDeep(ValueError):
    """Files ask for files more than `MOST_DEPTH` deep."""


def join(files: Mapping[str, str]) -> tuple[str, int]:
    r"""The main file with all that it inputs in place, and how many files it asks for that are not there.

    Of a file that is a document of its own (`\subfile`) the document's body counts; a style is read once; and a file
    that asks for itself, by whatever way, gets nothing.

    Args:
        files: texts without comments by their names inside the paper, one a `.tex` at least.

    Raises:
        TooLong, NestedTooDeep: see there.
    """
    main = find_main(files)
    joiner = _Joiner(files, PurePosixPath(main).parent)
    return joiner.put_in(main, (main,)), joiner.missing


class _Joiner:
    """Joins the files of one paper."""

    def __init__(self, files: Mapping[str, str], folder: PurePosixPath) -> None:
        self.missing = 0
        self._files = files
        self._folder = folder
        self._room = MAX_BYTES
        self._styles: set[str] = set()

    def put_in(self, file: str, active: tuple[str, ...]) -> str:
        """A file's text with the files that it asks for; `active` are those that it is asked for by, and itself."""
        if len(active) > MOST_DEPTH:
            raise NestedTooDeep
        text = self._files[file]
        if len(active) > 1 and _BEGIN in text:
            text = text.partition(_BEGIN)[2].partition(_END)[0]
        self._room -= len(text)
        if self._room < 0:
            raise TooLong
        kept, at = [], 0
        for found in _asked(text):
            kept.append(text[at : found.start()])
            at = found.end()
            if found[3]:
                kept += [found[0], *self._read_styles(found[3], file, active)]
                continue
            asked = _resolve(
                self._files, (found[1] or found[2]).strip(' "\t'), self._folder, PurePosixPath(file).parent
            )
            self.missing += asked is None
            if asked and asked not in active:
                inner = self.put_in(asked, (*active, asked))
                kept.append(inner if not inner or inner.endswith("\n") else f"{inner}\n")
        return "".join(kept) + text[at:]

    def _read_styles(self, names: str, file: str, active: tuple[str, ...]) -> Iterator[str]:
        """Those of the named styles that are the paper's own."""
        for name in names.split(","):
            style = _resolve(self._files, f"{name.strip()}.sty", self._folder, PurePosixPath(file).parent)
            if style and style not in self._styles:
                self._styles.add(style)
                yield "\n" + self.put_in(style, (*active, style))


def find_main(files: Mapping[str, str]) -> str:
    """The file that begins the paper: it has a document class and a document, is asked for by no other, and brings most
    text with it."""
    papers = sorted(file for file in files if not file.lower().endswith(".sty"))
    asked = {file: _reached_from(file, files) for file in papers}
    of_others = set().union(*(names - {file} for file, names in asked.items()))

    def merit(file: str) -> tuple[bool, bool, bool, int]:
        text = files[file]
        return bool(_CLASS.search(text)), _BEGIN in text, file not in of_others, len(text)

    best = sorted(papers, key=merit, reverse=True)[:_MOST_MAIN]

    def brings(file: str) -> int:
        reached, new = {file}, [file]
        while new:
            further = asked[new.pop()] - reached
            reached |= further
            new += further
        return sum(len(files[name]) for name in reached)

    return max(best, key=lambda file: (*merit(file)[:3], brings(file)))


def _reached_from(file: str, files: Mapping[str, str]) -> set[str]:
    """The paper's files that a file asks for, seen from its own folder or the paper's."""
    names = {(found[1] or found[2]).strip(' "\t') for found in _asked(files[file]) if not found[3]}
    places = PurePosixPath(file).parent, PurePosixPath()
    found = {_resolve(files, name, *places) for name in names}
    return {name for name in found if name and not name.lower().endswith(".sty")}


def _asked(text: str) -> Iterator[re.Match[str]]:
    """Where a text asks for files; what stands verbatim does not."""
    found = list(_INPUT.finditer(text))
    spans = verbatim_spans(text) if found else []
    at = 0
    for match in found:
        while at < len(spans) and spans[at][1] <= match.start():
            at += 1
        if at == len(spans) or match.start() < spans[at][0]:
            yield match


def _resolve(files: Mapping[str, str], name: str, *folders: PurePosixPath) -> str | None:
    """The paper's file that a name means, seen from some folders; no name leads out of the paper."""
    for folder in folders:
        parts: list[str] = []
        for part in PurePosixPath(folder, name).parts:
            if part == "..":
                parts[-1:] = []
            elif part != "/":
                parts.append(part)
        file = "/".join(parts)
        for candidate in (f"{file}.tex", file):
            if candidate in files:
                return candidate
    return None
