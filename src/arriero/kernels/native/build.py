"""The C++ beside this file, compiled for this CPU on first use and kept in the cache.

Nothing is compiled on installation, and nothing needs it: without a compiler PyTorch's own operations serve. The
library is found by a hash of sources, compiler, options and CPU, so that a home directory may be shared by machines.
Where the cache is mounted noexec, it is kept in a folder of this user's alone below the temporary one.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from arriero.common.errors import ArrieroError
from arriero.common.files import atomic_file, cache_folder, sha256

SWITCH = "ARRIERO_NATIVE"
"""Environment variable; 0 switches the compiled kernels off."""
_SOURCES = ("vectors.h", "pool.h", "packed.h", "attention.h", "llama.cpp")
_OPTIONS = ("-O3", "-std=c++20", "-fPIC", "-shared", "-pthread", "-fno-math-errno", "-ffp-contract=fast")
_SECONDS = 120


def why_not_native() -> str | None:
    """Why there are no compiled kernels here; None where there are. Compiles them at the first call, in seconds."""
    return _load()[1]


def native_library() -> ctypes.CDLL:
    """The compiled kernels.

    Raises:
        ArrieroError: there are none, with the reason.
    """
    library, reason = _load()
    if library is None:
        raise ArrieroError(f"there are no compiled kernels here: {reason}")
    return library


def will_compile() -> bool:
    """Whether the first use will take the seconds of compiling."""
    compiler = None if os.environ.get(SWITCH) == "0" else _compiler()
    try:
        return compiler is not None and not _is_whole(_target(compiler))
    except (OSError, subprocess.SubprocessError, ArrieroError):  # `why_not_native` tells it
        return False


def kept_elsewhere() -> str | None:
    """Why they are not kept in the cache and where they are instead; None where they are in it, or nowhere."""
    wanted = cache_folder() / "native"
    try:
        folder = _folder()
    except (OSError, ArrieroError):  # `why_not_native` tells it
        return None
    if folder == wanted:
        return None
    return f"{wanted} is mounted noexec, so they are kept in {folder}: ARRIERO_CACHE=FOLDER moves the cache"


@cache
def _load() -> tuple[ctypes.CDLL | None, str | None]:
    if os.environ.get(SWITCH) == "0":
        return None, f"{SWITCH}=0 switches them off"
    compiler = _compiler()
    if compiler is None:
        return None, "no C++ compiler was found: install g++ or clang++ for faster decoding"
    try:
        target = _target(compiler)
        if not _is_whole(target):
            _compile(compiler, target)
        _check_owner(target)
        return ctypes.CDLL(str(target)), None
    except (OSError, subprocess.SubprocessError, ArrieroError) as error:
        return None, f"{compiler} could not build them: {_first_line(error)}"


def _compiler() -> str | None:
    return next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)


def _target(compiler: str) -> Path:
    return _folder() / f"arriero-{_key(compiler)}.so"


def _folder() -> Path:
    """Where the library is kept: in the cache, or where its mount forbids that, in a private temporary folder.

    Raises:
        ArrieroError: that folder is not this user's alone, or nothing may be executed there either.
    """
    kept = cache_folder() / "native"
    if not _forbids_execution(kept):
        return kept
    private = Path(tempfile.gettempdir()) / f"arriero-native-{os.getuid()}"
    private.mkdir(mode=0o700, exist_ok=True)
    status = private.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ArrieroError(f"{private} is no folder that only this user may enter: delete it")
    if _forbids_execution(private):
        raise ArrieroError(f"{kept} and {private} are mounted noexec: set ARRIERO_CACHE to a folder of another mount")
    return private


def _forbids_execution(folder: Path) -> bool:
    """Whether the mount of a folder, which may not be there yet, lets no code be loaded; false where nobody tells."""
    if not hasattr(os, "ST_NOEXEC"):
        return False
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    return bool(os.statvfs(there).f_flag & os.ST_NOEXEC)


def _compile(compiler: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    source = Path(__file__).parent / _SOURCES[-1]
    _digest_file(target).unlink(missing_ok=True)
    with atomic_file(target) as aside:
        command = [compiler, *_OPTIONS, *_cpu_options(), str(source), "-o", str(aside)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS)  # noqa: S603 - our own
    target.chmod(0o644)  # the umask may let others write
    with atomic_file(_digest_file(target)) as aside:
        aside.write_text(sha256(target))


def _is_whole(library: Path) -> bool:
    """Whether it is what was compiled: a library that the disk has cut short would end the process as it is loaded."""
    digest = _digest_file(library)
    return library.is_file() and digest.is_file() and digest.read_text("ascii", "replace") == sha256(library)


def _digest_file(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _check_owner(library: Path) -> None:
    """Code is only loaded from a file that no other user can have written."""
    status = library.stat()
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o002):
        raise ArrieroError(f"{library} belongs to another user or may be written by all: delete it")


def _key(compiler: str) -> str:
    parts = [(Path(__file__).parent / name).read_bytes() for name in _SOURCES]
    parts += [compiler.encode(), *map(str.encode, _OPTIONS), _cpu().encode()]
    version = subprocess.run([compiler, "--version"], capture_output=True, timeout=_SECONDS)  # noqa: S603 - found above
    return hashlib.sha256(b"\0".join([*parts, version.stdout])).hexdigest()[:16]


def _cpu_options() -> tuple[str, ...]:
    return ("-mcpu=native",) if platform.machine() in ("arm64", "aarch64") else ("-march=native",)


def _cpu() -> str:
    """What tells one kind of CPU from another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.platform()
    known = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(known)}))


def _first_line(error: Exception) -> str:
    told = getattr(error, "stderr", None) or str(error)
    lines = [line for line in str(told).splitlines() if "error" in line] or str(told).splitlines()
    return lines[0] if lines else type(error).__name__
