"""Server-sent events as OpenAI sends them: `data: {chunk}` each, `data: [DONE]` at the end."""

import json
import threading
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from arriero.serve.errors import as_api_error, error_body
from arriero.serve.running import ended_by
from arriero.serve.security import log_defect

DONE = "data: [DONE]\n\n"

STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole, or with `stream` its chunks.", "content": {"text/event-stream": {}}}
}
"""For the `responses` of a route that may stream."""


class EventStream(StreamingResponse):
    """Chunks as they come. When it ends, or its client leaves, what makes them is cancelled."""

    def __init__(self, chunks: AsyncIterator[BaseModel], cancel: threading.Event) -> None:
        """`cancel` is set at the end, even if the stream never begins."""
        super().__init__(
            _events(chunks),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},  # a proxy must not hold tokens back
        )
        self._cancel = cancel

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        with ended_by(self._cancel):
            await super().__call__(scope, receive, send)


async def _events(chunks: AsyncIterator[BaseModel]) -> AsyncIterator[str]:
    """What goes over the wire. The status is sent by then, so an error is an event too, and the last."""
    try:
        async for chunk in chunks:
            yield f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n"
    except Exception as error:
        told = as_api_error(error)
        yield f"data: {json.dumps(error_body(told.status, told.message, told.param, told.code))}\n\n"
        if told.status == 500:
            log_defect("a stream", error)
        return
    yield DONE
