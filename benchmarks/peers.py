"""The peers that have Pythons of their own: environments with pinned versions, built once in a folder, then reused.

The other peers (transformers, datatrove, sentence-transformers, FAISS, rank-bm25, sentencepiece, rensa) are in
arriero's own environment, of `requirements.lock`. What peers share with it (torch, transformers, PEFT) has the version
that it has there, so that both sides run on the same PyTorch.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path


class PeerMissing(Exception):
    """Why an environment can't be had, in one line."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """An environment."""

    folder: str
    packages: tuple[str, ...]
    """Pinned; a name alone has the version of arriero's own environment."""
    told: tuple[str, ...]
    """Those of them whose versions stand in the results."""
    options: tuple[str, ...] = ()
    """Of pip."""
    compiler: bool = False
    """Whether it is built from source."""
    beside: bool = False
    """A few modules for arriero's own Python, not a Python of its own."""

    @property
    def pins(self) -> list[str]:
        """The packages with their versions."""
        return [one if set("=<") & set(one) else f"{one}=={version(one).partition('+')[0]}" for one in self.packages]


@dataclass(frozen=True)
class Ready:
    """An environment that is there."""

    python: Path
    environment: dict[str, str]
    """What its processes need to know."""
    versions: dict[str, str]


PEERS = {
    "llama.cpp": Peer(
        folder="llama",
        packages=("llama-cpp-python==0.3.36",),
        told=("llama-cpp-python",),
        options=("--no-binary", "llama-cpp-python"),
        compiler=True,
    ),
    "TRL": Peer(
        folder="trl", packages=("torch", "trl==1.16.0", "transformers", "peft"), told=("trl", "transformers", "peft")
    ),
    "TRL with PPO": Peer(
        folder="trl-ppo",
        packages=("torch", "trl==1.12.0", "transformers", "peft", "pandas==3.1.1"),
        told=("trl", "transformers", "peft"),
    ),
    "hashes": Peer(
        folder="hashes",
        packages=("xxhash<4", "datasketch<3"),
        told=("xxhash", "datasketch"),
        options=("--no-deps",),
        beside=True,
    ),
}
STAMP = "built.json"
PYTHON = Path("bin") / "python"


def prepare(name: str, folder: Path) -> Ready:
    """The environment, built now unless it is there with the same pins.

    Raises:
        PeerMissing: it can't be built here.
    """
    peer, home = PEERS[name], folder.absolute() / PEERS[name].folder
    stamp, wanted = home / STAMP, {"pins": peer.pins, "options": list(peer.options)}
    if not stamp.is_file() or json.loads(stamp.read_text("utf-8")) != wanted:
        _build(name, peer, home)
        stamp.write_text(json.dumps(wanted), "utf-8")
    if peer.beside:
        return Ready(Path(sys.executable), {"PYTHONPATH": str(home)}, _versions(peer, Path(sys.executable), home))
    return Ready(home / PYTHON, {}, _versions(peer, home / PYTHON, None))


def _build(name: str, peer: Peer, home: Path) -> None:
    if peer.compiler and not (shutil.which("cc") and shutil.which("c++")):
        raise PeerMissing(f"{name} is built from source, and there is no C++ compiler (cc, c++)")
    print(f"{name}: building its environment in {home}", file=sys.stderr, flush=True)
    home.mkdir(parents=True, exist_ok=True)
    if peer.beside:
        _pip(name, Path(sys.executable), home, ["--upgrade", "--target", str(home), *peer.options, *peer.pins])
        return
    if not (home / PYTHON).exists():
        made = subprocess.run([sys.executable, "-m", "venv", str(home)], capture_output=True, text=True)
        if made.returncode:
            raise PeerMissing(f"{name}: no environment could be made: {_last_line(made.stderr or made.stdout)}")
    _pip(name, home / PYTHON, home, [*peer.options, *peer.pins])


def _pip(name: str, python: Path, home: Path, words: list[str]) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    (home / "pip.log").write_text(done.stdout + done.stderr, "utf-8")
    if done.returncode:
        raise PeerMissing(f"{name} could not be installed: {_last_line(done.stderr)} (all of it: {home / 'pip.log'})")


def _versions(peer: Peer, python: Path, path: Path | None) -> dict[str, str]:
    asked = [python, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"]
    done = subprocess.run([*asked, *(["--path", path] if path else [])], capture_output=True, text=True, check=True)
    found = {one["name"].lower().replace("_", "-"): one["version"] for one in json.loads(done.stdout)}
    return {name: found[name] for name in peer.told if name in found}


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return (errors or lines or ["it said nothing"])[-1]
