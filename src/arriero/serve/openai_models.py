"""`/v1/models`: what can be asked, and adapters that come and go while the server runs."""

import time
from typing import Literal

from anyio import to_thread
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from arriero.serve.adapters import load_adapter, unload_adapter
from arriero.serve.errors import ERRORS, ApiError
from arriero.serve.fields import Asked, NonEmpty
from arriero.serve.service import PREFIX, Service

router = APIRouter(prefix="/v1", tags=["openai"], responses=ERRORS)

_STARTED = int(time.time())


class ModelCard(BaseModel):
    """Something that can be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int = _STARTED
    owned_by: str = "arriero"
    parent: str | None
    """The model of an adapter."""
    max_model_len: int
    """Most tokens of prompt and answer together."""


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


def list_models(service: Service) -> list[ModelCard]:
    """Base models, the default first, then adapters, then collections as `arriero:NAME`."""
    service.find_collections()
    models, adapters = dict(service.models), list(service.adapters.values())
    default = service.default_model
    return [
        *(ModelCard(id=name, parent=None, max_model_len=live.context) for name, live in models.items()),
        *(ModelCard(id=a.name, parent=a.model, max_model_len=models[a.model].context) for a in adapters),
        *(
            ModelCard(id=PREFIX + name, parent=default, max_model_len=models[default].context)
            for name in list(service.collections)
        ),
    ]


@router.get("/models")
async def models(http: Request) -> ModelList:
    """Models, adapters and collections."""
    return ModelList(data=list_models(http.app.state.service))


@router.get("/models/{model:path}")
async def model(model: str, http: Request) -> ModelCard:
    """One of them."""
    for card in list_models(http.app.state.service):
        if card.id == model:
            return card
    raise ApiError(404, f"there is no model '{model}': /v1/models lists them", "model", "model_not_found")


class LoadAdapter(Asked):
    """An adapter to load."""

    lora_name: NonEmpty = Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=64)
    lora_path: NonEmpty = Field(description="A folder in PEFT's format, below the folder that the server was given.")


class UnloadAdapter(Asked):
    """An adapter to forget."""

    lora_name: NonEmpty


class Unloaded(BaseModel):
    """What was forgotten."""

    id: str
    deleted: Literal[True] = True


@router.post("/load_lora_adapter")
async def load(asked: LoadAdapter, http: Request) -> ModelCard:
    """Load an adapter; requests name it as their model from then on."""
    service: Service = http.app.state.service
    adapter = await to_thread.run_sync(load_adapter, service, asked.lora_name, asked.lora_path)
    context = service.models[adapter.model].context
    return ModelCard(id=adapter.name, parent=adapter.model, max_model_len=context)


@router.post("/unload_lora_adapter")
async def unload(asked: UnloadAdapter, http: Request) -> Unloaded:
    """Forget an adapter; requests that it is still answering end with an error."""
    service: Service = http.app.state.service
    await to_thread.run_sync(unload_adapter, service, asked.lora_name)
    return Unloaded(id=asked.lora_name)
