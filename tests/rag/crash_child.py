"""Run by test_crash.py in a process of its own: an ingest that can be killed at a named moment.

Usage: crash_child.py COLLECTION DOCS MOMENT COUNT. MOMENT is `none`, or where the process kills itself (SIGKILL) at the
COUNT-th time: `encode`, `passage` (in the middle of a transaction), `commit`, `snapshot` (half written), `rename`.
"""

import importlib.util
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import arriero.rag.ingest as ingest
from arriero.rag.chunk import ChunkConfig
from arriero.rag.collection import Collection
from arriero.rag.index import FaissIndex
from arriero.rag.store import Store


def die_at(count: int, owner: Any, name: str, *, after: bool = False) -> None:
    """Kill this process at the count-th call of a function, before it runs or after."""
    original, calls = getattr(owner, name), 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, wrapped)


def main() -> None:
    """Ingest, slowly enough to be interrupted."""
    folder, docs, moment, count = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    spec = importlib.util.spec_from_file_location("words", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    words = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(words)
    encoder = words.WordEncoder()
    ingest.GROUP_PASSAGES = 6
    import faiss

    moments: dict[str, tuple[Any, str, bool]] = {
        "encode": (encoder, "encode_passages", True),
        "passage": (Store, "_put_passage", True),
        "commit": (Store, "replace", True),
        "snapshot": (faiss, "write_index", True),
        "rename": (Path, "replace", False),
        "saved": (FaissIndex, "save", True),
    }
    if moment in moments:
        owner, name, after = moments[moment]
        die_at(count, owner, name, after=after)
    if moment == "slow":
        encode = encoder.encode_passages

        def slowly(texts: list[str], advance: Any = None) -> Any:
            time.sleep(0.01)
            return encode(texts, advance)

        encoder.encode_passages = slowly
    print("started", flush=True)
    with Collection.open(
        folder, encoder, chunk=ChunkConfig(words=10), wait_s=float(os.environ.get("WAIT_S", "30"))
    ) as collection:
        collection.add(docs)
        collection.update()
    print("finished", flush=True)


if __name__ == "__main__":
    main()
