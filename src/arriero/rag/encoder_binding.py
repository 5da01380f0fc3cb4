"""A collection and its encoder belong together: which one it is, where it was found, and the refusal of any other.

The store keeps the encoder's fingerprint, its name, and a hint where to look for it: a name that `arriero model get`
knows, or the folder's path from the collection, which holds when both are moved together.
"""

import os
from pathlib import Path

from arriero.common.errors import ArrieroError, NotFoundError
from arriero.rag.contracts import TextEncoder
from arriero.rag.store import Store


def bind_encoder(
    store: Store | None,
    folder: Path,
    asked: TextEncoder | str | Path | None,
    device: str,
    query_encoder: Path | None = None,
) -> TextEncoder:
    """Open the encoder of a collection; the first one is noted in its store.

    Args:
        store: the collection's, or None where there is none yet.
        folder: the collection's.
        asked: an encoder, its folder or its name; None takes the collection's own, or the default.
        device: where it runs.
        query_encoder: folder of a query side that was trained for the encoder's passages.

    Raises:
        ArrieroError: another encoder than the stored vectors come from, or than the query side was trained for; both
            are named.
        NotFoundError: the encoder is not where it was.
    """
    from arriero.model.source import DEFAULT_ENCODER  # these bring torch, which listing and removing do without
    from arriero.rag.encoder import Encoder, load_encoder, load_query_encoder

    if asked is None:
        asked = _recall(store, folder) or DEFAULT_ENCODER
    encoder = load_encoder(asked, device=device) if isinstance(asked, str | Path) else asked
    if store is not None:
        _check_fingerprint(store, folder, asked, encoder)
    if query_encoder is None:
        return encoder
    if not isinstance(encoder, Encoder):
        raise ArrieroError(f"the query encoder {query_encoder} needs an encoder of a folder, not '{encoder.name}'")
    return load_query_encoder(query_encoder, encoder)


def encoder_settings(asked: TextEncoder | str | Path, encoder: TextEncoder, folder: Path) -> dict[str, str]:
    """What a store keeps of the encoder that its vectors come from."""
    return {
        "encoder_fingerprint": encoder.fingerprint,
        "encoder_name": encoder.name,
        "encoder_hint": _hint(asked, folder),
        "dim": str(encoder.dim),
    }


def _check_fingerprint(store: Store, folder: Path, asked: TextEncoder | str | Path, encoder: TextEncoder) -> None:
    """Note the first encoder of a store, and refuse any other."""
    stored = store.setting("encoder_fingerprint")
    if stored is None:
        store.set_settings(**encoder_settings(asked, encoder, folder))
    elif stored != encoder.fingerprint:
        name = store.setting("encoder_name")
        raise ArrieroError(
            f"the collection in {folder} was made with the encoder '{name}' ({stored[:12]}), not with "
            f"'{encoder.name}' ({encoder.fingerprint[:12]}): open it with '{name}', or make another collection"
        )


def _hint(asked: TextEncoder | str | Path, folder: Path) -> str:
    if isinstance(asked, str | Path) and Path(asked).is_dir():
        return "./" + os.path.relpath(Path(asked).resolve(), folder.resolve())
    return asked if isinstance(asked, str) else ""


def _recall(store: Store | None, folder: Path) -> str | Path | None:
    """Where the collection's encoder was found; None where it has none yet."""
    hint = None if store is None else store.setting("encoder_hint")
    if store is None or hint is None:
        return None
    if hint and not hint.startswith("./"):
        return hint
    place = Path(os.path.normpath(folder.resolve() / hint))
    if not hint or not place.is_dir():
        name = store.setting("encoder_name")
        raise NotFoundError(f"the collection in {folder} needs its encoder '{name}': give the encoder's folder")
    return place
