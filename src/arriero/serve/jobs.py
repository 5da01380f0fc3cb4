"""Uploads that are taken in, by one thread, whoever waits for them or has left.

Encoding takes all cores, so there is one thread for all collections, and no collection has two writers. Files of
several uploads are taken in together, up to a portion, since the index is written once for all of them. What a server
leaves undone, stopped or killed, the next one takes up (`intake.py`).
"""

import shutil
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from arriero.common.errors import BusyError, NotFoundError
from arriero.serve.intake import INCOMING, IncomingFile, StoppedError, read_manifest, take_in, write_manifest
from arriero.serve.ownership import Ownership
from arriero.serve.security import log_defect
from arriero.serve.service import ServedCollection
from arriero.serve.uploads import Upload

JobState = Literal["queued", "running", "done", "failed"]

_PORTION_FILES, _PORTION_BYTES = 16, 32 * 2**20
"""What is taken in together: a stop loses no more than this work."""
_REMEMBERED = 1000
"""Jobs that have ended and can still be asked for."""
_MOST_WAITING = 10_000
"""Files."""


@dataclass(kw_only=True)
class Job:
    """One upload."""

    id: str
    collection: ServedCollection
    folder: Path
    files: list[IncomingFile]
    begun: bool = False
    cancelled: bool = False

    @property
    def waiting(self) -> list[IncomingFile]:
        """The files that are still to be taken in."""
        return [file for file in self.files if file.state == "waiting"]

    @property
    def state(self) -> JobState:
        """How it stands; failed: no file of it was taken in."""
        if self.waiting:
            return "running" if self.begun else "queued"
        return "failed" if all(file.state == "failed" for file in self.files) else "done"

    @property
    def share(self) -> float:
        """Of the work that is done, by the files' sizes."""
        total = sum(file.size for file in self.files)
        return sum(file.size * file.share for file in self.files) / total if total else float(not self.waiting)


class Jobs:
    """The uploads of a server, and the thread that works on them."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._queue: deque[Job] = deque()
        self._ownership = Ownership()
        self._changed = threading.Condition()  # guards all of it
        self._at_work: ServedCollection | None = None
        self._stopping = False
        self._thread: threading.Thread | None = None  # it begins with the first upload

    @contextmanager
    def receiving(self, collection: ServedCollection) -> Iterator[Path]:
        """A new folder to receive an upload in; it goes with an error."""
        with self._changed:
            folder = collection.folder / INCOMING / self._ownership.name_upload(collection.folder)
        folder.mkdir(parents=True)
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def submit(self, collection: ServedCollection, folder: Path, uploads: Sequence[Upload]) -> Job:
        """Queue an upload; from now on it will be taken in, by this server or the next.

        Raises:
            BusyError: too many files wait already.
        """
        with self._changed:
            waiting = sum(len(job.waiting) for job in self._queue)
        if waiting + len(uploads) > _MOST_WAITING:
            raise BusyError(f"{waiting:,} files are waiting to be taken in already: try again when some are done")
        files = [IncomingFile(name=upload.name, path=upload.path, size=upload.size) for upload in uploads]
        write_manifest(folder, files)
        return self._enqueue(Job(id=folder.name, collection=collection, folder=folder, files=files))

    def resume(self, collection: ServedCollection) -> None:
        """Queue what an earlier server left undone; what it had not received whole is removed.

        What belongs to another server that runs is left to it.
        """
        root = collection.folder / INCOMING
        self._ownership.take_over(collection.folder)
        oldest_first = sorted(root.iterdir(), key=lambda path: path.stat().st_mtime) if root.is_dir() else []
        for folder in oldest_first:
            if not self._ownership.owns(collection.folder, folder.name):
                continue
            if files := read_manifest(folder):
                self._enqueue(Job(id=folder.name, collection=collection, folder=folder, files=files))
            else:
                shutil.rmtree(folder, ignore_errors=True)

    def get(self, number: str) -> Job:
        """A job by its id.

        Raises:
            NotFoundError: there is none, or it ended long ago.
        """
        with self._changed:
            job = self._jobs.get(number)
        if job is None:
            raise NotFoundError("there is no such job: it may have ended long ago")
        return job

    def cancel(self, collection: ServedCollection, wait_s: float) -> None:
        """Give up what is queued for a collection that is to be deleted.

        Raises:
            BusyError: what is at hand took longer than that.
        """
        with self._changed:
            own = [job for job in self._jobs.values() if job.collection is collection]
            for job in own:
                job.cancelled = True
            if not self._changed.wait_for(lambda: self._at_work is not collection, wait_s):
                raise BusyError("files are being taken in: try again in a moment")
            for job in own:
                for file in job.waiting:
                    file.end("failed", "the collection was deleted")

    def close(self, wait_s: float) -> None:
        """Stop between two steps of the work, waiting up to that long for it; the next server does the rest."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(wait_s)
        with self._changed:
            self._ownership.close({job.id for job in self._jobs.values() if job.folder.exists()})

    def _enqueue(self, job: Job) -> Job:
        with self._changed:
            ended = [known for known, each in self._jobs.items() if not each.waiting]
            for known in ended[: max(0, len(ended) + 1 - _REMEMBERED)]:
                del self._jobs[known]
            self._jobs[job.id] = job
            self._queue.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="arriero-jobs", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return job

    def _work(self) -> None:
        while portion := self._next():
            jobs = {job.id: job for job, _ in portion}.values()

            def check(jobs: Sequence[Job] = tuple(jobs)) -> None:
                if self._stopping or any(job.cancelled for job in jobs):
                    raise StoppedError

            try:
                take_in(portion[0][0].collection, [file for _, file in portion], check)
            except StoppedError:
                continue
            except Exception as error:  # the thread must outlive a defect
                log_defect("taking in files", error)
                for _, file in portion:
                    file.end("failed", "a defect of the server: its log tells where")
            for job in jobs:
                with suppress(OSError):  # a full disk, say: what is done is done again then, and is unchanged
                    write_manifest(job.folder, job.files)

    def _next(self) -> list[tuple[Job, IncomingFile]]:
        """The next files of one collection; waits for them, and gives none at the end."""
        with self._changed:
            self._at_work = None
            self._changed.notify_all()
            while not self._stopping:
                self._queue = deque(job for job in self._queue if job.waiting and not job.cancelled)
                if self._queue:
                    portion = _portion(self._queue)
                    self._at_work = portion[0][0].collection
                    return portion
                self._changed.wait()
            return []


def _portion(queue: Sequence[Job]) -> list[tuple[Job, IncomingFile]]:
    """The first files in the queue of one collection, no two of one name."""
    portion: list[tuple[Job, IncomingFile]] = []
    names, size = set[str](), 0
    for job in queue:
        for file in job.waiting if job.collection is queue[0].collection else ():
            size += file.size
            full = len(portion) == _PORTION_FILES or size > _PORTION_BYTES or file.name.casefold() in names
            if portion and full:
                return portion
            names.add(file.name.casefold())
            portion.append((job, file))
            job.begun = True
    return portion
