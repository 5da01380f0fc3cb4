"""Files are whole or absent, whatever happens while they are written."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from arriero.common.files import atomic_file, atomic_folder, cache_folder, sha256

WRITER = """
import sys, time
from pathlib import Path
from arriero.common.files import atomic_file
with atomic_file(Path(sys.argv[1])) as aside:
    aside.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_atomic_file_appears_whole(tmp_path):
    target = tmp_path / "new" / "out.txt"
    with atomic_file(target) as aside:
        aside.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


def test_atomic_file_keeps_the_old_one_on_an_error(tmp_path):
    target = tmp_path / "out.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(target) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_file_has_the_permissions_that_open_would_give(tmp_path):
    (tmp_path / "plain").touch()
    with atomic_file(tmp_path / "atomic") as aside:
        aside.touch()
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_atomic_file_survives_kill_9(tmp_path):
    target = tmp_path / "out.txt"
    target.write_text("old")
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    assert target.read_text() == "old"


def test_atomic_folder_appears_whole(tmp_path):
    target = tmp_path / "model"
    with atomic_folder(target) as aside:
        (aside / "sub").mkdir()
        (aside / "sub" / "weights").write_bytes(b"123")
    assert (target / "sub" / "weights").read_bytes() == b"123"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_folder_leaves_nothing_on_an_error(tmp_path):
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "model") as aside:
        (aside / "weights").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_atomic_folder_never_overwrites(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "precious").touch()
    with pytest.raises(FileExistsError), atomic_folder(tmp_path / "model"):
        pass
    assert (tmp_path / "model" / "precious").exists()


def test_sha256_of_known_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc").startswith("ba7816bf8f01cfea")


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("ARRIERO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "arriero"
    monkeypatch.setenv("ARRIERO_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("ARRIERO_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "arriero"
