"""`/api/info`: what the pages need to know about the server."""

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from arriero import __version__
from arriero.serve.errors import ERRORS
from arriero.serve.service import PREFIX, Service

router = APIRouter(prefix="/api", tags=["server"], responses=ERRORS)


class ModelInfo(BaseModel):
    """Something that answers chats."""

    id: str
    kind: Literal["model", "adapter", "collection"]
    context: int
    """Most tokens of prompt and answer together."""
    sampling: dict[str, float] | None = None
    """How the model wants to be sampled; null where it does not say, and for collections, whose answers are greedy."""


class Limits(BaseModel):
    """What the server takes."""

    max_body_bytes: int
    max_upload_bytes: int
    request_timeout_s: float


class Features(BaseModel):
    """What is switched on."""

    preferences: bool
    runs: bool


class Info(BaseModel):
    """The server."""

    version: str
    models: list[ModelInfo]
    default: str
    limits: Limits
    features: Features


@router.get("/info")
async def info(request: Request) -> Info:
    """The server's version, what it serves, its limits."""
    service: Service = request.app.state.service
    service.find_collections()
    settings = service.settings
    return Info(
        version=__version__,
        models=list_models(service),
        default=service.default_model,
        limits=Limits(
            max_body_bytes=settings.max_body_bytes,
            max_upload_bytes=settings.max_upload_bytes,
            request_timeout_s=settings.request_timeout_s,
        ),
        features=Features(preferences=service.preferences is not None, runs=service.runs.is_dir()),
    )


def list_models(service: Service) -> list[ModelInfo]:
    """Base models, the default first, then adapters, then collections."""
    models = dict(service.models)
    default = models[service.default_model].context

    def describe(name: str, kind: Literal["model", "adapter"], model: str) -> ModelInfo:
        live = models[model]
        return ModelInfo(id=name, kind=kind, context=live.context, sampling=live.engine.defaults or None)

    return [
        *(describe(name, "model", name) for name in models),
        *(describe(adapter.name, "adapter", adapter.model) for adapter in list(service.adapters.values())),
        *(ModelInfo(id=PREFIX + name, kind="collection", context=default) for name in list(service.collections)),
    ]
