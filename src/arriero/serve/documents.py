"""`/api/collections` and `/api/jobs`: collections, their documents, uploads, and passages in their pages.

Reading goes on while files are taken in. What becomes of an uploaded file is up to a job that no client must wait for.
"""

import os
import re
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path as FilePath
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from arriero.common.errors import ArrieroError, BusyError
from arriero.rag.collection import Collection
from arriero.rag.sources import place, printable, same_name
from arriero.rag.store import FILE_NAME, DocumentInfo
from arriero.serve.errors import ERRORS, ApiError
from arriero.serve.fields import Asked, Text
from arriero.serve.intake import FileState, kept_folder
from arriero.serve.jobs import Jobs, JobState
from arriero.serve.page_text import find_page
from arriero.serve.service import ServedCollection, Service
from arriero.serve.uploads import FIELD, receive_files

router = APIRouter(prefix="/api", tags=["documents"], responses=ERRORS)

_NAME = re.compile(r"[^\W_](?:[\w .-]{0,58}\w)?")
_WAIT_S = 30.0
"""For files that are being taken in, where something is to be removed."""
_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {FIELD: {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            }
        },
    }
}


class CollectionInfo(BaseModel):
    """A collection."""

    name: str
    documents: int
    passages: int
    error: str | None = None
    """Why it cannot be read; its counts are 0 then."""


class NewCollection(Asked):
    """What to call a collection."""

    name: Text
    """Letters and digits of any script, with blanks, dots, hyphens and underscores in between; 60 at most."""


class DocumentFacts(BaseModel):
    """A document."""

    name: str
    passages: int
    pages: int | None
    """The last one with text; null where the format has none."""
    bytes: int | None
    """Of its file; null where there is none, or it cannot be found."""
    added: str
    """UTC, ISO 8601."""
    metadata: dict[str, str]


class JobId(BaseModel):
    """What to ask `/api/jobs` for."""

    job: str


class JobFileFacts(BaseModel):
    """What became of a file."""

    name: str
    """As it was kept: what is no part of a safe name is left out."""
    state: FileState
    error: str | None


class JobFacts(BaseModel):
    """How far an upload is."""

    state: JobState
    """failed: no file of it was taken in."""
    done: int
    total: int
    share: float
    """Of the work that is done, from 0 to 1."""
    files: list[JobFileFacts]


class PassageInPage(BaseModel):
    """A passage, and where it lies in its page; offsets count code points."""

    document: str
    page: int | None
    section: str | None
    text: str
    page_text: str
    """Without pages, the text around it."""
    start: int
    end: int


@router.get("/collections", response_model_exclude_none=True)
def list_collections(request: Request) -> list[CollectionInfo]:
    """All collections."""
    service = _service(request)
    service.find_collections()
    return [_describe(served) for served in service.collections.values()]


@router.post("/collections", status_code=201, response_model_exclude_none=True)
def make_collection(new: NewCollection, request: Request) -> CollectionInfo:
    """Make an empty collection."""
    service = _service(request)
    name = unicodedata.normalize("NFC", new.name.strip())
    if not _NAME.fullmatch(name) or len(name.encode()) > 200 or printable(name) != name:
        told = "up to 60 letters and digits, with blanks, dots, hyphens and underscores in between"
        raise ApiError(400, f"name: expected {told}", "name", "invalid_value")
    folder = service.settings.collections / name
    taken = any(same_name(known.casefold(), name.casefold()) for known in list(service.collections))
    try:
        if taken:
            raise FileExistsError
        folder.mkdir(parents=True)
    except FileExistsError:
        raise ApiError(409, f"there is a collection '{name}' already", "name", "exists") from None
    except OSError as error:
        raise ApiError(507, f"the collection cannot be made ({error.strerror})") from error
    try:
        with Collection.open(folder, service.settings.encoder, device=service.settings.device) as empty:
            empty.add([])  # notes the encoder, so that all who open it take the same
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise ApiError(507, f"the collection cannot be made ({error.strerror})") from error
        raise
    collection = Collection.open(folder, device=service.settings.device)
    served = ServedCollection(name=name, folder=folder, collection=collection)
    _publish(service, name, served)
    return _describe(served)


@router.delete("/collections/{name}", status_code=204)
def delete_collection(name: str, request: Request) -> Response:
    """Delete a collection with its uploaded files. Files that lie elsewhere stay."""
    service = _service(request)
    served = service.collection(name)
    if served.folder.is_symlink() or served.folder.absolute().parent != service.settings.collections.absolute():
        raise ApiError(403, f"the collection '{name}' lies in a folder of yours: delete it there", code="not_ours")
    _publish(service, name, None)  # from now on nobody finds it
    try:
        _jobs(request).cancel(served, _WAIT_S)
        with _alone(served):
            served.collection.close()
            (served.folder / FILE_NAME).unlink(missing_ok=True)  # first: without it the rest is no collection
            shutil.rmtree(served.folder, ignore_errors=True)
    except BusyError:
        _publish(service, name, served)
        raise
    finally:
        service.leaving.discard(name)
    return Response(status_code=204)


@router.get("/collections/{name}/documents")
def list_documents(name: str, request: Request) -> list[DocumentFacts]:
    """All documents of a collection, by name."""
    served = _service(request).collection(name)
    folder = served.folder.resolve()
    return [
        DocumentFacts(
            name=info.name,
            passages=info.passages,
            pages=info.pages,
            bytes=_size(info, folder),
            added=info.added,
            metadata=info.metadata,
        )
        for info in served.collection.list()
    ]


@router.post("/collections/{name}/documents", status_code=202, openapi_extra=_UPLOAD_BODY)
async def add_documents(name: str, request: Request) -> JobId:
    """Upload files: they are received whole, then taken in by a job. One of a known name replaces the earlier one."""
    service, jobs = _service(request), _jobs(request)
    served = service.collection(name)
    try:
        with jobs.receiving(served) as folder:
            kind, most = request.headers.get("content-type", ""), service.settings.max_upload_bytes
            uploads = await receive_files(request.stream(), kind, folder, most_bytes=most)
            if service.collection(name) is not served:
                raise ApiError(404, f"the collection '{name}' was deleted meanwhile", code="not_found")
            job = await run_in_threadpool(jobs.submit, served, folder, uploads)
    except ClientDisconnect:
        raise ApiError(400, "the client left before the end") from None
    except OSError as error:
        raise ApiError(507, f"the files cannot be kept ({error.strerror}): see to the server's disk") from error
    return JobId(job=job.id)


@router.get("/jobs/{job}")
def watch_job(job: str, request: Request) -> JobFacts:
    """How far an upload is, file by file."""
    found = _jobs(request).get(job)
    files = [JobFileFacts(name=file.name, state=file.state, error=file.error) for file in found.files]
    done = sum(file.state != "waiting" for file in found.files)
    return JobFacts(state=found.state, done=done, total=len(files), share=found.share, files=files)


@router.delete("/collections/{name}/documents/{document:path}", status_code=204)
def delete_document(name: str, document: str, request: Request) -> Response:
    """Delete a document by its name, and its file if it was uploaded. A file that lies elsewhere stays."""
    served = _service(request).collection(name)
    with _alone(served):
        # by its very name: what is no name would be taken for a path, and everything below it removed
        info = next((info for info in served.collection.list() if info.name == document), None)
        if info is None:
            raise ApiError(404, f"there is no document '{printable(document)}' in '{name}'", code="not_found")
        try:
            with Collection.open(served.folder, wait_s=_WAIT_S) as writer:
                writer.remove(info.name)
        finally:  # it may be gone though an error says that the index could not be written
            gone = all(known.name != info.name for known in served.collection.list())
            file = None if info.location is None else place(info.location, served.folder)
            if gone and file is not None and file.parent == kept_folder(served).resolve():
                file.unlink(missing_ok=True)
    return Response(status_code=204)


@router.get("/collections/{name}/passages/{number}")
def show_passage(name: str, number: Annotated[int, Path(ge=0, lt=2**63)], request: Request) -> PassageInPage:
    """A passage, with the page that it is cut from."""
    page = find_page(_service(request).collection(name).collection.store, number)
    passage = page.passage
    return PassageInPage(
        document=passage.document,
        page=passage.page,
        section=passage.section,
        text=passage.text,
        page_text=page.text,
        start=page.start,
        end=page.end,
    )


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _publish(service: Service, name: str, served: ServedCollection | None) -> None:
    """Let all find a collection, or nobody."""
    with service.shelving:
        if served is None and name not in service.collections:
            raise ApiError(404, f"there is no collection '{name}' any more", code="not_found")
        if served is None:
            service.leaving.add(name)
        others = {known: each for known, each in service.collections.items() if known != name}
        service.collections = others if served is None else others | {name: served}


def _jobs(request: Request) -> Jobs:
    jobs: Jobs = request.app.state.jobs
    return jobs


def _describe(served: ServedCollection) -> CollectionInfo:
    try:
        store = served.collection.store
        documents, passages = store.document_count(), store.passage_count()
    except ArrieroError as error:  # one that is damaged hides no others
        return CollectionInfo(name=served.name, documents=0, passages=0, error=served.without_folder(str(error)))
    return CollectionInfo(name=served.name, documents=documents, passages=passages)


def _size(info: DocumentInfo, folder: FilePath) -> int | None:
    """Bytes of a document's file, where it still is."""
    if info.location is None:
        return None
    try:
        return (folder / os.fsdecode(info.location)).stat().st_size
    except OSError:
        return None


@contextmanager
def _alone(served: ServedCollection) -> Iterator[None]:
    """Hold a collection's lock.

    Raises:
        BusyError: files are being taken in, and it takes long.
    """
    if not served.lock.acquire(timeout=_WAIT_S):
        raise BusyError(f"files are being taken in by '{served.name}': try again in a moment")
    try:
        yield
    finally:
        served.lock.release()
