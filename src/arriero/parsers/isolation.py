"""Parsing in a process of its own, that can be killed: for files that make a C library hang, crash or eat memory.

One child serves many files; after it was killed or crashed, the next file starts another. Parent and child speak
JSON, a line for each file, so that a parser taken over by a file cannot hand the parent anything but text.

    with ParserProcess() as parser:
        document = parser.parse(path)
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from arriero.common.errors import ArrieroError, FormatError, MissingExtraError, NotFoundError
from arriero.parsers.document import Document, Section
from arriero.parsers.limits import ParseLimits
from arriero.parsers.parse import parse_file

_ERRORS: dict[str, type[ArrieroError]] = {
    error.__name__: error for error in (FormatError, MissingExtraError, NotFoundError)
}


class ParserProcess:
    """A child that parses; not for use by several threads at once."""

    grace_seconds = 10.0
    """What a child gets beyond `max_seconds`, to start and to notice the limit itself."""

    def __init__(self, limits: ParseLimits | None = None) -> None:
        self._limits = limits or ParseLimits()
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def parse(self, path: Path, *, name: str | None = None) -> Document:
        """As `arriero.parsers.parse.parse_file`, in the child.

        Raises:
            NotFoundError, FormatError, MissingExtraError: as `parse_file`; `FormatError` also when the child crashed or
                had to be killed for time.
        """
        name = name or path.name
        reply = self._ask({"path": os.fspath(path.absolute()), "name": name}, name)
        if "error" in reply:
            raise _ERRORS[reply["error"]](reply["message"])
        sections = tuple(Section(text, page, title) for text, page, title in reply["sections"])
        return Document(name, sections, reply["metadata"])

    def close(self) -> None:
        """End the child, if there is one; `parse` starts another."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        with contextlib.suppress(BrokenPipeError), child:  # closes the pipes (one may hold an unread request) and waits
            pass

    def _ask(self, request: dict[str, str], name: str) -> dict[str, Any]:
        child = self._start()
        assert child.stdin is not None
        assert child.stdout is not None
        timed_out = threading.Event()

        def stop() -> None:
            timed_out.set()
            child.kill()

        timer = threading.Timer(self._limits.max_seconds + self.grace_seconds, stop)
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # it died between two files: the empty reply says so
                child.stdin.write(json.dumps(request).encode() + b"\n")
                child.stdin.flush()
            line = child.stdout.readline()
        except BaseException:  # Ctrl-C: an answer still to come must not be taken for the next file's
            self.close()
            raise
        finally:
            timer.cancel()
        if line.endswith(b"\n"):
            reply: dict[str, Any] = json.loads(line)
            return reply
        code = child.wait()
        self.close()
        if timed_out.is_set():
            raise FormatError(f"{name}: takes longer than {self._limits.max_seconds:g} s to parse (limit max_seconds)")
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        raise FormatError(f"{name}: broken file: its parser crashed ({how})")

    def _start(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self.close()
            command = [sys.executable, "-m", "arriero.parsers.isolation", json.dumps(asdict(self._limits))]
            self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603
        return self._child


def serve(requests: BinaryIO, replies: BinaryIO, limits: ParseLimits) -> None:
    """The child's side: a reply for each request, until the requests end."""
    for line in requests:
        request = json.loads(line)
        try:
            document = parse_file(Path(request["path"]), name=request["name"], limits=limits)
            sections = [(section.text, section.page, section.title) for section in document.sections]
            reply = {"sections": sections, "metadata": document.metadata}
        except ArrieroError as error:
            reply = {"error": type(error).__name__, "message": str(error)}
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.flush()


def _limit_memory(limits: ParseLimits) -> None:
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limits.max_memory, limits.max_memory))


def _main() -> None:
    limits = ParseLimits(**json.loads(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    _limit_memory(limits)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints goes to the error stream
    serve(sys.stdin.buffer, replies, limits)


if __name__ == "__main__":
    _main()
