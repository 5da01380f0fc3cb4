"""The index on a Qdrant server, by the client's local mode: it finds what FAISS finds, and follows its store."""

import shutil

import numpy as np
import pytest

from arriero.common.errors import ArrieroError, StorageError
from arriero.parsers.document import Document, Section
from arriero.rag import qdrant_index, server_index
from arriero.rag.collection import Collection
from arriero.rag.index import FaissIndex
from arriero.rag.qdrant_index import KEY, QdrantIndex, check_url
from arriero.rag.server_index import ServerView

pytest.importorskip("qdrant_client")
from httpx import Headers
from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import UnexpectedResponse

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning")
URL = "http://127.0.0.1:6333"
NOBODY = "http://127.0.0.1:1"
DIM = 8
QUESTION = "what carries wool over the mountains?"


@pytest.fixture
def server(monkeypatch):
    """A server in memory, at URL; at any other address is none."""
    client, real = QdrantClient(":memory:"), qdrant_index.open_client
    monkeypatch.setattr(qdrant_index, "open_client", lambda url: client if url == URL else real(url))
    yield client
    client.close()


@pytest.fixture
def moved(server, collection, docs) -> Collection:
    collection.add(docs)
    assert collection.move_index(URL) is None
    return collection


def names(server: QdrantClient) -> list[str]:
    return sorted(item.name for item in server.get_collections().collections)


def points(server: QdrantClient, name: str | None = None) -> list[int]:
    return QdrantIndex(URL, name or names(server)[0]).ids.tolist()


def found(collection: Collection, k: int = 3, **how) -> list[tuple[int, float]]:
    return [(hit.passage_id, hit.score) for hit in collection.search(QUESTION, k=k, mode="dense", **how)]


def in_process(collection: Collection, encoder, k: int = 3) -> list[tuple[int, float]]:
    """What FAISS finds in the same store."""
    index = FaissIndex(encoder.dim)
    for ids, vectors in collection.store.vectors(collection.store.passage_ids()):
        index.add(ids, vectors)
    query = encoder.encode_queries([QUESTION])[0]
    rows = collection.store.passages(ids := index.search(query, k))
    return [(number, float(query.astype(np.float64) @ rows[number][1].astype(np.float64))) for number in ids]


def view(index: QdrantIndex, held: np.ndarray, missing: np.ndarray, vectors: np.ndarray) -> ServerView:
    return ServerView(0, index, held, missing, vectors)


@pytest.mark.parametrize("equal", [1, 90])
@pytest.mark.parametrize("lacking", [0, 25])
def test_it_finds_what_faiss_finds(server, monkeypatch, equal, lacking):
    monkeypatch.setattr(qdrant_index, "_LIST", 32)  # so that lists of ids take several requests
    monkeypatch.setattr(qdrant_index, "_SEND", 32)
    rng = np.random.default_rng(equal)
    ids = np.sort(rng.choice(np.arange(1, 1000), 300, replace=False)).astype(np.int64)
    vectors = rng.integers(-3, 4, (300, DIM)).astype(np.float32)  # small whole numbers: products are equal often
    vectors[rng.permutation(300)[:equal]] = vectors[0]
    flat, index = FaissIndex(DIM), QdrantIndex(URL, "here")
    flat.add(ids, vectors)
    index.create(DIM, {"token": "t"})
    gone, absent = ids[5:60:3], ids[300 - lacking :]
    index.add(ids[: 300 - lacking], vectors[: 300 - lacking])
    flat.remove(gone)
    held = np.setdiff1d(ids[: 300 - lacking], gone)
    behind = view(index, held, absent, vectors[300 - lacking :])
    for removed in (False, True):  # first the server still has what the store has not
        if removed:
            index.remove(gone)
            assert index.ids.tolist() == held.tolist()
        for query in (vectors[0], rng.integers(-3, 4, DIM).astype(np.float32), np.zeros(DIM, dtype=np.float32)):
            for allowed in (None, ids[::2], ids[:3], gone, np.empty(0, dtype=np.int64), np.array([5000])):
                for k in (1, 7, 100, 400):
                    assert behind.search(query, k, allowed) == flat.search(query, k, allowed)


def test_the_server_follows_documents(moved, server, docs, encoder, write_file):
    def in_step() -> bool:
        return points(server) == moved.store.passage_ids().tolist() and found(moved) == in_process(moved, encoder)

    assert in_step()
    assert not (moved.folder / "index.faiss").exists()
    write_file(docs / "bread.txt", "Mules carry wool over the mountains too.")
    moved.update()
    assert in_step()
    moved.remove("docs/llamas.txt")
    assert in_step()
    moved.add_documents([Document("new", (Section("wool over the lake"),))])
    assert in_step()
    assert moved.index_facts().vectors == moved.store.passage_count()
    assert len(names(server)) == 1
    only = {"document": "new"}
    assert [hit.passage.document for hit in moved.search(QUESTION, filters=only)] == ["new"]


def test_a_reader_follows_a_writer(moved, server, encoder):
    with Collection.open(moved.folder, encoder) as reader:
        found(reader)
        moved.add_documents([Document("new", (Section("what carries wool over the mountains"),))])
        assert found(reader) == found(moved) == in_process(moved, encoder)
        moved.move_index(None)
        assert found(reader) == in_process(moved, encoder)
        assert reader.index_facts().kind == "flat"


def test_vectors_encoded_anew_replace_all_points(moved, server, other_encoder):
    before = points(server)
    other_encoder.dim = 48
    moved.reencode(other_encoder)
    assert points(server) == before
    assert server.get_collection(names(server)[0]).config.params.vectors.size == 48
    assert found(moved) == in_process(moved, other_encoder)


def test_two_collections_share_a_server(moved, server, tmp_path, encoder):
    with Collection.open(tmp_path / "second", encoder) as second:
        second.add_documents([Document("other", (Section("wool over the mountains"),))])
        second.move_index(URL)
        assert len(names(server)) == 2
        assert len(found(second, 50)) == 1
        assert found(moved, 50) == in_process(moved, encoder, 50)


def test_a_copy_never_takes_the_other_s_points_for_its_own(moved, server, tmp_path, encoder):
    """Both copies give the same ids to different texts."""
    shutil.copytree(moved.folder, tmp_path / "copy")
    moved.add_documents([Document("one", (Section("wool over the mountains"),))])
    with Collection.open(tmp_path / "copy", encoder) as copy:
        assert found(copy) == in_process(copy, encoder)
        assert copy.index_facts().missing == copy.store.passage_count()
        copy.add_documents([Document("two", (Section("stars over the oven"),))])
        assert copy.index_facts().missing == 0
        assert found(copy, 50) == in_process(copy, encoder, 50)
        assert found(moved, 50) == in_process(moved, encoder, 50)
        assert len(names(server)) == 2
        copy.move_index(None)
    assert len(names(server)) == 1
    assert moved.index_facts().missing == 0


@pytest.mark.parametrize("step", ["set_stamp", "remove", "add"])
@pytest.mark.parametrize("change", ["document", "encoder"])
def test_a_writer_that_died_is_made_up_for(moved, server, encoder, other_encoder, docs, write_file, step, change):
    def die(*given):
        raise KeyboardInterrupt

    new = "Mules carry wool over the mountains."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QdrantIndex, step, die)
        with pytest.raises(KeyboardInterrupt):
            if change == "encoder":
                moved.reencode(other_encoder)
            else:
                write_file(docs / "bread.txt", new)
                moved.update()
    serving = other_encoder if change == "encoder" else encoder
    with Collection.open(moved.folder, serving) as reader:
        assert found(reader, 50) == in_process(reader, serving, 50)
        reader.update()
        assert reader.index_facts().missing == 0
        assert found(reader, 50) == in_process(reader, serving, 50)
        assert points(server) == reader.store.passage_ids().tolist()
    assert len(names(server)) == 1


def test_a_server_that_lost_everything_gets_it_again(moved, server, encoder):
    (name,) = names(server)
    server.delete_collection(name)
    with Collection.open(moved.folder, encoder) as reader:
        assert found(reader) == in_process(reader, encoder)
    moved.update()
    assert points(server) == moved.store.passage_ids().tolist()


def test_back_in_this_process_the_server_holds_nothing(moved, server, encoder):
    assert moved.move_index(None) is None
    assert names(server) == []
    assert (moved.folder / "index.faiss").exists()
    assert found(moved) == in_process(moved, encoder)
    moved.move_index(URL)
    assert found(moved) == in_process(moved, encoder)


def test_an_empty_collection_can_be_moved_first(server, collection, docs, encoder):
    collection.add_documents([])
    collection.move_index(URL)
    assert (collection.index_facts().kind, collection.index_facts().vectors) == ("qdrant", 0)
    collection.add(docs)
    assert points(server) == collection.store.passage_ids().tolist()


def test_without_its_server_words_are_still_found_and_documents_stored(moved, server, monkeypatch, write_file, docs):
    moved.store.set_settings(index_server=NOBODY)
    with pytest.raises(StorageError, match=rf"^no Qdrant server answers at {NOBODY} \(.*refused\): start it, .*bm25"):
        found(moved)
    assert moved.search("wool", mode="bm25")
    write_file(docs / "new.txt", "Brand new text.")
    with pytest.raises(StorageError, match=r"the documents are stored, but not all their vectors .*rag update"):
        moved.update()
    assert moved.search("brand", mode="bm25")
    stayed = moved.move_index(None)
    assert stayed is not None
    assert "stay on the server as 'arriero-" in stayed
    assert found(moved)


def test_a_server_that_is_not_there_is_not_moved_to(moved, server, encoder):
    with pytest.raises(StorageError, match="no Qdrant server answers"):
        moved.move_index(NOBODY)
    assert moved.store.setting(server_index.SERVER) == URL
    assert found(moved) == in_process(moved, encoder)


@pytest.mark.parametrize(("status", "said"), [(401, KEY), (404, "rag update"), (500, "expected Qdrant")])
def test_what_a_server_refuses_is_one_line(moved, server, monkeypatch, status, said):
    def refuse(*given, **more):
        raise UnexpectedResponse(status, "No", b"<html>\n", Headers())

    monkeypatch.setattr(server, "query_points", refuse)
    with pytest.raises(StorageError, match=said) as caught:
        found(moved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["", "nowhere", "127.0.0.1:6333", "ftp://x", "http://", "http://u:secret@h", "http://h:x", "http://h?a=b"]
)
def test_an_address_that_is_none_is_refused_without_telling_passwords(url):
    with pytest.raises(ArrieroError, match=f"expected one like .*{KEY}") as caught:
        check_url(url)
    assert "secret" not in str(caught.value)


def test_an_address_is_kept_plain():
    assert check_url("https://vectors.example:443/") == "https://vectors.example:443"


def test_a_client_takes_the_key_of_the_environment(monkeypatch):
    monkeypatch.setenv(KEY, "a key")
    client = qdrant_index.open_client("http://127.0.0.1:7")
    assert client._client._rest_headers["api-key"] == "a key"
