"""The application: every part's routes, and what holds for all of them."""

from fastapi import FastAPI

from arriero import __version__
from arriero.serve import info, metrics, openai_chat, openai_completions, openai_embeddings, openai_models
from arriero.serve.errors import install_handlers
from arriero.serve.metrics import measure
from arriero.serve.security import secure
from arriero.serve.service import Service

ROUTERS = (
    openai_models.router,
    openai_chat.router,
    openai_completions.router,
    openai_embeddings.router,
    info.router,
    metrics.router,
)


def create_app(service: Service) -> FastAPI:
    """The application over what is loaded; the caller closes the service.

    Its own pages of documentation are off: they load scripts from elsewhere. `/openapi.json` describes it.
    """
    app = FastAPI(title="arriero", version=__version__, docs_url=None, redoc_url=None)
    app.state.service = service
    for router in ROUTERS:
        app.include_router(router)
    install_handlers(app)
    secure(app, service.settings)
    measure(app, service)
    return app
