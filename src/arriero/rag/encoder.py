"""Encoders of the retriever: d(z) for passages, q(x) for queries (Lewis et al. 2020, arXiv 2005.11401, section 2.2).

Both sides may share one tower (sentence-transformers) or have their own (DPR); they are never mixed. A query tower that
was trained further, while the passages' vectors stayed what they were, belongs to the encoder of those passages.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from arriero.common.errors import ArrieroError, FormatError, NotFoundError
from arriero.rag.contracts import Advance, Vectors
from arriero.rag.encoder_folder import Tower, fingerprint, read_passages_note, read_tower
from arriero.rag.tower import TowerModel

UNIT_SCALE = 20.0
"""Where vectors have length 1, inner products lie so near each other that their softmax tells no document from another:
such encoders are trained with products times 20, and are made for that (sentence-transformers' losses)."""


class Encoder:
    """A pair of towers, whose weights are read when the first text comes."""

    def __init__(
        self, query: Tower, passage: Tower, *, name: str, device: str = "auto", identity: str | None = None
    ) -> None:
        """Two sides.

        Args:
            query, passage: equal where they share one tower.
            name: what messages call it.
            device: where it runs.
            identity: the fingerprint of the encoder whose passages these queries find; by default its own.
        """
        if query.dim != passage.dim:
            raise FormatError(f"{name}: queries have {query.dim} dimensions and passages {passage.dim}: expected equal")
        self.name = name
        self.dim = passage.dim
        self.fingerprint = identity or fingerprint(query, passage)
        self.device = device
        self.query = TowerModel(query, device)
        self.passage = self.query if query == passage else TowerModel(passage, device)

    @property
    def scale(self) -> float:
        """Length that queries are given for p(z|x): 1, as the paper has it; `UNIT_SCALE` for vectors of length 1."""
        return UNIT_SCALE if self.query.tower.normalise else 1.0

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """q(x) of each text: (N, dim), fp32."""
        return self.query.encode(texts, self.query.tower.query_prompt)

    def encode_passages(self, texts: Sequence[str], advance: Advance | None = None) -> Vectors:
        """d(z) of each text: (N, dim), fp32."""
        return self.passage.encode(texts, self.passage.tower.passage_prompt, advance)


def load_encoder(source: str | Path, *, query_source: str | Path | None = None, device: str = "auto") -> Encoder:
    """Open an encoder: a folder, or a name that `arriero model get` knows.

    Args:
        source: folder or name of the encoder, or of its passage side. A folder with `question_encoder/` and
            `ctx_encoder/` inside holds both sides of a DPR pair.
        query_source: the query side, where it lies apart.
        device: where it runs.

    Raises:
        NotFoundError: there is no such folder or name.
        FormatError: the folder is no encoder that is supported.
    """
    folder = _find(source)
    name = str(source) if not Path(source).is_dir() else folder.resolve().name
    if (folder / "ctx_encoder").is_dir() and (folder / "question_encoder").is_dir():
        query, passage = read_tower(folder / "question_encoder"), read_tower(folder / "ctx_encoder")
    else:
        passage = read_tower(folder)
        query = passage if query_source is None else read_tower(_find(query_source))
    if (query.kind == "dpr" and query.prefix.startswith("ctx")) or passage.prefix.startswith("question"):
        raise FormatError(
            f"{folder} is one side of a DPR pair: give a folder with question_encoder/ and ctx_encoder/ inside, "
            "or the passage side with the query side beside it"
        )
    return Encoder(query, passage, name=name, device=device)


def load_query_encoder(folder: str | Path, over: Encoder) -> Encoder:
    """An encoder whose query side was trained on, with the passage side and the fingerprint of `over`.

    The vectors of passages stay what they were, and so does an index of them.

    Raises:
        NotFoundError: there is no such folder.
        ArrieroError: it is no query encoder that was trained here, or one for the passages of another encoder.
    """
    tower, (fingerprint, name) = read_tower(Path(folder)), read_passages_note(Path(folder))
    if fingerprint != over.fingerprint:
        raise ArrieroError(
            f"the query encoder {folder} was trained for passages of the encoder '{name}' ({fingerprint[:12]}), not of "
            f"'{over.name}' ({over.fingerprint[:12]}): train one for these, or take the collection of those"
        )
    return Encoder(tower, over.passage.tower, name=over.name, device=over.device, identity=over.fingerprint)


def _find(source: str | Path) -> Path:
    if Path(source).is_dir():
        return Path(source)
    if isinstance(source, Path) or os.sep in source:
        raise NotFoundError(f"no encoder folder at {source}")
    from arriero.model.source import resolve  # reads the registry of names; a folder needs none of it

    return resolve(source)
