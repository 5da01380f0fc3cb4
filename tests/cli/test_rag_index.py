"""`arriero rag index`: it tells where vectors are searched, moves them to a server and back, and refuses plainly."""

import json
import sys

import pytest

from arriero.rag import qdrant_index
from arriero.rag.qdrant_index import KEY

URL, NOBODY = "http://127.0.0.1:6333", "http://127.0.0.1:1"


@pytest.fixture
def server(monkeypatch):
    """A server in memory, at URL; at any other address is none."""
    client, real = pytest.importorskip("qdrant_client").QdrantClient(":memory:"), qdrant_index.open_client
    monkeypatch.setattr(qdrant_index, "open_client", lambda url: client if url == URL else real(url))
    yield client
    client.close()


@pytest.fixture
def on(run, tmp_path, tiny_encoder) -> tuple[str, ...]:
    """The options that name a collection of one document."""
    (tmp_path / "llamas.md").write_text("Llamas carry wool over the mountains.")
    options = ("--collection", str(tmp_path / "collection"), "--encoder", str(tiny_encoder))
    assert run("rag", "add", tmp_path / "llamas.md", *options).code == 0
    return options


@pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning")
def test_there_and_back(run, on, server):
    told = run("rag", "index", *on)
    assert (told.code, told.out) == (0, "flat: 1 vectors, in this process, 0.0 MB in memory\n")
    assert run("rag", "index", "--server", URL, *on).out == f"qdrant: 1 vectors on {URL}\n"
    facts = json.loads(run("rag", "index", "--json", *on).out)
    assert facts == {"kind": "qdrant", "vectors": 1, "missing": 0, "bytes": None, "server": URL}
    assert len(json.loads(run("rag", "search", "wool", "--mode", "dense", "--json", *on).out)) == 1
    (name,) = [item.name for item in server.get_collections().collections]
    server.delete_collection(name)
    assert "1 are not there yet" in run("rag", "index", *on).err
    assert run("rag", "update", *on).code == 0
    assert run("rag", "index", *on).err == ""
    assert run("rag", "index", "--server", "none", *on).out.startswith("flat: 1 vectors, in this process")
    assert server.get_collections().collections == []


@pytest.mark.parametrize(
    ("given", "said"), [(NOBODY, "no Qdrant server answers"), ("http://u:secret@h", "expected one")]
)
def test_what_cannot_be_is_one_line(run, on, server, given, said):
    refused = run("rag", "index", "--server", given, *on)
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert said in refused.err
    assert "secret" not in refused.err
    assert run("rag", "index", *on).out.startswith("flat")


def test_without_its_client_the_extra_is_named(run, on, monkeypatch):
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    qdrant_index.open_client.cache_clear()
    refused = run("rag", "index", "--server", URL, *on)
    assert (refused.code, "pip install 'arriero[qdrant]'" in refused.err) == (2, True)


def test_a_key_in_plain_text_is_warned_of(run, on, monkeypatch, server):
    monkeypatch.setenv(KEY, "a key")
    for near in (NOBODY, "https://127.0.0.1:1"):
        assert "unencrypted" not in run("rag", "index", "--server", near, *on).err
    assert "unencrypted" in run("rag", "index", "--server", "http://127.0.0.2:1", *on).err


def test_a_collection_is_needed(run, tmp_path):
    refused = run("rag", "index", "--collection", tmp_path / "none")
    assert (refused.code, "no collection in" in refused.err) == (2, True)
