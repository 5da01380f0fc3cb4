"""`POST /v1/chat/completions`: chats, whole or streamed, by a model, an adapter, or a collection of documents."""

import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import Response

from arriero.common.errors import ArrieroError
from arriero.generate.request import Completion, Delta, TokenLogprob
from arriero.serve.answerer import Answerer, find_answerer
from arriero.serve.chat_schema import (
    Answered,
    ChatChoice,
    ChatChunk,
    ChatDelta,
    ChatLogprob,
    ChatLogprobs,
    ChatRequest,
    ChatResponse,
    ChunkChoice,
    FinishReason,
    TopLogprob,
)
from arriero.serve.errors import ERRORS, ApiError
from arriero.serve.grounded import answer_grounded, names_collection
from arriero.serve.heading import make_heading
from arriero.serve.running import Running, watched
from arriero.serve.service import Service
from arriero.serve.streaming import STREAMED, EventStream
from arriero.serve.usage import count_usage
from arriero.tokenizer.tokenizer import Tokenizer

router = APIRouter(prefix="/v1", tags=["openai"], responses=ERRORS)


@router.post("/chat/completions", response_model=ChatResponse, response_model_exclude_unset=True, responses=STREAMED)
async def chat(asked: ChatRequest, http: Request) -> ChatResponse | Response:
    """Continue a chat; with `stream` the answer comes as server-sent events."""
    service: Service = http.app.state.service
    if names_collection(asked):
        return await answer_grounded(asked, http, service)
    answerer = find_answerer(asked.model, service.models, service.adapters)
    size = sum(len(message.plain()["content"]) for message in asked.messages)
    prompt_ids = await to_thread.run_sync(encode_chat, answerer, asked, limiter=service.reader(size))
    most = answerer.room(prompt_ids, asked.most_tokens, "messages")
    sampling = asked.sampling(most, asked.reported, answerer.tokenizer.stop_ids, answerer.defaults)
    cancel = threading.Event()
    request = answerer.request(prompt_ids, sampling, cancel)
    first = http.app.state.metrics.first_token.labels(answerer.name).observe
    running = Running.start(answerer.live, [request], cancel, service.settings.request_timeout_s, first)
    if asked.stream:
        heading = make_heading("chatcmpl", "chat.completion.chunk", answerer.name, service.settings)
        return EventStream(_chunks(running, answerer, asked, heading), cancel)
    async with watched(http, cancel):
        (samples,) = await running.completions()
    choices = [
        ChatChoice(
            index=sample.sample,
            message=Answered(role="assistant", content=sample.text, refusal=None),
            logprobs=_logprobs(sample.logprobs, answerer.tokenizer),
            finish_reason=_reason(sample),
        )
        for sample in samples
    ]
    heading = make_heading("chatcmpl", "chat.completion", answerer.name, service.settings)
    return ChatResponse(**heading, choices=choices, usage=count_usage(samples))


def encode_chat(answerer: Answerer, asked: ChatRequest) -> list[int]:
    """The prompt's tokens, by the model's own template, in Jinja's sandbox.

    Raises:
        ApiError: the model has no template, or it refuses the messages.
    """
    try:
        return answerer.tokenizer.encode_chat([message.plain() for message in asked.messages])
    except ArrieroError as error:
        raise ApiError(400, str(error), "messages", "invalid_value") from error


async def _chunks(
    running: Running, answerer: Answerer, asked: ChatRequest, heading: dict[str, Any]
) -> AsyncIterator[ChatChunk]:
    done: list[Completion] = []
    rest = heading | ({"usage": None} if asked.wants_usage else {})
    for sample in range(asked.n or 1):
        yield ChatChunk(**rest, choices=[_begin(sample)])
    async for _, delta in running.deltas():
        if delta.text or delta.logprobs:
            yield ChatChunk(**rest, choices=[_continue(delta, answerer.tokenizer)])
        if delta.completion is not None:
            done.append(delta.completion)
            yield ChatChunk(**rest, choices=[end_choice(delta.sample, _reason(delta.completion))])
    if asked.wants_usage:
        yield ChatChunk(**heading, choices=[], usage=count_usage(done))


def _begin(sample: int) -> ChunkChoice:
    return ChunkChoice(index=sample, delta=ChatDelta(role="assistant", content=""), logprobs=None, finish_reason=None)


def _continue(delta: Delta, tokenizer: Tokenizer) -> ChunkChoice:
    return ChunkChoice(
        index=delta.sample,
        delta=ChatDelta(content=delta.text),
        logprobs=_logprobs(delta.logprobs, tokenizer),
        finish_reason=None,
    )


def end_choice(sample: int, reason: FinishReason) -> ChunkChoice:
    """An answer's last part."""
    return ChunkChoice(index=sample, delta=ChatDelta(), logprobs=None, finish_reason=reason)


def _reason(completion: Completion) -> FinishReason:
    return "length" if completion.finish_reason == "length" else "stop"


def _logprobs(items: Sequence[TokenLogprob] | None, tokenizer: Tokenizer) -> ChatLogprobs | None:
    """As OpenAI tells them; tokens that end the answer are none of its text, and are left out."""
    if items is None:
        return None
    content = []
    for item in items:
        if item.id in tokenizer.stop_ids:
            continue
        token, top = tokenizer.token_bytes(item.id), [(tokenizer.token_bytes(i), value) for i, value in item.top]
        content.append(
            ChatLogprob(
                token=token.decode("utf-8", "replace"),
                logprob=item.logprob,
                bytes=list(token),
                top_logprobs=[
                    TopLogprob(token=other.decode("utf-8", "replace"), logprob=value, bytes=list(other))
                    for other, value in top
                ],
            )
        )
    return ChatLogprobs(content=content, refusal=None)
