"""What every response begins with."""

import secrets
import time
from typing import Any

from arriero import __version__
from arriero.serve.settings import ServeSettings


def make_heading(prefix: str, kind: str, model: str, settings: ServeSettings) -> dict[str, Any]:
    """id, object, created (seconds since 1970), model, and the fingerprint: equal where the same seed means the same.

    Args:
        prefix: of the id, such as `chatcmpl`.
        kind: the object.
        model: as the client called it.
        settings: the server's.
    """
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": f"arriero-{__version__}-{settings.weights}-{settings.dtype}",
    }
