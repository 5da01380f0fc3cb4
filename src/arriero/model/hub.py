"""Models from the Hugging Face hub, by its own client, cache and settings (`HF_HOME`, `HF_HUB_OFFLINE`, `HF_TOKEN`).

Only weights, configuration and tokenizer are fetched; never code (`.py`), and never pickles (`.bin`, `.pt`), which can
run code when they are loaded.
"""

import re
from pathlib import Path

from arriero.common.errors import ArrieroError, NotFoundError

PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.jinja", "*.txt"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(source: str) -> bool:
    """`owner/name`, and nothing that looks like a path or a file."""
    return _HUB_ID.fullmatch(source) is not None and not source.endswith((".gguf", ".json", ".safetensors"))


def cached_snapshot(repository: str) -> Path | None:
    """The folder of an earlier `fetch_snapshot`; nothing is downloaded."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True, allow_patterns=PATTERNS))
    except LocalEntryNotFoundError:
        return None


def fetch_snapshot(repository: str) -> Path:
    """Download a repository's model files, or complete an earlier download, and return their folder.

    Raises:
        NotFoundError: there is no such repository, or this user may not read it.
        ArrieroError: the hub cannot be reached, or downloads are switched off.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        folder = Path(snapshot_download(repository, allow_patterns=PATTERNS))
    except RepositoryNotFoundError as error:  # gated repositories are a kind of it
        raise NotFoundError(f"the hub has no '{repository}', or it needs `hf auth login`") from error
    except LocalEntryNotFoundError as error:
        reason = "HF_HUB_OFFLINE is set" if _offline() else "the hub cannot be reached"
        raise ArrieroError(f"'{repository}' cannot be fetched: {reason}, and it is not in the hub's cache") from error
    except (HfHubHTTPError, OSError) as error:
        raise ArrieroError(f"'{repository}' cannot be fetched: {str(error).splitlines()[0]}") from error
    if not any(folder.glob("*.safetensors")):
        raise ArrieroError(
            f"'{repository}' holds no .safetensors weights: other kinds can run code on loading and are refused"
        )
    return folder


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
