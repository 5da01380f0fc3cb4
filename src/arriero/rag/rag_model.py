"""A trained RAG model as a folder: which of the two models it is, its generator, its side of the retriever.

    rag.json          kind, k, scale, and what the parts are
    generator/        a PEFT adapter, a model in Hugging Face's format, or an encoder-decoder of transformers
    query_encoder/    the query side, for the passages that it was trained for; or
    encoder/          both sides, where passages were encoded anew

The documents are not part of it: the same model answers from any collection of its passage encoder. All paths inside
are relative, so the folder may be moved.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from arriero.common.errors import ArrieroError, FormatError, NotFoundError
from arriero.common.files import atomic_file
from arriero.rag.decoding_config import RagKind
from arriero.rag.generator import Generator
from arriero.rag.generators import load_generator

MANIFEST = "rag.json"
GENERATOR, QUERY_ENCODER, ENCODER = "generator", "query_encoder", "encoder"
_FORMAT = {"format": "arriero-rag", "version": 1}


@dataclass(frozen=True, kw_only=True)
class RagModel:
    """What answers questions from a collection."""

    name: str
    kind: RagKind
    k: int
    """Documents of each question that it was trained with."""
    scale: float
    """Length of its query vectors, for p(z|x)."""
    generator: Generator
    query_encoder: Path | None
    """Folder of its query side, where that was trained."""
    encoder: Path | None
    """Folder of both sides, where passages were encoded anew."""


def write_manifest(
    folder: Path,
    *,
    kind: RagKind,
    k: int,
    scale: float,
    base: str | None,
    sides: Literal["none", "query", "both"],
    place: Path | None = None,
) -> None:
    """Write `rag.json`, last: a folder without it is not whole.

    Args:
        base: the source of the model that the generator is an adapter for; None: the generator is a whole model.
        sides: which of the encoder's sides were trained.
        place: where the folder will lie, if not where it is.
    """
    if base is not None and Path(base).exists():
        base = "./" + os.path.relpath(Path(base).resolve(), (place or folder).resolve())
    facts = {**_FORMAT, "kind": kind, "k": k, "scale": scale, "base": base, "sides": sides}
    with atomic_file(folder / MANIFEST) as aside:
        aside.write_text(json.dumps(facts, indent=2), encoding="utf-8")


def load_rag(folder: Path, *, kind: RagKind | None = None, model: str | None = None, device: str = "auto") -> RagModel:
    """Load a trained RAG model.

    Args:
        folder: as `arriero rag train` writes it.
        kind: which of the two models is asked for; by default what it is.
        model: the base of its generator, where that is no longer where it was.
        device: where it runs.

    Raises:
        NotFoundError: there is no such folder, or its base is not where it was.
        FormatError: it is damaged.
        ArrieroError: it is the other one of the two models; the message names both.
    """
    facts = _read_manifest(folder)
    if kind is not None and kind != facts["kind"]:
        trained, asked = (f"RAG-{name.capitalize()}" for name in (facts["kind"], kind))
        raise ArrieroError(f"{folder} was trained as {trained}, not as {asked}: leave --mode out, or train another one")
    if facts["base"] is None:
        generator = load_generator(str(folder / GENERATOR), device=device)
    else:
        base = _find_base(folder, facts["base"], model)
        generator = load_generator(base, adapter=folder / GENERATOR, device=device)
    return RagModel(
        name=folder.resolve().name,
        kind=facts["kind"],
        k=facts["k"],
        scale=facts["scale"],
        generator=generator,
        query_encoder=folder / QUERY_ENCODER if facts["sides"] == "query" else None,
        encoder=folder / ENCODER if facts["sides"] == "both" else None,
    )


def _find_base(folder: Path, base: str, given: str | None) -> str:
    if given is not None or not base.startswith("./"):
        return given or base
    place = Path(os.path.normpath(folder.resolve() / base))
    if not place.exists():
        raise NotFoundError(f"{folder} needs the model that it was trained over, once at {place}: give it as --model")
    return str(place)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise NotFoundError(f"no RAG model in {folder}: expected {MANIFEST}, as `arriero rag train` writes it")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        right = (
            all(facts[key] == value for key, value in _FORMAT.items())
            and facts["kind"] in ("sequence", "token")
            and facts["sides"] in ("none", "query", "both")
            and isinstance(facts["k"], int)
            and facts["k"] >= 1
            and isinstance(facts["base"], str | None)
        )
        facts["scale"] = float(facts["scale"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise FormatError(f"{path} is damaged ({str(error).splitlines()[0]})") from error
    if not right:
        raise FormatError(f"{path}: expected {_FORMAT} with kind, k, scale, base and sides")
    found: dict[str, Any] = facts
    return found
