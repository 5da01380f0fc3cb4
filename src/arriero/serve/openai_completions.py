"""`POST /v1/completions`: texts and token ids continued as they are, whole or streamed, with the prompt echoed or not.

With `echo`, `logprobs` and token-id prompts, lm-eval's `local-completions` scores a model through it.
"""

import dataclasses
import threading
from collections.abc import AsyncIterator
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import Response

from arriero.generate.request import Completion
from arriero.serve.answerer import Answerer, find_answerer
from arriero.serve.chat_schema import FinishReason
from arriero.serve.completion_logprobs import LogprobWriter
from arriero.serve.completion_schema import (
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    CompletionResponse,
)
from arriero.serve.errors import ERRORS, ApiError
from arriero.serve.heading import make_heading
from arriero.serve.running import Running, watched
from arriero.serve.service import Service
from arriero.serve.streaming import STREAMED, EventStream
from arriero.serve.usage import count_usage

router = APIRouter(prefix="/v1", tags=["openai"], responses=ERRORS)

DEFAULT_TOKENS = 16
"""Of an answer, where the client does not say: as OpenAI has it."""


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One prompt, as text and as the model reads it."""

    text: str
    ids: list[int]


@router.post("/completions", response_model=CompletionResponse, response_model_exclude_unset=True, responses=STREAMED)
async def complete(asked: CompletionRequest, http: Request) -> CompletionResponse | Response:
    """Continue texts; with `stream` the answers come as server-sent events."""
    service: Service = http.app.state.service
    answerer = find_answerer(asked.model, service.models, service.adapters)
    size = sum(map(len, asked.prompts))
    prompts = await to_thread.run_sync(_encode, answerer, asked, limiter=service.reader(size))
    cancel = threading.Event()
    wanted = DEFAULT_TOKENS if asked.max_tokens is None else max(1, asked.max_tokens)
    reported = asked.logprobs
    requests = []
    for prompt in prompts:
        most = answerer.room(prompt.ids, wanted, "prompt")
        sampling = asked.sampling(most, reported, answerer.tokenizer.stop_ids, answerer.defaults)
        requests.append(answerer.request(prompt.ids, sampling, cancel, reported if asked.echo else None))
    first = http.app.state.metrics.first_token.labels(answerer.name).observe
    running = Running.start(answerer.live, requests, cancel, service.settings.request_timeout_s, first)
    heading = make_heading("cmpl", "text_completion", answerer.name, service.settings)
    if asked.stream:
        return EventStream(_chunks(running, answerer, asked, prompts, heading), cancel)
    async with watched(http, cancel):
        rows = await running.completions()
    samples = [(prompt, sample) for prompt, row in zip(prompts, rows, strict=True) for sample in row]
    choices = [_whole(index, asked, answerer, *pair) for index, pair in enumerate(samples)]
    usage = count_usage(_shown(asked, sample) for _, sample in samples)
    return CompletionResponse(**heading, choices=choices, usage=usage)


def _encode(answerer: Answerer, asked: CompletionRequest) -> list[Prompt]:
    tokenizer, vocabulary = answerer.tokenizer, answerer.live.model.config.vocab_size
    prompts = []
    for index, given in enumerate(asked.prompts):
        param = "prompt" if given is asked.prompt else f"prompt[{index}]"
        if isinstance(given, str):
            ids = tokenizer.encode(given)
            if not ids:
                ids = _first_token(tokenizer.bos_id, tokenizer.eos_id, param)
            prompts.append(Prompt(given, ids))
            continue
        if (worst := max(given)) >= vocabulary:
            message = f"{param}: token id {worst} is outside the model's vocabulary of 0 to {vocabulary - 1}"
            raise ApiError(400, message, param, "invalid_value")
        prompts.append(Prompt(tokenizer.decode(given) if asked.echo else "", given))
    return prompts


def _first_token(bos: int | None, eos: int | None, param: str) -> list[int]:
    """What stands for an empty text: a beginning."""
    token = eos if bos is None else bos
    if token is None:
        raise ApiError(400, f"{param}: it is empty, and this model has no token that begins a text", param)
    return [token]


def _shown(asked: CompletionRequest, sample: Completion) -> Completion:
    """Without the token that was generated only because an engine generates one."""
    return dataclasses.replace(sample, ids=(), logprobs=None, text="") if asked.max_tokens == 0 else sample


def _whole(
    index: int, asked: CompletionRequest, answerer: Answerer, prompt: Prompt, sample: Completion
) -> CompletionChoice:
    sample = _shown(asked, sample)
    return CompletionChoice(
        index=index,
        text=(prompt.text if asked.echo else "") + sample.text,
        logprobs=_logprobs(asked, answerer, prompt, sample),
        finish_reason=_reason(asked, sample),
    )


def _logprobs(
    asked: CompletionRequest, answerer: Answerer, prompt: Prompt, sample: Completion
) -> CompletionLogprobs | None:
    if asked.logprobs is None:
        return None
    before = (prompt.ids, sample.prompt_logprobs or ()) if asked.echo else ([], ())
    writer = LogprobWriter(answerer.live.tokenizer)
    return writer.write([*before[0], *sample.ids], [*before[1], *(sample.logprobs or ())])


def _reason(asked: CompletionRequest, sample: Completion) -> FinishReason:
    return "length" if sample.finish_reason == "length" or asked.max_tokens == 0 else "stop"


async def _chunks(
    running: Running,
    answerer: Answerer,
    asked: CompletionRequest,
    prompts: list[Prompt],
    heading: dict[str, Any],
) -> AsyncIterator[CompletionResponse]:
    count = asked.n or 1
    writers = [LogprobWriter(answerer.live.tokenizer) for _ in range(len(prompts) * count)]
    rest = heading | ({"usage": None} if asked.wants_usage else {})
    done: dict[tuple[int, int], Completion] = {}

    def chunk(
        index: int, text: str, logprobs: CompletionLogprobs | None, reason: FinishReason | None
    ) -> CompletionResponse:
        choice = CompletionChoice(index=index, text=text, logprobs=logprobs, finish_reason=reason)
        return CompletionResponse(**rest, choices=[choice])

    if asked.echo:
        for index in range(len(writers)):
            yield chunk(index, prompts[index // count].text, None, None)
    async for at, delta in running.deltas():
        index = at * count + delta.sample
        if asked.max_tokens != 0 and (delta.text or delta.logprobs):
            told = None if delta.logprobs is None else writers[index].write(delta.ids, delta.logprobs)
            yield chunk(index, delta.text, told, None)
        if delta.completion is not None:
            done[at, delta.sample] = delta.completion
            yield chunk(index, "", None, _reason(asked, delta.completion))
    if asked.wants_usage:
        usage = count_usage(_shown(asked, done[key]) for key in sorted(done))
        yield CompletionResponse(**heading, choices=[], usage=usage)
