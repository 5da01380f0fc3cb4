"""From files to a trained tokenizer's folder, or to a report on tokenizers: reading, sampling, training, measuring."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from arriero.common.errors import ArrieroError
from arriero.common.files import atomic_file, atomic_folder
from arriero.tokenizer.bpe_options import BpeOptions
from arriero.tokenizer.measure import Measurement, measure
from arriero.tokenizer.sample import SampleOptions, SourceSample, draw
from arriero.tokenizer.tokenizer import Tokenizer
from arriero.tokenizer.train import train_bpe
from arriero.train.text_files import TextOptions, decode, find_files, read_blocks

REPORT_NAME = "tokenizer_report.json"
TRAINED = "trained"
"""What a report calls the tokenizer that was trained."""

Sources = Mapping[str, Sequence[Path]]
"""The files, folders and patterns of each named source."""
Bar = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""Shows progress under a title while the block runs, whose function is told the bytes done, and all bytes."""


@dataclass(frozen=True, kw_only=True)
class TokenizerReport:
    """What was trained on what, and how well it fits."""

    sources: list[dict[str, Any]]
    """Of each source: name, bytes read, bytes trained on, their share, bytes held out, what was measured on."""
    measurements: list[Measurement]

    def facts(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {"sources": self.sources, "measurements": [each.facts() for each in self.measurements]}


def train_to_folder(
    sources: Sources,
    folder: Path,
    options: BpeOptions,
    *,
    sample: SampleOptions | None = None,
    text: TextOptions | None = None,
    references: Mapping[str, Tokenizer] | None = None,
    bar: Bar | None = None,
    show_progress: bool = False,
) -> TokenizerReport:
    """Train a tokenizer and write `folder`, whole or not at all.

    Args:
        sources: what to read.
        folder: does not exist, or is empty. It gets the tokenizer's files and the report.
        options: what vocabulary to make.
        sample: how much of which source to train on.
        text: how documents are found in the files.
        references: other tokenizers to measure on the same text, by name.
        bar: shows how much is read.
        show_progress: draw bars of the training on the error stream.

    Raises:
        ArrieroError: the folder exists; no text; a vocabulary that the text does not allow.
        FormatError: a document cannot be read; the message names file and line.
        NotFoundError: a path does not exist.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArrieroError(f"{folder} exists already: choose another folder")
    sample, text = sample or SampleOptions(), text or TextOptions()
    drawn = _draw(sources, sample, text, bar)
    trained = train_bpe(_Texts(drawn), options, show_progress=show_progress)
    measurements = _measure(drawn, {TRAINED: trained.tokenizer()} | dict(references or {}))
    report = TokenizerReport(sources=_describe(drawn), measurements=measurements)
    with atomic_folder(folder) as aside:
        trained.save(aside)
        made_with = {"options": asdict(options), "sample": asdict(sample), "text": asdict(text)}
        with atomic_file(aside / REPORT_NAME) as file:
            file.write_text(json.dumps(made_with | report.facts(), indent=2, ensure_ascii=False) + "\n", "utf-8")
    return report


def measure_sources(
    sources: Sources,
    tokenizers: Mapping[str, Tokenizer],
    *,
    sample: SampleOptions | None = None,
    text: TextOptions | None = None,
    bar: Bar | None = None,
) -> list[Measurement]:
    """Measure every tokenizer on a sample of every source.

    Raises:
        ArrieroError, FormatError, NotFoundError: as `train_to_folder`.
    """
    return _measure(_draw(sources, sample or SampleOptions(), text or TextOptions(), bar), tokenizers, whole=True)


class _Texts:
    """The training texts of all sources, decoded when they are asked for."""

    def __init__(self, drawn: Sequence[SourceSample]) -> None:
        self._drawn = drawn

    def __len__(self) -> int:
        return sum(len(source.training) for source in self._drawn)

    def __iter__(self) -> Iterator[str]:
        for source in self._drawn:
            yield from source.texts()

    def __contains__(self, text: object) -> bool:
        return any(text == each for each in self)


def _draw(sources: Sources, sample: SampleOptions, text: TextOptions, bar: Bar | None) -> list[SourceSample]:
    sample.check(sources)
    files = {name: find_files(paths, text) for name, paths in sources.items()}
    total = sum(file.stat().st_size for some in files.values() for file in some)
    done = 0

    def read(some: Sequence[Path], tell: Callable[[int, int], None]) -> Iterator[str]:
        nonlocal done
        sizes = [0, *accumulate(file.stat().st_size for file in some)]
        for block in read_blocks(some, text):
            yield from (document for _, document in decode(block, text.field))
            tell(done + sizes[block.file] + block.read, total)
        done += sizes[-1]

    with (bar or _silent)("Reading") as tell:
        return draw({name: read(some, tell) for name, some in files.items()}, sample)


@contextmanager
def _silent(title: str) -> Iterator[Callable[[int, int], None]]:
    yield lambda done, total: None


def _measure(
    drawn: Sequence[SourceSample], tokenizers: Mapping[str, Tokenizer], *, whole: bool = False
) -> list[Measurement]:
    """On what is held out, where that is enough, unless the `whole` sample is wanted."""
    rows = []
    for source in drawn:
        units = (source.training + source.held_out if whole else []) or source.to_measure
        for name, tokenizer in tokenizers.items():
            rows.append(measure(tokenizer, (unit.decode() for unit in units), source=source.name, name=name))
    return rows


def _describe(drawn: Sequence[SourceSample]) -> list[dict[str, Any]]:
    total = sum(source.training_bytes for source in drawn)
    return [
        {
            "source": source.name,
            "bytes_read": source.bytes_read,
            "training_bytes": source.training_bytes,
            "training_share": source.training_bytes / total,
            "held_out_bytes": sum(map(len, source.held_out)),
            "measured_on": "held-out text" if source.held_out else "training text",
        }
        for source in drawn
    ]
