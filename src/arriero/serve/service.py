"""What the server serves: models, their adapters, collections of documents, and where preferences and runs lie."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from anyio import CapacityLimiter

from arriero.common.device import pick_device
from arriero.common.errors import ArrieroError, NotFoundError, did_you_mean
from arriero.common.hardware import total_memory
from arriero.generate.engine import Engine
from arriero.generate.live import Live
from arriero.model.own_weights import own_weights
from arriero.rag.store import FILE_NAME
from arriero.serve.answerer import ServedAdapter
from arriero.serve.settings import ServeSettings

if TYPE_CHECKING:
    from arriero.rag.collection import Collection
    from arriero.rag.encoder import Encoder

PREFIX = "arriero:"
"""Of the names that collections have as models."""


_GIB = 2**30
_LONG = 100_000
"""Characters of a long prompt."""


@dataclass(frozen=True, kw_only=True)
class ServedCollection:
    """A collection, open for reading by any thread."""

    name: str
    folder: Path
    collection: "Collection"
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held by whoever changes the documents."""

    def without_folder(self, message: str) -> str:
        """An error's message with the collection's name where it has its folder: that is nothing to clients."""
        message = message.replace(str(self.folder / FILE_NAME), f"the collection '{self.name}'")
        if len(self.folder.parts) > 1:  # else it may be any word of the message
            message = message.replace(str(self.folder), f"'{self.name}'")
        return message


class Service:
    """All that requests share. Its attributes may be read by any thread."""

    def __init__(self, settings: ServeSettings, models: dict[str, Live]) -> None:
        """Take what is loaded; `Service.load` loads it.

        Args:
            settings: the server's.
            models: engines by the names that clients call them; the first is the default.
        """
        self.settings, self.models = settings, models
        self.adapters: dict[str, ServedAdapter] = {}
        self.changing = threading.Lock()
        """Held while adapters come and go."""
        self.collections: dict[str, ServedCollection] = {}
        """By name; replaced, never changed, as others may be going through it."""
        self.shelving = threading.Lock()
        """Held while collections come and go."""
        self.leaving: set[str] = set()
        """Names of collections that are being deleted, and are not to be found again meanwhile."""
        self.workers = ThreadPoolExecutor(settings.max_batch, "arriero-answer")
        """Answer from documents; `questions` says how many more may wait for them."""
        self.questions = threading.Semaphore(settings.max_batch + settings.max_waiting)
        self.preferences, self.runs = settings.preferences, settings.runs
        self.encoding = CapacityLimiter(1)
        """Vectors for `/v1/embeddings` are computed one request after another."""
        self._long_prompts = CapacityLimiter(1)
        self._encoder: Encoder | None = None
        self._encoder_lock = threading.Lock()

    @classmethod
    def load(cls, settings: ServeSettings) -> "Service":
        """Load all that the settings name.

        Raises:
            ArrieroError: something is missing, damaged, or named twice.
        """
        from arriero.serve.adapters import add_adapter

        models: dict[str, Live] = {}
        try:
            for source in settings.models:
                name = model_name(source)
                if name in models:
                    raise ArrieroError(f"two models are called '{name}': rename one's folder")
                models[name] = _load_model(source, settings)
            service = cls(settings, models)
            for name, folder in settings.adapters.items():
                if name in models:
                    raise ArrieroError(f"a model is called '{name}' already: choose another name for the adapter")
                add_adapter(service, name, folder)
            service.find_collections()
            service.workers.submit(service.warm_up)
        except BaseException:
            for live in models.values():
                live.close()
            raise
        return service

    @property
    def default_model(self) -> str:
        """The model that answers where a request names none."""
        return next(iter(self.models))

    @property
    def encoder(self) -> "Encoder":
        """The encoder of `/v1/embeddings` and of new collections, loaded when first asked for: call it off the loop.

        Raises:
            NotFoundError: it is not on this machine.
        """
        from arriero.rag.encoder import load_encoder

        with self._encoder_lock:
            if self._encoder is None:
                self._encoder = load_encoder(self.settings.encoder, device=self.settings.device)
            return self._encoder

    def reader(self, size: int) -> CapacityLimiter | None:
        """What limits the threads that make tokens of a prompt of so many characters; None: what limits all threads.

        Long ones are read one after another: megabytes take seconds, and a hundred times their memory.
        """
        return self._long_prompts if size > _LONG else None

    def find_collections(self) -> None:
        """Serve what is a collection now, in the folder for them and where the settings name one, and nothing else.

        Other programs make and delete collections too; it costs a look at the subfolders.
        """
        from arriero.rag.collection import Collection

        root = self.settings.collections
        with self.shelving:
            folders = {path.name: path for path in sorted(root.iterdir())} if root.is_dir() else {}
            folders |= self.settings.documents
            served = {name: known for name, known in self.collections.items() if known.collection.exists}
            for name in folders.keys() - served.keys() - self.leaving:
                collection = Collection.open(folders[name], device=self.settings.device)
                if collection.exists:
                    served[name] = ServedCollection(name=name, folder=folders[name], collection=collection)
            self.collections = {name: served[name] for name in folders if name in served}

    def warm_up(self) -> None:
        """Load what the first question to documents would wait for: libraries, and the first collection's encoder."""
        for served in list(self.collections.values())[:1]:
            served.collection.encoder.encode_queries(["warm-up"])

    def collection(self, name: str) -> ServedCollection:
        """A collection by its name.

        Raises:
            NotFoundError: there is none of that name.
        """
        if name not in self.collections:
            self.find_collections()
        served = self.collections.get(name)
        if served is None:
            known = ", ".join(self.collections) or "none"
            raise NotFoundError(
                f"there is no collection '{name}'{did_you_mean(name, self.collections)}: there is {known}"
            )
        return served

    def without_folders(self, message: str) -> str:
        """An error's message with the names of collections where it has their folders."""
        for served in sorted(self.collections.values(), key=lambda served: -len(str(served.folder))):
            message = served.without_folder(message)
        return message

    def end_requests(self, patience_s: float = 0.0) -> None:
        """Take no more requests; those that run get so many seconds. A second call may be less patient."""
        deadline = time.monotonic() + patience_s
        for live in self.models.values():
            live.close(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """End all, at once."""
        self.end_requests()
        self.workers.shutdown(cancel_futures=True)
        for served in self.collections.values():
            served.collection.close()


def _load_model(source: str, settings: ServeSettings) -> Live:
    device, dtype, weights = settings.device, settings.dtype, settings.weights
    cache_bytes = _cache_bytes(settings)
    held = own_weights(source, device=device, dtype=dtype) if weights == "auto" else weights
    engine = Engine.load(
        source,
        device=device,
        dtype=dtype,
        weights=held,
        max_batch=settings.max_batch,
        max_cache_bytes=cache_bytes,
        speculate=settings.speculate,
    )
    return Live(engine, max_waiting=settings.max_waiting)


def _cache_bytes(settings: ServeSettings) -> int:
    """Most bytes of a model's KV cache.

    Raises:
        ArrieroError: more is asked for than the device has.
    """
    device = pick_device(settings.device)
    has = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else total_memory()
    if settings.kv_cache_gib is None:
        return min(4 * _GIB, has // 2)
    if settings.kv_cache_gib * _GIB > has:
        raise ArrieroError(f"kv_cache_gib {settings.kv_cache_gib:g} is more than the {has / _GIB:.1f} GiB of {device}")
    return int(settings.kv_cache_gib * _GIB)


def model_name(source: str) -> str:
    """What clients call a model: its source's name, or that of its folder or file."""
    path = Path(source).expanduser()
    return path.resolve().name.removesuffix(".gguf") if path.exists() else source
