"""`/health`, and `/metrics` in Prometheus's text format: requests, latencies, tokens, queue and cache.

Every server has a registry of its own, `app.state.metrics`. What the engines count is read when someone asks; nothing
is counted twice. Requests are labelled with the route's pattern, so that no name or id from a path gets into a label.
"""

import time
from collections.abc import Iterator

from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from pydantic import BaseModel
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arriero.serve.errors import ERRORS
from arriero.serve.service import Service

router = APIRouter(tags=["server"])

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_ENGINE = (
    ("requests_running", "gauge", "Sequences that decode now", "running"),
    ("requests_waiting", "gauge", "Requests that wait for their turn", "waiting"),
    ("cache_tokens", "gauge", "Tokens in the KV cache", "cache_tokens"),
    ("cache_room_tokens", "gauge", "Tokens that the KV cache has room for", "cache_room"),
    ("cache_room_bytes", "gauge", "Bytes that the KV cache takes when it has been full", "cache_bytes"),
    ("prompt_tokens", "counter", "Tokens of prompts, those from the cache included", "prompt_tokens"),
    ("prompt_tokens_cached", "counter", "Tokens of prompts that were in the cache already", "cached_prompt_tokens"),
    ("generated_tokens", "counter", "Tokens generated", "generated_tokens"),
    ("decoding_steps", "counter", "Steps of the engine", "steps"),
    ("preemptions", "counter", "Sequences that had to make room for others", "preempted"),
)
"""Name, type, meaning, and which of `LiveStats` it is."""


class Metrics:
    """What one server has done so far."""

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "arriero_http_requests", "Requests answered", ("method", "route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "arriero_http_request_seconds",
            "From a request's arrival to its answer's end",
            ("method", "route"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "arriero_time_to_first_token_seconds",
            "From a request's arrival to the first token of its answer",
            ("model",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.registry.register(EngineStats(service))


class EngineStats(Collector):
    """What the engines count, by model."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """Read the counts."""
        counts = {name: live.stats() for name, live in self._service.models.items()}
        for name, kind, meaning, attribute in _ENGINE:
            family = (CounterMetricFamily if kind == "counter" else GaugeMetricFamily)(
                f"arriero_{name}", meaning, labels=("model",)
            )
            for model, stats in counts.items():
                family.add_metric((model,), float(getattr(stats, attribute)))
            yield family


def measure(app: FastAPI, service: Service) -> None:
    """Count an app's requests, also those that its other middleware refuses: call it after that was added."""
    app.state.metrics = Metrics(service)
    app.add_middleware(Measured, metrics=app.state.metrics)


class Measured:
    """Counts requests and their seconds; plain ASGI, so that streams pass through as they come."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), "aborted"

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        finally:
            route = scope.get("route")  # the router's, once it has found one
            path = "unmatched" if route is None else str(route.path)
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.requests.labels(method, path, status).inc()
            self._metrics.seconds.labels(method, path).observe(time.perf_counter() - begun)


class Health(BaseModel):
    """That the server answers."""

    status: str = "ok"


@router.get("/health")
async def health() -> Health:
    """Whether the server is up; asks for no token and tells nothing else."""
    return Health()


@router.get(
    "/metrics",
    response_class=Response,
    responses=ERRORS | {200: {"content": {"text/plain": {}}, "description": "Prometheus's text format"}},
)
def metrics(request: Request) -> Response:
    """All counts, for Prometheus."""
    return Response(generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST)
