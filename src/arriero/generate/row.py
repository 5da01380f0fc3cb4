"""One sample in progress: its tokens, its text, and when it ends."""

import dataclasses
import secrets

import torch

from arriero.generate.request import Completion, Delta, FinishReason, Request, TokenLogprob
from arriero.generate.schedule import PromptKey
from arriero.generate.stops import StopText
from arriero.tokenizer.tokenizer import Tokenizer


class Row:
    """A row of the batch. Text is decoded token by token only if a stream or a stop string needs it."""

    def __init__(
        self, request: Request, index: int, sample: int, seed: int, tokenizer: Tokenizer, *, stream: bool
    ) -> None:
        config = request.sampling
        self.request, self.index, self.sample, self.seed = request, index, sample, seed
        self.generator = torch.Generator().manual_seed(seed)
        self.ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.prompt_logprobs: list[TokenLogprob | None] = []
        self.seen: torch.Tensor | None = None
        """The tokens of prompt and answer, where a repetition penalty needs them."""
        self.cached_tokens = 0
        """Of the prompt, found in the cache."""
        self.dropped = False
        """Set it, from any thread, to cancel this row, whatever its request's `cancel` says."""
        self.finish_reason: FinishReason | None = None
        self._tokenizer = tokenizer
        self._stop_ids = tokenizer.stop_ids if config.stop_ids is None else frozenset(config.stop_ids)
        self._decoder = tokenizer.stream() if stream or config.stop else None
        self._stops = StopText(config.stop)
        self._text: list[str] = []
        self._told = 0, 0  # pieces of text and tokens already handed out in deltas

    @property
    def prompt(self) -> list[int]:
        """Token ids of the prompt."""
        return self.request.prompt_ids

    @property
    def key(self) -> PromptKey:
        """What rows must share for one of them to read the prompt for all."""
        return self.request.adapter or "", tuple(self.prompt)

    @property
    def room(self) -> int:
        """Tokens of cache that this row may need: the last token generated is never read."""
        return len(self.prompt) + self.request.sampling.max_tokens - 1

    def push(self, token: int) -> None:
        """Take the next token; sets `finish_reason` if it is the last."""
        self.ids.append(token)
        if token in self._stop_ids:
            self._end("stop")
            return
        if self._decoder is not None:
            self._text.append(self._stops.push(self._decoder.push(token)))
        if self._stops.found:
            self._end("stop")
        elif len(self.ids) >= self.request.sampling.max_tokens:
            self._end("length")

    def note(self, report: TokenLogprob, top: int) -> None:
        """Take the log-probabilities at the next token, of which `top` alternatives were asked for."""
        self.logprobs.append(dataclasses.replace(report, top=report.top[:top]))

    def check_cancelled(self) -> None:
        """End the row if its request was cancelled."""
        cancel = self.request.cancel
        if self.finish_reason is None and (self.dropped or (cancel is not None and cancel.is_set())):
            self._end("cancelled")

    def delta(self) -> Delta | None:
        """What came since the last delta; None if there is nothing to show yet."""
        pieces, tokens = self._told
        text = "".join(self._text[pieces:])
        if not text and self.finish_reason is None:
            return None
        self._told = len(self._text), len(self.ids)
        return Delta(
            request=self.index,
            sample=self.sample,
            text=text,
            ids=tuple(self.ids[tokens:]),
            logprobs=None if self.request.sampling.logprobs is None else tuple(self.logprobs[tokens:]),
            completion=None if self.finish_reason is None else self.completion(),
        )

    def completion(self) -> Completion:
        """The finished sample."""
        assert self.finish_reason is not None, "the row is still running"
        return Completion(
            request=self.index,
            sample=self.sample,
            ids=tuple(self.ids),
            text=self._whole_text(),
            finish_reason=self.finish_reason,
            logprobs=None if self.request.sampling.logprobs is None else tuple(self.logprobs),
            prompt_logprobs=self._all_prompt_logprobs(),
            prompt_tokens=len(self.prompt),
            cached_tokens=self.cached_tokens,
            seed=self.seed,
        )

    def _all_prompt_logprobs(self) -> tuple[TokenLogprob | None, ...] | None:
        whole = len(self.prompt_logprobs) == len(self.prompt)
        return tuple(self.prompt_logprobs) if whole and self.request.prompt_logprobs is not None else None

    def _end(self, reason: FinishReason) -> None:
        if self._decoder is not None:
            self._text.append(self._stops.push(self._decoder.flush()))
            self._text.append(self._stops.flush())
            if self._stops.found:  # completed by the last half-decoded characters
                reason = "stop"
        self.finish_reason = reason

    def _whole_text(self) -> str:
        if self._decoder is not None:
            return "".join(self._text)
        shown = self.ids[:-1] if self.ids and self.ids[-1] in self._stop_ids else self.ids
        return self._tokenizer.decode(shown)


def open_rows(request: Request, index: int, tokenizer: Tokenizer, *, stream: bool) -> list[Row]:
    """The n rows of a request; sample i has seed + i."""
    seed = request.sampling.seed
    first = secrets.randbits(31) if seed is None else seed
    return [
        Row(request, index, sample, first + sample, tokenizer, stream=stream) for sample in range(request.sampling.n)
    ]
