"""A recipe as stages of independent tasks, each of which can be killed at any time and done again.

    read     for each group of inputs: their documents, through the steps up to the first corpus-wide one
    resolve  one task: what the corpus-wide step removes, from what the pieces collected for it
    refine   for each piece: on through the steps, up to the next corpus-wide one
    …        (resolve and refine again for each further one)
    finish   one task: the account of the whole; what lay between the stages is removed

A kill loses one piece's work, and neither the number of workers nor the engine can change a byte. A worker holds one
piece: at most 16 MiB of raw text and one document more (64 MiB), up to four bytes a character, beside its models.
"""

import errno
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from arriero.common.errors import ArrieroError, MissingExtraError
from arriero.common.files import atomic_file
from arriero.corpus.dedup import CorpusStep
from arriero.corpus.document import Document, Step
from arriero.corpus.inputs import Input, group
from arriero.corpus.ledger import Ledger, total
from arriero.corpus.pieces import BETWEEN, Piece, Raw, cut
from arriero.corpus.rows import RowFormat

Reader = Callable[[Path, str], Iterator[Document]]
"""Takes a file and the name that ids begin with; gives raw documents."""


@dataclass(frozen=True)
class Recipe:
    """How raw files of one kind become documents."""

    kind: str
    read: Reader
    steps: Sequence[Step | CorpusStep]

    @property
    def names(self) -> list[str]:
        """What a document has passed that is kept."""
        return [step.name for step in self.steps]

    def phases(self) -> list[tuple[list[Step], CorpusStep | None]]:
        """Steps that look at one document, up to each step that looks at the corpus, and up to the end."""
        found: list[tuple[list[Step], CorpusStep | None]] = [([], None)]
        for step in self.steps:
            if isinstance(step, CorpusStep):
                found[-1] = (found[-1][0], step)
                found.append(([], None))
            else:
                found[-1][0].append(step)
        return found


class Stage(Protocol):
    """Independent tasks."""

    @property
    def name(self) -> str:
        """What the bar and the logs call it."""
        ...

    @property
    def tasks(self) -> int:
        """How many there are, known before anything runs."""
        ...

    @property
    def complete(self) -> bool:
        """Whether all of them are done."""
        ...

    def run(self, task: int) -> None:
        """Do one; what of it is done already is left as it is."""
        ...

    def progress(self) -> tuple[int, int]:
        """How much is done, and of how much: bytes of the inputs, or pieces."""
        ...


@dataclass(frozen=True)
class Work:
    """One source's run: what all stages need."""

    source: str
    recipe: Callable[[], Recipe]
    """Makes the recipe, in each worker for itself."""
    inputs: tuple[Input, ...]
    out: Path
    """The folder of the source's documents."""
    folder: Path
    """The folder of what lies between the stages, and of the accounts."""
    format: RowFormat
    group_bytes: int = 1 << 26
    """Small inputs are read by one task, up to so many bytes together."""

    @cached_property
    def groups(self) -> list[list[Input]]:
        """The inputs by task."""
        return group(self.inputs, self.group_bytes)

    @property
    def account(self) -> Path:
        """The account of the whole, written when all is done."""
        return self.folder / "ledger.json"

    def stages(self, lanes: int) -> list[Stage]:
        """All stages in order; pieces are dealt out to `lanes` tasks, which changes nothing but the pace."""
        made: list[Stage] = [Read(self)]
        for phase in range(1, len(self.recipe().phases())):
            made += [Resolve(self, phase - 1), Refine(self, phase, lanes)]
        return [*made, Finish(self)]

    def phase(self, number: int) -> Path:
        """The folder of a phase's pieces."""
        return self.folder / f"phase-{number}"

    def verdict(self, phase: int) -> Path:
        """What the corpus-wide step at the end of a phase decided."""
        return self.phase(phase) / "verdict"

    def write(self, recipe: Recipe, phase: int, name: str, raw: Sequence[Raw], remove: Sequence[Step] = ()) -> None:
        """Take one piece through a phase, unless that is done.

        Args:
            remove: what the corpus-wide step before this phase makes of its verdict.
        """
        piece = Piece(self.phase(phase), name)
        if piece.account.exists():
            return
        steps, corpus_step = recipe.phases()[phase]
        todo, first = [*remove, *steps], phase == 0
        if corpus_step:
            piece.write(raw, todo, corpus_step.collector(), self.source, first=first)
        else:
            piece.write_last(raw, todo, recipe.names, self.out, self.source, self.format, first=first)


@dataclass(frozen=True)
class Read:
    """The first stage: a task for each large input, or group of small ones."""

    work: Work

    @property
    def name(self) -> str:
        return "read"

    @property
    def tasks(self) -> int:
        return len(self.work.groups)

    @property
    def complete(self) -> bool:
        return all(self._done(task).exists() for task in range(self.tasks))

    def run(self, task: int) -> None:
        done = self._done(task)
        if done.exists():
            return
        recipe = self.work.recipe()
        reading = _Reading(recipe, self.work.groups[task])
        for number, raw in enumerate(cut(reading)):
            name = f"{task:05d}-{number:05d}"
            self.work.write(recipe, 0, name, raw)
            _note(Piece(self.work.phase(0), name).position, reading.bytes)
        _note(done, reading.bytes)

    def progress(self) -> tuple[int, int]:
        folder, total_bytes = self.work.phase(0), sum(entry.bytes for entry in self.work.inputs)
        whole = {path.stem: int(path.read_text()) for path in folder.glob("*.done")}
        parts: dict[str, int] = {}
        for path in folder.glob("*.position"):
            number = path.name.partition("-")[0]
            parts[number] = max(parts.get(number, 0), int(path.read_text()))
        return sum((parts | whole).values()), total_bytes

    def _done(self, task: int) -> Path:
        return self.work.phase(0) / f"{task:05d}.done"


@dataclass(frozen=True)
class Resolve:
    """One task: a corpus-wide step looks at what the pieces of a phase collected for it."""

    work: Work
    phase: int
    tasks: int = 1

    @property
    def name(self) -> str:
        return f"resolve-{self.phase}"

    @property
    def complete(self) -> bool:
        return self.work.verdict(self.phase).exists()

    def run(self, task: int) -> None:
        verdict = self.work.verdict(self.phase)
        if verdict.exists():
            return
        step = self.work.recipe().phases()[self.phase][1]
        assert step is not None
        with atomic_file(verdict) as aside:
            step.resolve(sorted(self.work.phase(self.phase).glob("*.keys")), aside)

    def progress(self) -> tuple[int, int]:
        return int(self.complete), 1


@dataclass(frozen=True)
class Refine:
    """A later stage: its tasks take turns at the pieces of the phase before."""

    work: Work
    phase: int
    tasks: int

    @property
    def name(self) -> str:
        return f"refine-{self.phase}"

    @property
    def complete(self) -> bool:
        done, of = self.progress()
        return done == of

    def run(self, task: int) -> None:
        recipe, before = self.work.recipe(), self.work.phase(self.phase - 1)
        step = recipe.phases()[self.phase - 1][1]
        assert step is not None
        remove = step.step(self.work.verdict(self.phase - 1))
        for path in sorted(before.glob(f"*.{BETWEEN}"))[task :: self.tasks]:
            name = path.name.removesuffix(f".{BETWEEN}")
            self.work.write(recipe, self.phase, name, Piece(before, name).read(), [remove])

    def progress(self) -> tuple[int, int]:
        now, before = self.work.phase(self.phase), self.work.phase(self.phase - 1)
        return len(list(now.glob("*.ledger.json"))), len(list(before.glob("*.ledger.json")))


@dataclass(frozen=True)
class Finish:
    """The last stage: one account, and nothing left between the stages."""

    work: Work
    name: str = "finish"
    tasks: int = 1

    @property
    def complete(self) -> bool:
        return self.work.account.exists()

    def run(self, task: int) -> None:
        folders = sorted(self.work.folder.glob("phase-*"))
        if not self.work.account.exists():
            accounts = [path for folder in folders for path in sorted(folder.glob("*.ledger.json"))]
            total(map(Ledger.load, accounts)).save(self.work.account)
        for folder in folders:
            shutil.rmtree(folder)

    def progress(self) -> tuple[int, int]:
        return int(self.complete), 1


def _note(path: Path, number: int) -> None:
    with atomic_file(path) as aside:
        aside.write_text(f"{number}\n")


class _Reading:
    """The documents of some inputs. What cannot be read at all is a document that says so, and the others go on."""

    def __init__(self, recipe: Recipe, inputs: Sequence[Input]) -> None:
        self._recipe, self._inputs = recipe, inputs
        self._whole, self._now = 0, None if not inputs else inputs[0].path

    @property
    def bytes(self) -> int:
        """How far it is."""
        return self._whole + (position(self._now) or 0 if self._now else 0)

    def __iter__(self) -> Iterator[Document]:
        for entry in self._inputs:
            self._now = entry.path
            try:
                yield from self._recipe.read(entry.path, entry.name)
            except MissingExtraError:
                raise
            except (ArrieroError, OSError) as error:
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # of a reader's temporary file
                    raise
                refused = Document(id=f"{entry.name}#", text=str(error), origin=str(entry.path))
                yield refused.drop(f"{self._recipe.kind}: the file cannot be read")
            self._whole += entry.bytes
        self._now = None


def position(path: Path) -> int | None:
    """How far this process has read an open file, in bytes; None where the system does not tell (Linux does)."""
    for link in Path("/proc/self/fd").glob("*"):
        try:
            if link.readlink() == path.resolve():
                lines = (Path("/proc/self/fdinfo") / link.name).read_text().splitlines()
                return int(next(line.split()[1] for line in lines if line.startswith("pos:")))
        except OSError:  # closed meanwhile
            continue
    return None
