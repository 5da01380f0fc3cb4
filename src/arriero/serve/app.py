"""The application: every part's routes, and what holds for all of them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool

from arriero import __version__
from arriero.serve import (
    documents,
    info,
    metrics,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_models,
    pages,
    preferences,
    runs,
)
from arriero.serve.errors import install_handlers
from arriero.serve.jobs import Jobs
from arriero.serve.metrics import measure
from arriero.serve.security import secure
from arriero.serve.service import Service

ROUTERS = (
    openai_models.router,
    openai_chat.router,
    openai_completions.router,
    openai_embeddings.router,
    documents.router,
    preferences.router,
    runs.router,
    info.router,
    metrics.router,
    pages.router,
)


def create_app(service: Service) -> FastAPI:
    """The application over what is loaded; the caller closes the service.

    Its own pages of documentation are off: they load scripts from elsewhere. `/openapi.json` describes it.
    """
    jobs = Jobs()
    for served in service.collections.values():
        jobs.resume(served)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(jobs.close, service.settings.patience_s)

    app = FastAPI(title="arriero", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.service, app.state.jobs = service, jobs
    for router in ROUTERS:
        app.include_router(router)
    install_handlers(app)
    secure(app, service.settings)
    measure(app, service)
    return app
