"""Downloads against a server on loopback that breaks off, ignores ranges, or fails; and a kill −9 in the middle."""

import hashlib
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
import types
from http import HTTPStatus

import pytest

from arriero.common import download as module
from arriero.common.download import download
from arriero.common.errors import ArrieroError, FormatError

CONTENT = bytes(range(256)) * 8192  # 2 MiB
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT, as badly as its switches say."""

    daemon_threads = True
    ranges = True
    breaks_after: int | None = None
    """Bytes after which each connection is cut."""
    failures = 0
    """Answers of 503 before the first good one."""
    pause = 0.0
    """Seconds between pieces of 64 KiB."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.starts: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.whl"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        if self.path != "/file.whl":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        if self.server.failures:
            self.server.failures -= 1
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        asked = self.headers.get("Range", "bytes=0-") if self.server.ranges else "bytes=0-"
        start = int(asked.removeprefix("bytes=").rstrip("-"))
        self.server.starts.append(start)
        if start >= len(CONTENT):
            self.send_error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            return
        self.send_response(HTTPStatus.PARTIAL_CONTENT if start else HTTPStatus.OK)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        end = len(CONTENT) if self.server.breaks_after is None else min(len(CONTENT), start + self.server.breaks_after)
        try:
            for offset in range(start, end, 1 << 16):
                self.wfile.write(CONTENT[offset : min(end, offset + (1 << 16))])
                time.sleep(self.server.pause)
        except ConnectionError:
            pass
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "time", types.SimpleNamespace(sleep=lambda seconds: None))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(server, target, digest=DIGEST):
    seen = []
    download(server.url, target, digest=digest, report=lambda here, total: seen.append((here, total)))
    return seen


def test_a_whole_file_comes_with_reports(server, tmp_path):
    seen = fetch(server, tmp_path / "a" / "file.part")
    assert (tmp_path / "a" / "file.part").read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_an_earlier_part_is_gone_on_with(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:700_001])
    fetch(server, tmp_path / "file.part")
    assert server.starts == [700_001]


def test_a_connection_that_breaks_off_is_taken_up_again(server, tmp_path):
    server.breaks_after = 600_000
    fetch(server, tmp_path / "file.part")
    assert server.starts == [0, 600_000, 1_200_000, 1_800_000]


def test_a_server_without_ranges_sends_everything_again(server, tmp_path):
    server.ranges = False
    (tmp_path / "file.part").write_bytes(b"x" * 5000)
    fetch(server, tmp_path / "file.part")
    assert (tmp_path / "file.part").read_bytes() == CONTENT


def test_a_complete_part_is_only_verified(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    fetch(server, tmp_path / "file.part")
    assert server.starts == [len(CONTENT)]


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.failures = 2
    fetch(server, tmp_path / "file.part")
    assert (tmp_path / "file.part").read_bytes() == CONTENT


@pytest.mark.parametrize("part", [b"", b"damaged" * 1000, CONTENT + b"more"], ids=["new", "damaged", "too long"])
def test_a_wrong_checksum_removes_the_part(server, tmp_path, part):
    (tmp_path / "file.part").write_bytes(part)
    with pytest.raises(FormatError, match="not the expected file: SHA-256 "):
        fetch(server, tmp_path / "file.part", digest=DIGEST if part else "0" * 64)
    assert not (tmp_path / "file.part").exists()


def test_a_dead_connection_keeps_the_part(server, tmp_path):
    server.breaks_after = 0
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    with pytest.raises(ArrieroError, match="what came is kept"):
        fetch(server, tmp_path / "file.part")
    assert (tmp_path / "file.part").stat().st_size == 1000


def test_an_absent_file_and_an_absent_server_are_one_line(server, tmp_path):
    with pytest.raises(ArrieroError, match=r"/other: HTTP 404 Not Found$"):
        download(server.url.replace("file.whl", "other"), tmp_path / "f", digest=DIGEST, report=lambda *_: None)
    with pytest.raises(ArrieroError, match="Connection refused"):
        download("http://127.0.0.1:9/f", tmp_path / "f", digest=DIGEST, report=lambda *_: None)
    with pytest.raises(ArrieroError) as error:
        download("http://user:secret@127.0.0.1:9/f?token=1", tmp_path / "f", digest=DIGEST, report=lambda *_: None)
    assert "secret" not in str(error.value)
    assert "token" not in str(error.value)
    with pytest.raises(ArrieroError, match="expected an http or https address"):
        download("ftp://127.0.0.1/f", tmp_path / "f", digest=DIGEST, report=lambda *_: None)


def test_a_kill_in_the_middle_loses_only_what_was_in_flight(server, tmp_path):
    server.pause = 0.02
    part = tmp_path / "file.part"
    code = "import sys; from pathlib import Path; from arriero.common.download import download; "
    code += "download(sys.argv[1], Path(sys.argv[2]), digest=sys.argv[3], report=lambda *_: None)"
    child = subprocess.Popen([sys.executable, "-c", code, server.url, str(part), DIGEST])
    deadline = time.monotonic() + 60
    while (not part.exists() or part.stat().st_size < 500_000) and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    kept = part.stat().st_size
    assert 500_000 <= kept < len(CONTENT)
    server.pause = 0.0
    fetch(server, part)
    assert server.starts == [0, kept]
    assert part.read_bytes() == CONTENT
