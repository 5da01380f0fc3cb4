"""`arriero rag index`: where a collection's vectors are searched, and in which kind of index."""

import os
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

from arriero.cli.collection import CollectionConfig, open_collection
from arriero.cli.output import note, print_json, printable, warn


@dataclass(frozen=True, kw_only=True)
class IndexConfig(CollectionConfig):
    """Where the index is to be."""

    server: str | None = None
    """Search vectors on this Qdrant server from now on, such as http://127.0.0.1:6333; none: in this process again."""


def index(config: IndexConfig) -> int:
    """Tell which index searches a collection's vectors, or move it to a Qdrant server and back.

    The documents and their vectors stay in the collection; the server's copy is made from them, and follows `rag add`,
    `update` and `remove`. Its API key, where it wants one, comes from the environment variable ARRIERO_QDRANT_KEY.

    Examples:
      arriero rag index
      arriero rag index --server http://127.0.0.1:6333
      arriero rag index --server none
    """
    with open_collection(config) as collection:
        if config.server is not None:
            if _is_overheard(config.server):
                warn("the API key goes over the network unencrypted: expected https://")
            if stayed := collection.move_index(None if config.server == "none" else config.server):
                warn(stayed)
        facts = collection.index_facts()
    if config.json:
        print_json(asdict(facts))
        return 0
    size = "" if facts.bytes is None else f", {facts.bytes / 1e6:,.1f} MB in memory"
    place = f" on {printable(facts.server)}" if facts.server else ", in this process"
    print(f"{facts.kind}: {facts.vectors:,} vectors{place}{size}")
    if facts.missing:
        note(f"{facts.missing:,} are not there yet and searched in this process: `arriero rag update` sends them")
    return 0


def _is_overheard(server: str) -> bool:
    """Whether an API key would travel in plain text."""
    from arriero.rag.qdrant_index import KEY

    near = ("http://127.0.0.1", "http://localhost", "http://[::1]")
    return KEY in os.environ and urlsplit(server).scheme == "http" and not server.startswith(near)
