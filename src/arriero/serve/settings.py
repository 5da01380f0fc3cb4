"""What the server is told at its start. Nothing else configures it: no environment variable, no file of its own."""

import ipaddress
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from arriero.common.device import DTypeName
from arriero.common.errors import ArrieroError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much of memory and time requests may take."""

    max_batch: int = 16
    """Most sequences that decode together."""
    max_waiting: int = 256
    """Most requests that wait for their turn; more are refused with 503."""
    kv_cache_gib: float | None = None
    """Most GiB of keys and values that each model keeps; None: 4, or half of the memory where that is less."""
    speculate: int = 0
    """Most tokens to guess ahead of each sequence."""
    max_body_bytes: int = 4 * 2**20
    """Most bytes of a request's body, uploads aside."""
    max_upload_bytes: int = 64 * 2**20
    """Most bytes of one upload."""
    request_timeout_s: float = 600.0
    """Seconds after which a request is ended."""
    patience_s: float = 10.0
    """Seconds that running requests get to finish when the server stops."""

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_waiting", "max_body_bytes", "max_upload_bytes", "request_timeout_s"):
            if getattr(self, name) <= 0:
                raise ArrieroError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("speculate", "patience_s"):
            if getattr(self, name) < 0:
                raise ArrieroError(f"{name} must be 0 or above, not {getattr(self, name)}")
        if self.kv_cache_gib is not None and not 0 < self.kv_cache_gib < math.inf:
            raise ArrieroError(f"kv_cache_gib must be above 0, not {self.kv_cache_gib}")


@dataclass(frozen=True, kw_only=True)
class ServeSettings(Limits):
    """Where the server listens, what it serves, and its limits."""

    host: str = "127.0.0.1"
    """Address to listen on; beyond loopback a token is required."""
    port: int = 8080
    """0 takes a free one."""
    token: str | None = field(default=None, repr=False)
    """What clients must send as `Authorization: Bearer`; None asks for none."""
    models: tuple[str, ...] = ("smollm2-135m-instruct",)
    """Model sources; the first is the default."""
    adapters: Mapping[str, Path] = field(default_factory=dict)
    """Adapters to load at the start: name → folder in PEFT's format."""
    adapters_folder: Path | None = None
    """Adapters may be loaded from below this folder while the server runs; None: from nowhere."""
    collections: Path = Path(".arriero")
    """Folder whose subfolders are the collections; new ones are made here."""
    documents: Mapping[str, Path] = field(default_factory=dict)
    """Collections that lie elsewhere: name → folder."""
    encoder: str = "all-minilm-l6-v2"
    """Encoder of new collections and of `/v1/embeddings`: a name or a folder."""
    preferences: Path | None = None
    """File that judgements go to; None switches annotation off."""
    runs: Path = Path("runs")
    """Folder whose subfolders are training runs to show."""
    device: str = "auto"
    dtype: DTypeName = "auto"
    weights: Literal["auto", "full", "int8", "int4"] = "auto"
    """How matrices are kept in memory; auto keeps the bits of a GGUF file on a CPU, and is full elsewhere."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.port <= 65535:
            raise ArrieroError(f"port must be between 0 (a free one) and 65535, not {self.port}")
        if not self.models:
            raise ArrieroError("expected one model or more to serve")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token.strip()):
            raise ArrieroError("the token must be printable ASCII and not blank: HTTP headers carry nothing else")
        if not self.is_loopback and self.token is None:
            raise ArrieroError(
                f"host {self.host} can be reached by others, so a token is required: give --token, or listen on "
                "127.0.0.1"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
