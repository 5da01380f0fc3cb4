"""Documents out of a user's own files, of every format that collections take: PDF, Office, HTML, Markdown, code, …

The parsers are those of `arriero.parsers`, run in a process of their own, which a hostile file may take down.
"""

import weakref
from collections.abc import Iterator
from pathlib import Path

from arriero.common.errors import FormatError, NotFoundError
from arriero.corpus.document import Document
from arriero.parsers.isolation import ParserProcess


class FileReader:
    """A reader of one file a document; its parser is started once, and ends with it."""

    def __init__(self) -> None:
        self._parser = ParserProcess()
        weakref.finalize(self, self._parser.close)

    def __call__(self, path: Path, name: str) -> Iterator[Document]:
        """The file's document, dropped with a reason if no text can be had from it.

        Raises:
            MissingExtraError: the package for its format is not installed.
        """
        document = Document(id=f"{name}#", text="", origin=str(path))
        try:
            parsed = self._parser.parse(path, name=name)
        except FormatError as error:
            yield document.with_text(str(error)).drop("files: no text can be had from it")
            return
        except NotFoundError as error:  # it went since the inputs were found
            yield document.with_text(str(error)).drop("files: it is gone")
            return
        metadata = {key: value for key, value in parsed.metadata.items() if key != "encoding"}
        yield document.with_text(parsed.text).with_metadata(**metadata)
