"""Documents to token shards: in parallel, resumable after a kill at any moment, the same bytes however it went.

What a shard holds follows from the documents and the options alone: a shard ends before the document that would take it
past its size. After each one `progress.json` notes it, and the position (file, document) of the next document; a run
that finds the note goes on there, for training and validation shards each at its own position. The manifest comes last.
"""

import fcntl
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arriero.common.errors import ArrieroError, FormatError, NotFoundError
from arriero.common.files import atomic_file, sha256
from arriero.tokenizer.tokenizer import Tokenizer
from arriero.train.encode import Encoded, EncodeOptions, Task, encode_blocks
from arriero.train.shard_writer import ShardWriter, writing
from arriero.train.shards import MANIFEST_NAME, PROGRESS_NAME, Manifest, Shard, check_sums, id_type
from arriero.train.text_files import TextOptions, find_files, read_blocks

VALIDATION = "validation"
"""The folder, in that of the training shards, of the documents that are held out."""

Position = tuple[int, int]
"""Number of a file, and of a document in it."""
Tell = Callable[[int, int], None]
"""Called with the bytes of input that are done, and all bytes."""


@dataclass(frozen=True, kw_only=True)
class ShardOptions:
    """What is made of documents. Two runs into one folder must agree in all of it."""

    source: str
    """Name of the source in mixtures and reports."""
    bos: bool | None = None
    """Begin each document with BOS; None: if the tokenizer does so by itself, as the model will see it later."""
    eos: bool | None = None
    """End each document with EOS; None: if the vocabulary has one."""
    shard_tokens: int = 100_000_000
    """Most tokens of a shard; a longer document is a shard of its own."""
    validation_share: float = 0.0
    """Share of the documents that is held out into the folder `validation`, chosen by a hash of their text."""

    def __post_init__(self) -> None:
        if self.shard_tokens < 1:
            raise ArrieroError(f"expected at least 1 token a shard, got {self.shard_tokens}")
        if not 0 <= self.validation_share < 1:
            raise ArrieroError(f"expected a validation share of at least 0 and below 1, got {self.validation_share}")
        if not self.source:
            raise ArrieroError("expected a name for the source, got none")


@dataclass(frozen=True, kw_only=True)
class Tokenized:
    """What a run made."""

    folder: Path
    training: Manifest
    validation: Manifest | None
    kept: int
    """Shards that an earlier run had finished."""
    seconds: float
    """Of this run."""


def tokenize_files(
    paths: Sequence[Path],
    tokenizer: Tokenizer,
    folder: Path,
    options: ShardOptions,
    *,
    text: TextOptions | None = None,
    workers: int = 1,
    verify: bool = False,
    tell: Tell | None = None,
) -> Tokenized:
    """Make `folder` the token shards of the documents in `paths`, or finish what an earlier call began.

    Args:
        paths: files, folders and patterns; what is in `folder` is passed over.
        tokenizer: a copy of it is put into the folder.
        folder: new, empty, or the same call's.
        options: what is made of the documents.
        text: how documents are found in the files.
        workers: processes that tokenize.
        verify: check the finished shards of an earlier call against their checksums first.
        tell: is told of progress.

    Raises:
        ArrieroError: other documents, options or tokenizer than the earlier call's; no document; a full disk.
        FormatError: a document cannot be read; the message names file and line.
        NotFoundError: a path does not exist.
    """
    if workers < 1:
        raise ArrieroError(f"expected at least 1 worker, got {workers}")
    began, text = time.monotonic(), text or TextOptions()
    files = [file for file in find_files(paths, text) if not file.resolve().is_relative_to(folder.resolve())]
    if not files:
        raise NotFoundError(f"nothing to read: all documents given lie in {folder}, where the shards go")
    options = replace(
        options,
        bos=tokenizer.add_bos if options.bos is None else options.bos,
        eos=tokenizer.eos_id is not None if options.eos is None else options.eos,
    )
    tokenizer.encode("", bos=options.bos, eos=options.eos)  # raises where the vocabulary lacks the wanted token
    with _hold(folder):
        run = _Run(folder, files, tokenizer, options, text)
        kept = len(run.training.shards) + len(run.validation.shards)
        if verify:
            run.verify()
        if not run.finished:
            run.write(workers, tell or (lambda done, total: None))
        training, validation = run.manifests()
    seconds = time.monotonic() - began
    return Tokenized(folder=folder, training=training, validation=validation, kept=kept, seconds=seconds)


class _Split:
    """The shards of one folder, training's or validation's, and where the next one begins."""

    def __init__(self, folder: Path, options: ShardOptions, dtype: type[np.uint16] | type[np.uint32]) -> None:
        self.folder = folder
        self.shards: list[Shard] = []
        self.next: Position = (0, 0)
        self._options, self._dtype = options, dtype
        self._writer: ShardWriter | None = None

    def read_note(self, note: dict[str, Any]) -> None:
        self.shards, self.next = [Shard(**shard) for shard in note["shards"]], (note["next"][0], note["next"][1])

    def note(self) -> dict[str, Any]:
        return {"shards": [asdict(shard) for shard in self.shards], "next": self.next}

    def add(self, position: Position, ids: NDArray[Any], size: int) -> bool:
        """Append a document, or count an empty one; True if a shard ended before it."""
        writer = self._writer
        ended = writer is not None and writer.documents > 0 and writer.tokens + len(ids) > self._options.shard_tokens
        if ended:
            self.finish(position)
        self._writer = writer = self._writer or ShardWriter(self.folder, len(self.shards), self._dtype)
        if size:
            writer.add(ids, size)
        else:
            writer.skip(1)
        return ended

    def finish(self, position: Position) -> None:
        """Close the shard at hand, if it holds a document; what comes next begins at `position`."""
        writer, self._writer = self._writer, None
        if writer is not None and writer.documents:
            self.shards.append(writer.finish())
        elif writer is not None:
            writer.discard()
        self.next = position

    def discard(self) -> None:
        """Remove the shard at hand."""
        if self._writer is not None:
            self._writer.discard()
            self._writer = None


class _Run:
    """One folder of shards in the making."""

    def __init__(
        self, folder: Path, files: Sequence[Path], tokenizer: Tokenizer, options: ShardOptions, text: TextOptions
    ) -> None:
        self._folder, self._files, self._options, self._text = folder, files, options, text
        self._tokenizer, dtype = tokenizer, id_type(tokenizer.vocab_size)
        self.training = _Split(folder, options, dtype)
        self.validation = _Split(folder / VALIDATION, options, dtype)
        if not options.validation_share:
            self.validation.next = (len(files), 0)
        with tempfile.TemporaryDirectory() as copy:
            tokenizer.save(Path(copy))
            self._tokenizer_sha256 = sha256(Path(copy) / "tokenizer.json")
        self._plan: dict[str, Any] = asdict(options) | asdict(text) | {"tokenizer": self._tokenizer_sha256}
        self._plan["files"] = [[str(file), file.stat().st_size] for file in files]
        self.finished = (folder / MANIFEST_NAME).is_file()
        if self.finished:
            self._read_finished()
        elif (folder / PROGRESS_NAME).is_file():
            self._read_progress()
        elif any(not name.name.endswith(".part") for name in folder.iterdir()):
            raise ArrieroError(f"{folder} is not empty, and holds no token shards: choose another --out")

    def write(self, workers: int, tell: Tell) -> None:
        """Tokenize from where the finished shards end, and write the manifest."""
        self._begin()
        splits = (self.training, self.validation)
        start = min(split.next for split in splits)
        options, text = self._options, self._text
        assert options.bos is not None
        assert options.eos is not None
        encode = EncodeOptions(
            field=text.field, bos=options.bos, eos=options.eos, validation_share=options.validation_share
        )
        before = [0, *itertools.accumulate(size for _, size in self._plan["files"])]
        try:
            with closing(encode_blocks(self._tasks(start), self._folder, encode, workers)) as blocks:
                for done in blocks:
                    self._take(done)
                    tell(before[done.file] + done.read, before[-1])
            for split in splits:
                split.finish((len(self._files), 0))
        except BaseException:
            for split in splits:
                split.discard()
            raise
        self._end()

    def verify(self) -> None:
        """Raises FormatError when a finished shard is corrupt."""
        for split in (self.training, self.validation):
            for shard in split.shards:
                check_sums(split.folder, shard)

    def manifests(self) -> tuple[Manifest, Manifest | None]:
        """What is in the folder now."""
        validation = self._folder / VALIDATION
        return Manifest.read(self._folder), Manifest.read(validation) if (
            validation / MANIFEST_NAME
        ).is_file() else None

    def _tasks(self, start: Position) -> Iterator[Task]:
        for block in read_blocks(self._files, self._text, start):
            starts = (_wanted(block.file, block.first, split.next) for split in (self.training, self.validation))
            yield Task(block, *starts)

    def _take(self, done: Encoded) -> None:
        begin = 0
        for number, size, length, held_out in zip(done.numbers, done.sizes, done.lengths, done.held_out, strict=True):
            split = self.validation if held_out else self.training
            if split.add((done.file, number), done.ids[begin : begin + length], size):
                self._note_progress()
            begin += length

    def _begin(self) -> None:
        """The tokenizer's copy and the plan; what a killed run left half written goes."""
        for folder in (self._folder, self._folder / VALIDATION):
            for half in folder.glob(".*.part"):
                half.unlink()
        self._note_progress()
        with writing(self._folder):
            self._tokenizer.save(self._folder)

    def _note_progress(self) -> None:
        note = {"plan": self._plan, "training": self.training.note(), "validation": self.validation.note()}
        _write_json(self._folder / PROGRESS_NAME, json.dumps(note, ensure_ascii=False))

    def _end(self) -> None:
        """The manifests, validation's first: training's says that all is finished."""
        if not self.training.shards:
            raise self._empty()
        self._note_progress()
        for split, name in ((self.validation, VALIDATION), (self.training, "")):
            if not split.shards:
                continue
            if name:
                with writing(self._folder):
                    self._tokenizer.save(split.folder)
            manifest = Manifest(
                source=self._options.source,
                dtype=np.dtype(id_type(self._tokenizer.vocab_size)).name,
                vocab_size=self._tokenizer.vocab_size,
                bos_id=self._tokenizer.bos_id if self._options.bos else None,
                eos_id=self._tokenizer.eos_id if self._options.eos else None,
                tokenizer_sha256=self._tokenizer_sha256,
                shards=tuple(split.shards),
                options=self._plan,
            )
            _write_json(split.folder / MANIFEST_NAME, manifest.to_json())
        (self._folder / PROGRESS_NAME).unlink()

    def _empty(self) -> ArrieroError:
        """The error of a source without training documents; nothing of it is kept."""
        why = "every document fell into the validation share" if self.validation.shards else "every document is empty"
        shutil.rmtree(self.validation.folder, ignore_errors=True)
        self.validation.shards, self.training.next, self.validation.next = [], (0, 0), (0, 0)
        self._note_progress()
        shown = ", ".join(map(str, self._files[:3])) + (", …" if len(self._files) > 3 else "")
        return ArrieroError(f"source '{self._options.source}' is empty: {why} in {shown}")

    def _read_finished(self) -> None:
        training, validation = self.manifests()
        self._check_plan(training.options)
        self.training.shards = list(training.shards)
        self.validation.shards = list(validation.shards) if validation else []
        (self._folder / PROGRESS_NAME).unlink(missing_ok=True)  # a kill just before the end leaves it

    def _read_progress(self) -> None:
        file = self._folder / PROGRESS_NAME
        try:
            note = json.loads(file.read_bytes())
            self.training.read_note(note["training"])
            self.validation.read_note(note["validation"])
            plan = dict(note["plan"])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise FormatError(f"{file} is damaged: remove {self._folder} and tokenize again") from error
        if self.training.shards or self.validation.shards:  # before that there is nothing to keep
            self._check_plan(plan)

    def _check_plan(self, plan: dict[str, Any]) -> None:
        """The folder was begun with the same documents, options and tokenizer."""
        changed = [key for key, value in self._plan.items() if plan.get(key) != value]
        differ = [_difference(key, plan.get(key), self._plan[key]) for key in changed]
        if differ:
            raise ArrieroError(
                f"{self._folder} was made with other settings: {'; '.join(differ)}. "
                "Give the same again, or another --out"
            )


def _difference(key: str, before: Any, now: Any) -> str:
    if key == "tokenizer":
        return f"tokenizer: {str(before)[:12]}… there, {now[:12]}… now (SHA-256)"
    if key != "files":
        return f"{key}: {before!r} there, {now!r} now"
    old, new = dict(before or []), dict(now)
    changed = [f"{name} {_size(old.get(name))} there, {_size(new.get(name))} now"
               for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]  # fmt: skip
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return f"files: {', '.join(changed[:3]) or 'another order'}{more}"


def _size(size: int | None) -> str:
    return "absent" if size is None else f"{size:,} bytes"


def _wanted(file: int, first: int, start: Position) -> int:
    """Index in a block of the first document at `start` or after it."""
    if file != start[0]:
        return 0 if file > start[0] else 1 << 62
    return max(0, start[1] - first)


def _write_json(file: Path, content: str) -> None:
    with writing(file.parent), atomic_file(file) as aside:
        aside.write_bytes(content.encode())


@contextmanager
def _hold(folder: Path) -> Iterator[None]:
    """Keep a second run out of the folder; the lock ends with the process, however it ends."""
    if folder.exists() and not folder.is_dir():
        raise ArrieroError(f"{folder} is a file: expected a folder, new or empty, for the shards")
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ArrieroError(f"another process tokenizes into {folder} at this moment") from error
        yield
    finally:
        os.close(handle)
        if made and not any(folder.iterdir()):
            folder.rmdir()
