"""What Prometheus is told."""

from types import SimpleNamespace

from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from arriero.serve.app import create_app
from arriero.serve.service import Service
from arriero.serve.settings import ServeSettings

COUNTS = {
    "running": 3, "waiting": 2, "cache_tokens": 640, "cache_room": 4096, "cache_bytes": 2**20, "prompt_tokens": 500,
    "cached_prompt_tokens": 400, "generated_tokens": 77, "steps": 40, "preempted": 1,
}  # fmt: skip


def serve(**settings) -> TestClient:
    live = SimpleNamespace(context=512, stats=lambda: SimpleNamespace(**COUNTS))
    service = Service(ServeSettings(**settings), {"tiny": live})  # type: ignore[dict-item]
    return TestClient(create_app(service), base_url="http://127.0.0.1:8080")


def read(client: TestClient) -> dict[tuple, float]:
    """Every sample by its name and labels."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }


def test_health_is_short():
    assert serve().get("/health").json() == {"status": "ok"}


def test_the_engines_counts_are_told_as_they_are():
    found = read(serve())
    model = ("model", "tiny")
    assert found["arriero_requests_running", model] == 3
    assert found["arriero_requests_waiting", model] == 2
    assert found["arriero_generated_tokens_total", model] == 77
    assert found["arriero_prompt_tokens_total", model] == 500
    assert found["arriero_prompt_tokens_cached_total", model] == 400
    assert found["arriero_cache_tokens", model] / found["arriero_cache_room_tokens", model] == 640 / 4096
    assert found["arriero_cache_room_bytes", model] == 2**20


def test_requests_are_counted_by_route_and_status():
    client = serve()
    for _ in range(3):
        client.get("/health")
    client.get("/secret-name-of-nothing")
    client.request("BREW", "/health")
    client.get("/health", headers={"Host": "evil.example"})
    found = read(client)

    def count(method, route, status):
        return found["arriero_http_requests_total", ("method", method), ("route", route), ("status", status)]

    assert count("GET", "/health", "200") == 3
    assert count("GET", "unmatched", "404") == 1
    assert count("GET", "unmatched", "403") == 1
    assert found["arriero_http_request_seconds_count", ("method", "GET"), ("route", "/health")] == 3
    assert not any("secret" in str(key) or "BREW" in str(key) for key in found)


def test_first_tokens_are_timed():
    client = serve()
    client.app.state.metrics.first_token.labels("tiny").observe(0.2)
    found = read(client)
    assert found["arriero_time_to_first_token_seconds_bucket", ("le", "0.1"), ("model", "tiny")] == 0
    assert found["arriero_time_to_first_token_seconds_bucket", ("le", "0.25"), ("model", "tiny")] == 1


def test_two_servers_in_one_process_count_apart():
    one, other = serve(), serve()
    one.get("/health")
    assert ("arriero_http_requests_total", ("method", "GET"), ("route", "/health"), ("status", "200")) not in read(
        other
    )


def test_metrics_need_the_token():
    assert serve(token="a-long-token").get("/metrics").status_code == 401
