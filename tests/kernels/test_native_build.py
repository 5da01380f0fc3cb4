"""Where compiled kernels are kept when the cache may hold no code."""

import os
import tempfile
from pathlib import Path

import pytest

from arriero.common.errors import ArrieroError
from arriero.kernels.native import build


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in place of a cache that is mounted noexec."""
    monkeypatch.setenv("ARRIERO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(build, "_forbids_execution", lambda folder: "cache" in folder.parts)
    return tmp_path / f"arriero-native-{os.getuid()}"


def test_a_cache_that_may_hold_code_is_where_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("ARRIERO_CACHE", str(tmp_path / "not" / "there"))
    assert build._folder() == tmp_path / "not" / "there" / "native"
    assert build.kept_elsewhere() is None


def test_where_the_cache_is_mounted_noexec_a_private_folder_serves_and_that_is_told(private):
    assert build._folder() == private
    assert private.stat().st_mode & 0o777 == 0o700
    assert build._folder() == private
    assert "cache/native is mounted noexec" in str(build.kept_elsewhere())
    assert str(private) in str(build.kept_elsewhere())


@pytest.mark.parametrize("kind", ["open to others", "link", "file"])
def test_a_folder_that_others_may_have_made_is_not_trusted(private, tmp_path, kind):
    if kind == "open to others":
        private.mkdir()
        private.chmod(0o755)
    elif kind == "link":
        private.symlink_to(tmp_path, target_is_directory=True)
    else:
        private.touch()
    with pytest.raises((ArrieroError, FileExistsError)):
        build._folder()
    assert build.kept_elsewhere() is None
    assert not build.will_compile()


def test_where_no_folder_may_hold_code_the_way_out_is_told(private, monkeypatch):
    monkeypatch.setattr(build, "_forbids_execution", lambda folder: True)
    with pytest.raises(ArrieroError, match="are mounted noexec: set ARRIERO_CACHE"):
        build._folder()


@pytest.mark.skipif(not hasattr(os, "ST_NOEXEC"), reason="this system does not tell")
def test_a_mount_says_whether_it_forbids_execution(tmp_path, monkeypatch):
    real = os.statvfs(tmp_path)
    for flag in (0, os.ST_NOEXEC):
        told = os.statvfs_result((*real[:8], flag, real[9]))
        monkeypatch.setattr(os, "statvfs", lambda path, told=told: told)
        assert build._forbids_execution(tmp_path / "later") == bool(flag)
