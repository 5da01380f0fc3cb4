"""One server for all tests of the API: a tiny model, a tiny encoder, a collection; and OpenAI's client for it."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
from fastapi.testclient import TestClient

from arriero.generate.live import Live
from arriero.parsers.document import Document, Section
from arriero.rag.collection import Collection
from arriero.serve.app import create_app
from arriero.serve.server import Server, listen, url_of
from arriero.serve.service import Service
from arriero.serve.settings import ServeSettings
from tests.cli.conftest import run, tiny_encoder, tiny_model  # noqa: F401 - fixtures

DOCUMENTS = {"wool.txt": "the llamas carry wool", "sea.txt": "the ships carry rain", "rain.txt": "the rain falls"}


@pytest.fixture(scope="session")
def service(tiny_model: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:  # noqa: F811
    folder = tmp_path_factory.mktemp("served")
    with Collection.open(folder / "collections" / "notes", tiny_encoder) as collection:
        collection.add_documents([Document(name, (Section(text),)) for name, text in DOCUMENTS.items()])
    (folder / "adapters").mkdir()
    settings = ServeSettings(
        models=(str(tiny_model),),
        collections=folder / "collections",
        adapters_folder=folder / "adapters",
        encoder=str(tiny_encoder),
        device="cpu",
        max_batch=8,
    )
    service = Service.load(settings)
    yield service
    service.close()


@pytest.fixture(scope="session")
def url(service: Service) -> Iterator[str]:
    """A real server's address."""
    ready = threading.Event()
    with listen(dataclasses.replace(service.settings, port=0)) as listener:
        server = Server(service, ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        assert ready.wait(30)
        yield url_of(listener)
        server.should_exit = True
        thread.join()


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def http(service: Service) -> Iterator[TestClient]:
    """The app in this process, for what clients would not send."""
    with TestClient(create_app(service), base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def live(service: Service) -> Live:
    return service.models[service.default_model]


@pytest.fixture
def stalled(live: Live) -> Callable[[], object]:
    """A context in which no token comes: the engine waits between two steps."""

    @contextmanager
    def stall() -> Iterator[None]:
        reached, go_on = threading.Event(), threading.Event()

        def wait() -> None:
            reached.set()
            go_on.wait(60)

        thread = threading.Thread(target=live.between, args=(wait,))
        thread.start()
        assert reached.wait(60)
        try:
            yield
        finally:
            go_on.set()
            thread.join()

    return stall


def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.01)
