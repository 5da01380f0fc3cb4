"""What tests of documents share: a server with an encoder and no model."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi.testclient import TestClient

from arriero.serve.app import create_app
from arriero.serve.service import Service
from arriero.serve.settings import ServeSettings

HERE = "http://127.0.0.1:8080"


@contextmanager
def open_library(folder: Path, encoder: Path, **settings) -> Iterator[TestClient]:
    """A server over the collections in a folder, as long as the block lasts."""
    told = ServeSettings(collections=folder / "collections", encoder=str(encoder), device="cpu", **settings)
    service = Service(told, {})
    service.find_collections()
    try:
        with TestClient(create_app(service), base_url=HERE) as client:
            yield client
    finally:
        service.close()


def send(client: TestClient, collection: str, *files: tuple[str, bytes]) -> dict:
    """Upload files and wait for what becomes of them."""
    answer = client.post(f"/api/collections/{collection}/documents", files=[("files", file) for file in files])
    assert answer.status_code == 202, answer.text
    return wait(client, answer.json()["job"])


def wait(client: TestClient, job: str, seconds: float = 60.0) -> dict:
    """A job's last state."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        told = client.get(f"/api/jobs/{job}").json()
        if told["state"] in ("done", "failed"):
            return told
        time.sleep(0.02)
    raise AssertionError(f"the job takes too long: {told}")


def names(client: TestClient, collection: str) -> list[str]:
    """The documents' names."""
    return [document["name"] for document in client.get(f"/api/collections/{collection}/documents").json()]
