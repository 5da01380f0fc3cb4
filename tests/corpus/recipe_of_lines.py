"""A recipe for the tests of stages and runs: a document a line, some of them refused, repeated ones removed."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from arriero.common.compression import open_bytes
from arriero.corpus.document import Document, Each, Step
from arriero.corpus.stages import Recipe


def read_lines(path: Path, name: str) -> Iterator[Document]:
    with open_bytes(path) as (content, _):
        for number, line in enumerate(content, 1):
            yield Document(id=f"{name}#{number}", text=line.decode().rstrip("\n"), origin=str(path))


def shout(document: Document) -> Document:
    if "bad" in document.text:
        return document.drop("shout: bad")
    if "broken" in document.text:
        raise ValueError("of no document's concern but its own")
    return document.with_text(document.text.upper())


class Repeated:
    """Removes every copy of a text that occurs twice."""

    name = "repeated"

    def __init__(self) -> None:
        self._texts: list[str] = []

    def collector(self) -> "Repeated":
        return Repeated()

    def add(self, document: Document) -> None:
        self._texts.append(document.text)

    def save(self, path: Path) -> None:
        path.write_text("\n".join(self._texts))

    def resolve(self, parts: Sequence[Path], verdict: Path) -> None:
        counts = Counter(text for part in parts for text in part.read_text().split("\n"))
        verdict.write_text("\n".join(sorted(text for text, count in counts.items() if count > 1)))

    def step(self, verdict: Path) -> Step:
        gone = set(verdict.read_text().split("\n"))
        return Each("repeated", lambda d: d.drop("repeated: copy") if d.text in gone else d)


def mark(document: Document) -> Document:
    return document.with_metadata(marked=True, language="en" if "E" in document.text else "de")


def recipe_of_lines() -> Recipe:
    return Recipe("lines", read_lines, (Each("shout", shout), Repeated(), Each("mark", mark)))


def write_lines(folder: Path, files: Iterable[Sequence[str]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, lines in enumerate(files):
        (folder / f"{number}.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder
