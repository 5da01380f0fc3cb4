"""The API fuzzed from its own description: nothing breaks the server, and every answer is one that it documents."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import hypothesis
import pytest
import schemathesis
from fastapi import FastAPI
from schemathesis import checks

from arriero.generate.engine import Engine
from arriero.generate.live import Live
from arriero.rag.collection import Collection
from arriero.serve.app import create_app
from arriero.serve.service import Service
from arriero.serve.settings import ServeSettings

CHECKS = (
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
)
MOST_SAMPLES = 3
HOST = {"Host": "localhost"}


@pytest.fixture(scope="module")
def app(tiny_model: Path, tiny_encoder: Path, tmp_path_factory) -> Iterator[FastAPI]:
    folder = tmp_path_factory.mktemp("fuzzed")
    engine = Engine.load(str(tiny_model), device="cpu")
    engine.context = 128  # short answers
    (folder / "wool.txt").write_text("the llamas carry wool")
    with Collection.open(folder / "collections" / "notes", tiny_encoder) as collection:
        collection.add(folder / "wool.txt")
    settings = ServeSettings(
        collections=folder / "collections",
        preferences=folder / "preferences.sqlite",
        adapters_folder=folder,
        runs=folder,
        encoder=str(tiny_encoder),
        device="cpu",
    )
    service = Service(settings, {"tiny": Live(engine)})
    service.find_collections()
    yield create_app(service)
    service.close()


def fuzz(app: FastAPI, subtests: pytest.Subtests, examples: int) -> None:
    """Ask every operation for so much that it describes, and for as much that it does not."""
    api = schemathesis.openapi.from_asgi("/openapi.json", app, headers=HOST)
    for result in api.get_all_operations():
        operation = result.ok()
        for mode in schemathesis.GenerationMode:

            @hypothesis.settings(
                max_examples=examples,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: schemathesis.Case) -> None:
                if isinstance(case.body, dict) and type(samples := case.body.get("n")) is int:
                    case.body["n"] = min(samples, MOST_SAMPLES)
                case.call_and_validate(headers=HOST, checks=CHECKS)

            # of an operation without parameters nothing is wrong
            with subtests.test(operation.label, mode=mode.value), suppress(hypothesis.errors.Unsatisfiable):
                ask()


def test_every_answer_is_documented(app, subtests):
    fuzz(app, subtests, examples=3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_answer_is_documented_many_times(app, subtests):
    fuzz(app, subtests, examples=300)
