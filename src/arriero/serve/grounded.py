"""Chats with a collection of documents: model `arriero:NAME`, or any model and a field that names a collection.

An answer comes sentence by sentence, each with its marker where a passage supports it (`rag/answer.py`). It is worked
out in a thread, for retrieval and grounding compute; the model's tokens come from the same engine as all others'.
"""

import asyncio
import dataclasses
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import torch
from fastapi import Request
from fastapi.responses import Response

from arriero.common.errors import ArrieroError, BusyError, NotFoundError
from arriero.generate.sampling_config import SamplingConfig
from arriero.rag.answer import Answer, stream_answer
from arriero.rag.answer_config import AnswerConfig
from arriero.rag.citations import without_markers
from arriero.rag.encoder import Encoder
from arriero.rag.marginal import document_prior
from arriero.rag.prompt import Turn
from arriero.serve.answerer import Answerer, find_answerer
from arriero.serve.chat_schema import (
    Answered,
    ChatChoice,
    ChatChunk,
    ChatDelta,
    ChatRequest,
    ChatResponse,
    ChunkChoice,
    FinishReason,
    GroundedFields,
    Sources,
)
from arriero.serve.errors import ApiError
from arriero.serve.heading import make_heading
from arriero.serve.running import connected, watched
from arriero.serve.service import PREFIX, ServedCollection, Service
from arriero.serve.streaming import EventStream
from arriero.serve.usage import Usage, make_usage


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked of a collection, and who answers."""

    text: str
    history: tuple[Turn, ...]
    config: AnswerConfig
    served: ServedCollection
    answerer: Answerer


def names_collection(asked: ChatRequest) -> bool:
    """Whether a chat is with a collection."""
    by_name = asked.model is not None and asked.model.startswith(PREFIX)
    return by_name or (asked.arriero is not None and asked.arriero.collection is not None)


@dataclasses.dataclass(frozen=True)
class Grounded:
    """A whole answer, and what it stands on."""

    answer: Answer
    sources: Sources


async def answer_grounded(asked: ChatRequest, http: Request, service: Service) -> ChatResponse | Response:
    """Answer from documents, whole or streamed."""
    question = _read(asked, service)
    cancel = threading.Event()
    pieces = _Pieces(question, cancel, service)
    name = asked.model or f"{PREFIX}{question.served.name}"
    first = http.app.state.metrics.first_token.labels(question.answerer.name)
    if asked.stream:
        async with connected(http, cancel):
            first.observe(await pieces.begin())
        heading = make_heading("chatcmpl", "chat.completion.chunk", name, service.settings)
        return EventStream(_chunks(pieces, asked, heading), cancel)
    async with watched(http, cancel):
        first.observe(await pieces.begin())
        said = [piece async for piece in pieces]
    whole = said[-1]
    assert isinstance(whole, Grounded)
    message = Answered(role="assistant", content=whole.answer.text, refusal=None)
    choice = ChatChoice(index=0, message=message, logprobs=None, finish_reason=_reason(whole.answer))
    heading = make_heading("chatcmpl", "chat.completion", name, service.settings)
    return ChatResponse(**heading, choices=[choice], usage=_usage(whole.answer), arriero=whole.sources)


class _Pieces:
    """An answer's pieces of text from the thread that makes them, and the whole last."""

    def __init__(self, question: Question, cancel: threading.Event, service: Service) -> None:
        self._question, self._cancel, self._service = question, cancel, service
        self._loop = asyncio.get_running_loop()
        self._told: asyncio.Queue[str | Grounded | Exception] = asyncio.Queue()
        self._begun = time.monotonic()
        self._first: str | Grounded | None = None

    async def begin(self) -> float:
        """Wait for the first piece, so that what cannot be answered is refused with a status of its own.

        Returns:
            Seconds that it took.

        Raises:
            BusyError: too many answers are being made.
        """
        if not self._service.questions.acquire(blocking=False):
            raise BusyError("too many questions to documents wait for an answer already: try later")
        self._service.workers.submit(self._work)
        self._first = await self._next()
        return time.monotonic() - self._begun

    async def __aiter__(self) -> AsyncIterator[str | Grounded]:
        assert self._first is not None, "it has not begun"
        piece = self._first
        while not isinstance(piece, Grounded):
            yield piece
            piece = await self._next()
        if piece.answer.finish_reason == "cancelled" and not self._cancel.is_set():
            raise ApiError(503, "the server is stopping: ask again in a moment", code="stopping")
        yield piece

    async def _next(self) -> str | Grounded:
        deadline = self._begun + self._service.settings.request_timeout_s
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                piece = await self._told.get()
        except BaseException:
            self._cancel.set()
            raise
        if isinstance(piece, Exception):
            raise piece
        return piece

    def _work(self) -> None:
        try:
            if not self._cancel.is_set():
                self._answer(self._question)
        except Exception as error:  # it is told to whoever waits for the answer
            if isinstance(error, ArrieroError):
                error.args = (self._question.served.without_folder(str(error)),)
            self._tell(error)
        finally:
            self._service.questions.release()

    def _answer(self, question: Question) -> None:
        pieces = stream_answer(
            question.served.collection,
            question.answerer,
            question.text,
            question.config,
            history=question.history,
            cancel=self._cancel,
        )
        for piece in pieces:
            self._tell(piece if isinstance(piece, str) else Grounded(piece, _sources(piece, question)))

    def _tell(self, piece: str | Grounded | Exception) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has ended
            self._loop.call_soon_threadsafe(self._told.put_nowait, piece)


def _read(asked: ChatRequest, service: Service) -> Question:
    """What is asked.

    Raises:
        ApiError: a field that answers from documents don't have, or messages that are no question.
    """
    fields = asked.arriero or GroundedFields()
    named = asked.model.removeprefix(PREFIX) if asked.model is not None and asked.model.startswith(PREFIX) else None
    if None not in (named, fields.collection) and named != fields.collection:
        raise ApiError(400, f"the model names the collection '{named}': leave this out", "arriero.collection")
    if named is None and fields.model is not None:
        raise ApiError(400, "the model is named twice: leave this out, or ask arriero:NAME", "arriero.model")
    given = {"n": asked.n not in (None, 1), "logprobs": asked.logprobs, "ignore_eos": asked.ignore_eos}
    for name, refused in (given | {"stop_token_ids": asked.stop_token_ids}).items():
        if refused:
            raise ApiError(400, f"{name} is not supported in answers from documents: leave it out", name, "unsupported")
    collection = named if named is not None else fields.collection
    assert collection is not None
    where = "model" if named is not None else "arriero.collection"
    try:
        served = service.collection(collection)
    except NotFoundError as error:
        raise ApiError(404, f"{where}: {error}", where, "model_not_found") from error
    answerer = find_answerer(
        fields.model if named is not None else asked.model,
        service.models,
        service.adapters,
        "arriero.model" if named is not None else "model",
    )
    text, history, instruction = _read_turns(asked)
    return Question(text, history, _config(asked, fields, instruction), served, answerer)


def _read_turns(asked: ChatRequest) -> tuple[str, tuple[Turn, ...], str]:
    """The question, the questions and answers before it, and what a system message asks for."""
    messages = [message.plain() for message in asked.messages]
    begins = 1 if messages[0]["role"] == "system" else 0
    said = [message["content"] for message in messages[begins:]]
    for index, message in enumerate(messages[begins:]):
        expected = "user" if index % 2 == 0 else "assistant"
        if message["role"] != expected:
            reason = f"expected {expected}, got {message['role']}: user and assistant take turns, user first"
            where = f"messages[{index + begins}].role"
            raise ApiError(400, f"{where}: {reason}", where, "invalid_value")
    if len(said) % 2 == 0:
        raise ApiError(400, "messages: the last one must be the user's question", "messages", "invalid_value")
    if not said[-1].strip():
        last = f"messages[{len(messages) - 1}].content"
        raise ApiError(400, f"{last}: the question is empty: expected at least one word", last, "invalid_value")
    turns = tuple(Turn(said[at], without_markers(said[at + 1])) for at in range(0, len(said) - 1, 2))
    return said[-1], turns, messages[0]["content"] if begins else ""


def _config(asked: ChatRequest, fields: GroundedFields, instruction: str) -> AnswerConfig:
    """How to answer; what the client does not say is as `arriero rag ask` has it."""
    default = AnswerConfig(instruction=instruction)
    changed: dict[str, Any] = asked.given_sampling()
    if asked.most_tokens is not None:
        changed["max_tokens"] = asked.most_tokens
    if "stop" in changed:
        changed["stop"] = tuple(dict.fromkeys([*default.sampling.stop, *changed["stop"]]))
    sampling: SamplingConfig = dataclasses.replace(default.sampling, **changed)
    names = ("k", "sentences", "retrieval", "threshold")
    given = {name: value for name in names if (value := getattr(fields, name)) is not None}
    return dataclasses.replace(default, sampling=sampling, **given)


async def _chunks(pieces: _Pieces, asked: ChatRequest, heading: dict[str, Any]) -> AsyncIterator[ChatChunk]:
    rest = heading | ({"usage": None} if asked.wants_usage else {})
    delta = ChatDelta(role="assistant", content="")
    yield ChatChunk(**rest, choices=[ChunkChoice(index=0, delta=delta, logprobs=None, finish_reason=None)])
    async for piece in pieces:
        if isinstance(piece, str):
            delta = ChatDelta(content=piece)
            yield ChatChunk(**rest, choices=[ChunkChoice(index=0, delta=delta, logprobs=None, finish_reason=None)])
            continue
        last = ChunkChoice(index=0, delta=ChatDelta(), logprobs=None, finish_reason=_reason(piece.answer))
        yield ChatChunk(**rest, choices=[last], arriero=piece.sources)
        if asked.wants_usage:
            yield ChatChunk(**heading, choices=[], usage=_usage(piece.answer))


def _reason(answer: Answer) -> FinishReason:
    return "length" if answer.finish_reason == "length" else "stop"


def _usage(answer: Answer) -> Usage:
    return make_usage(answer.prompt_tokens, answer.completion_tokens)


def _sources(answer: Answer, question: Question) -> Sources:
    """Citations, and the passages with p(z|x): the softmax of their inner products with the question."""
    plain = answer.to_dict()
    return Sources(
        collection=question.served.name,
        citations=[citation | {"marker": citation["number"]} for citation in plain["citations"]],
        passages=_with_posterior(plain["passages"], question),
        grounded=answer.grounded,
        refused=answer.refused,
    )


def _with_posterior(passages: list[dict[str, Any]], question: Question) -> list[dict[str, Any]]:
    if not passages:
        return []
    encoder = question.served.collection.encoder
    scale = encoder.scale if isinstance(encoder, Encoder) else 1.0
    products = torch.tensor([[scale * passage["dense"] for passage in passages]])  # (1, k)
    shares = document_prior(products)[0].exp().tolist()  # (k,)
    return [passage | {"posterior": share} for passage, share in zip(passages, shares, strict=True)]
