"""`/api/runs`: training runs as they go, their diaries' rows, and their reports.

A run is a subfolder of the runs' folder with a diary, `metrics.jsonl`. What leads out of that folder, by its name or by
a link, does not exist here. A diary may be written while it is read: half a line at its end waits for the next time.
"""

import json
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from arriero.common.errors import BusyError, NotFoundError
from arriero.report.page import render
from arriero.report.run import Run, glance, named, read_run
from arriero.report.summary import summarise
from arriero.serve.errors import ERRORS, ApiError
from arriero.serve.service import Service
from arriero.train.run_log import METRICS_NAME

router = APIRouter(prefix="/api/runs", tags=["runs"], responses=ERRORS)

RunKind = Literal["pretrain", "sft", "reward", "ppo", "retriever", "rag"]

_MOST_RUNS = 1000
_MOST_BYTES = 4 * 2**20
"""Of a diary, in one answer."""
_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'"
)
"""Of a report, should a browser open it by itself: no script, an origin of its own, and no network."""
_PATIENCE_S = 30.0
_drawing = threading.Lock()
"""One report is drawn at a time: it takes seconds of a core, and matplotlib is no friend of threads."""


class RunInfo(BaseModel):
    """A run."""

    name: str
    kind: RunKind
    step: int
    steps: int | None
    """That it is to have."""
    loss: float | None
    """Mean of the last steps."""
    updated: str
    """UTC, ISO 8601."""
    finished: bool
    state: str
    """not begun, in progress, finished, stopped early, interrupted, or out of time."""


class RunRows(BaseModel):
    """Rows of a run's diary."""

    rows: list[dict[str, Any]]
    next: int
    """What to ask for next, as `after`."""
    restarted: bool
    """Whether these are the first rows, though later ones were asked for: the diary was cut when the run resumed."""


@router.get("")
def list_runs(request: Request) -> list[RunInfo]:
    """All runs, the last to be written first; of more than 1,000, those."""
    root = _service(request).runs
    found = []
    for path in root.iterdir() if root.is_dir() else ():
        with suppress(OSError):  # it went meanwhile, or is another user's
            if _find(root, path.name) is not None:
                found.append(((path / METRICS_NAME).stat().st_mtime, path))
    listed = []
    for updated, path in sorted(found, key=lambda entry: (-entry[0], entry[1]))[:_MOST_RUNS]:
        with suppress(OSError):
            listed.append(_describe(path, updated))
    return listed


@router.get("/{name}/metrics", response_model=RunRows)
def show_metrics(name: str, request: Request, after: Annotated[int, Query(ge=0, lt=2**63)] = 0) -> Response:
    """Rows of a run's diary behind those that were told: `after` is the last answer's `next`, 0 for the first rows."""
    diary = _run(request, name) / METRICS_NAME
    with _readable(name), diary.open("rb") as file:
        file.seek(min(max(0, after - 1), os.fstat(file.fileno()).st_size))
        begins = after == 0 or file.read(1) == b"\n"  # else the diary is another one, or was cut
        start = file.seek(after if begins else 0)
        lines = file.readlines(_MOST_BYTES)
    whole = [line for line in lines if line.endswith(b"\n")]
    rows = [row for line in whole if (row := _parse(line)) is not None]
    told = {"rows": rows, "next": start + sum(map(len, whole)), "restarted": start != after}
    return Response(json.dumps(told, allow_nan=False), media_type="application/json")


@router.get(
    "/{name}/report",
    response_class=Response,
    responses={200: {"content": {"text/html": {}}, "description": "One page without scripts, which asks for nothing"}},
)
def show_report(name: str, request: Request) -> Response:
    """A run's report, as `arriero report` writes it."""
    folder = _run(request, name)
    if not _drawing.acquire(timeout=_PATIENCE_S):
        raise BusyError("other reports are being drawn: try again in a moment")
    try:
        with _readable(name):
            page = render([read_run(folder)])
    finally:
        _drawing.release()
    headers = {"Content-Security-Policy": _POLICY}
    return Response(page.encode("utf-8", "replace"), media_type="text/html", headers=headers)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _run(request: Request, name: str) -> Path:
    """A run's folder.

    Raises:
        NotFoundError: there is no run of that name.
    """
    folder = _find(_service(request).runs, name)
    if folder is None:
        raise NotFoundError(f"there is no run '{name}': /api/runs lists them")
    return folder


def _find(root: Path, name: str) -> Path | None:
    """The folder of a run; None where there is none, or it or a file of it leads elsewhere."""
    if name.startswith(".") or "/" in name or "\0" in name or not _is_unicode(name):
        return None
    diary, config = root / name / METRICS_NAME, root / name / "config.toml"
    try:
        if not diary.is_file():
            return None
        inside = root.resolve()
        files = [diary, config] if os.path.lexists(config) else [diary]
        safe = all(path.is_file() and path.resolve().is_relative_to(inside) for path in files)
    except OSError:  # a name that is too long, a link to itself
        return None
    return root / name if safe else None


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """What the disk says of a run, as an answer."""
    try:
        yield
    except OSError as error:
        raise ApiError(404, f"the run '{name}' cannot be read ({error.strerror})", code="not_found") from error


def _describe(folder: Path, updated: float) -> RunInfo:
    run = glance(folder)
    summary = summarise(run)
    return RunInfo(
        name=folder.name,
        kind=_kind(run),
        step=summary.steps,
        steps=None if math.isnan(summary.total_steps) else int(summary.total_steps),
        loss=summary.loss if math.isfinite(summary.loss) else None,
        updated=datetime.fromtimestamp(updated, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        finished=summary.state in ("finished", "stopped early"),
        state=summary.state,
    )


def _kind(run: Run) -> RunKind:
    """What is trained, by what the run's first line says."""
    start = run.start
    if "rag" in start:
        return "rag"
    if "judged_by" in start:
        return "reward"
    if "prompts" in start:
        return "ppo"
    if "base" not in start:
        return "pretrain"
    return "retriever" if "kind" in named(start, "model") else "sft"


def _parse(line: bytes) -> dict[str, Any] | None:
    """A row of a diary; None for anything else. JSON knows no numbers that are not finite: they become null."""
    try:
        row = json.loads(line.decode("utf-8", "replace"), parse_constant=lambda _: None, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None
