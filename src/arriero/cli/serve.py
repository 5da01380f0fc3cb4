"""`arriero serve`: the OpenAI-compatible API and the web pages."""

import os
import re
import sys
import webbrowser
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from arriero.cli.collection import ingest_bar
from arriero.cli.engine import compile_kernels
from arriero.cli.output import note, printable, warn
from arriero.common.errors import ArrieroError, MissingExtraError
from arriero.model.choices import DEFAULT_MODEL

if TYPE_CHECKING:
    from arriero.serve.settings import ServeSettings


@dataclass(frozen=True, kw_only=True)
class ServedConfig:
    """What is served."""

    model: tuple[str, ...] = (DEFAULT_MODEL,)
    """A model source, as of every command; give it again for another model. The first is the default."""
    adapter: dict[str, str] | None = None
    """NAME=FOLDER: an adapter in PEFT's format, which answers as a model of that name."""
    adapters_folder: Path | None = None
    """Let clients load and unload adapters that lie below this folder."""
    documents: tuple[Path, ...] = ()
    """A collection, or files and folders to take into one first; it answers as the model arriero:NAME."""
    collections: Path = Path(".arriero")
    """Folder whose subfolders are collections; all are served, and new ones are made here."""
    encoder: str = "all-minilm-l6-v2"
    """Encoder of new collections and of /v1/embeddings: a name or a folder."""
    preferences: Path | None = Path("preferences.sqlite")
    """File that judgements of answers go to, made when the first comes; 'null' switches the page for them off."""
    runs: Path = Path("runs")
    """Folder whose subfolders are training runs to show."""


@dataclass(frozen=True, kw_only=True)
class ServeConfig(ServedConfig):
    """What is served, to whom, and how much of it at once."""

    host: str = "127.0.0.1"
    """Address to listen on; beyond this machine a token is required."""
    port: int = 8080
    """Port to listen on; 0 takes a free one."""
    token: str | None = None
    """What clients must send as `Authorization: Bearer TOKEN`. In a file for --config no other user sees it."""
    open: bool = True
    """The page opens in a browser, where there is a display; --no-open leaves it closed."""
    weights: Literal["auto", "full", "int8", "int4"] = "auto"
    """How matrices are held: int8 and int4 take less memory and time; `arriero eval --weights` tells how far they are
    off. auto keeps the bits of a GGUF file on a CPU, and is full elsewhere."""
    device: str = "auto"
    """auto takes the first of cuda, mps, cpu."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto is bfloat16 on cuda and float32 elsewhere."""
    max_batch: int = 16
    """Most answers that are written at once."""
    max_waiting: int = 256
    """Most that wait for their turn; more are refused with 503."""
    kv_cache_gib: float | None = None
    """Most GiB that each model keeps of what it read and wrote, taken as they fill; default: 4, or half of the memory
    where that is less."""
    speculate: int = 0
    """Most tokens to guess ahead, from what prompt and answer said before: the same answers, sooner for one client and
    later where many ask at once, so it is off."""
    request_timeout_s: float = 600.0
    """Seconds after which a request is ended."""
    patience_s: float = 10.0
    """Seconds that running requests get to finish when the server stops."""


def serve(config: ServeConfig) -> int:
    """Answer over HTTP: an API that OpenAI's clients speak, and pages for a browser, until Ctrl-C.

    Models, adapters and collections of documents are all models of the API: /v1/models lists them. Only this machine
    can reach the server unless --host says otherwise, which asks for a --token.

    Examples:
      arriero serve
      arriero serve --documents ~/manuals --adapter support=runs/support/adapter
      arriero serve --host 0.0.0.0 --config serve.toml
    """
    try:
        from arriero.serve.server import listen, run, url_of
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "arriero":
            raise
        message = f"serving needs the package '{error.name}': pip install 'arriero[serve]'"
        raise MissingExtraError(message) from error
    from arriero.serve.service import Service

    settings = _settings(config)
    with listen(settings) as listener:
        url = url_of(listener)
        compile_kernels(settings.device)
        service = Service.load(settings)

        def ready() -> None:
            print(url)
            sys.stdout.flush()
            note("Ctrl-C ends")
            if config.open and has_display():
                webbrowser.open(url)

        run(service, listener, ready)
    return 0


def _settings(config: ServeConfig) -> "ServeSettings":
    from arriero.serve.settings import ServeSettings

    adapters = {name: Path(folder).expanduser() for name, folder in (config.adapter or {}).items()}
    settings = ServeSettings(
        host=config.host,
        port=config.port,
        token=config.token,
        models=config.model,
        adapters=adapters,
        adapters_folder=config.adapters_folder,
        collections=config.collections,
        encoder=config.encoder,
        preferences=config.preferences,
        runs=config.runs,
        device=config.device,
        dtype=config.dtype,
        weights=config.weights,
        max_batch=config.max_batch,
        max_waiting=config.max_waiting,
        kv_cache_gib=config.kv_cache_gib,
        speculate=config.speculate,
        request_timeout_s=config.request_timeout_s,
        patience_s=config.patience_s,
    )
    return replace(settings, documents=_take_in(config))


def _take_in(config: ServeConfig) -> dict[str, Path]:
    """The collections of --documents, by name; what is none yet is taken into one.

    Raises:
        ArrieroError: a path does not exist, or holds nothing to read.
    """
    from arriero.rag.collection import Collection

    found: dict[str, Path] = {}
    for path in (path.expanduser() for path in config.documents):
        name = re.sub(r"[^\w.-]+", "-", path.resolve().name).strip(".-") or "documents"
        if name in found:
            raise ArrieroError(f"--documents: two of them would be called '{name}': rename one")
        with Collection.open(path, device=config.device) as collection:
            found[name] = path if collection.exists else config.collections / name
        if found[name] != path:
            _ingest(path, found[name], config)
    return found


def _ingest(path: Path, folder: Path, config: ServeConfig) -> None:
    from arriero.rag.collection import Collection

    with Collection.open(folder, device=config.device) as known:
        encoder = None if known.exists else config.encoder
    with Collection.open(folder, encoder, device=config.device) as collection:
        with ingest_bar(f"Reading {printable(path.name)}") as tell:
            report = collection.add([path], tell)
        for file, reason in report.failed:
            warn(f"skipped {printable(file)}: {printable(reason)}")
        if not collection.list():
            raise ArrieroError(f"--documents {path}: no document that can be read")
        note(f"{len(collection.list())} documents in {folder}: arriero:{folder.name}")


def has_display() -> bool:
    """Whether a browser would have somewhere to show a page."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
