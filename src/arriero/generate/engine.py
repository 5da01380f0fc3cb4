"""The one generation engine: chat, evaluation, rollouts and RAG decoding all go through it.

Requests with different prompts and settings decode together over pages of one KV cache; as one row ends, the next
begins; equal prompts are read once for all rows that continue them, and equal beginnings where one has been read.
A request's tokens depend on its prompt, settings and seed alone, up to the rounding by which matrix products differ
between batch sizes. `scheduler.py` says how; `live.py` serves requests that come at any time.

Memory: the cache holds pages of 16 tokens, `Engine.token_bytes` each, for what prompts and answers have so far, at most
`max_cache_bytes`.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from arriero.common.device import DTypeName
from arriero.common.errors import ArrieroError
from arriero.generate.defaults import read_defaults
from arriero.generate.limits import check_prompt
from arriero.generate.request import Completion, Delta, FinishReason, Request, TokenLogprob
from arriero.generate.row import Row, open_rows
from arriero.generate.sampling_config import SamplingConfig
from arriero.generate.scheduler import Scheduler
from arriero.generate.seat import pages_of
from arriero.generate.step import cache_dtype
from arriero.model.adapters import Adapters
from arriero.model.packed import Weights
from arriero.model.paged_cache import PAGE
from arriero.model.transformer import Llama
from arriero.tokenizer.tokenizer import Tokenizer

__all__ = ["Completion", "Delta", "Engine", "FinishReason", "Request", "SamplingConfig", "TokenLogprob"]


_STEP_TOKENS = 4096  # of one forward pass: bounds its activations


class Engine:
    """A model and its tokenizer, ready to continue prompts. For one thread at a time."""

    def __init__(
        self,
        model: Llama,
        tokenizer: Tokenizer,
        *,
        context: int | None = None,
        max_batch: int = 16,
        max_cache_bytes: int = 4 * 2**30,
        speculate: int = 0,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        """Wrap a model.

        Args:
            model: its train/eval mode is left as found; while generating it is in eval mode.
            tokenizer: names the default stop tokens and turns tokens into text.
            context: most tokens of prompt and answer together; by default what the model was trained for.
            max_batch: most rows that decode together.
            max_cache_bytes: most bytes of the KV cache; fewer rows run together where it would be exceeded.
            speculate: most tokens to guess ahead from what prompt and answer said before (`lookup.py`); answers stay
                the same, and quotations come faster.
            defaults: how the model wants to be sampled (`defaults.py`): for those who make requests to heed.
        """
        self.model, self.tokenizer = model, tokenizer
        self.context = model.config.max_seq_len if context is None else context
        self.defaults = dict(defaults or {})
        self.max_batch, self.max_cache_bytes, self.speculate = max_batch, max_cache_bytes, speculate
        if max_batch < 1:
            raise ArrieroError(f"max_batch must be at least 1, not {max_batch}")
        if speculate < 0:
            raise ArrieroError(f"speculate must be 0 (off) or above, not {speculate}")

    @classmethod
    def load(
        cls,
        source: str,
        *,
        adapter: Path | None = None,
        device: str = "auto",
        dtype: DTypeName = "auto",
        weights: Weights = "full",
        max_batch: int = 16,
        max_cache_bytes: int = 4 * 2**30,
        speculate: int = 0,
    ) -> "Engine":
        """An engine for a model source: a folder, a .gguf file, a preset, a known name or a hub id.

        Args:
            adapter: a folder in PEFT's format, to be merged into the weights: no token takes longer for it.
            weights: how the matrices are held; int8 and int4 take less memory, and are a little off.
        """
        # they bring the file formats, which an engine itself doesn't need
        from arriero.model.source import load_merged

        loaded = load_merged(source, adapter, device=device, dtype=dtype, weights=weights)
        return cls(
            loaded.model,
            loaded.tokenizer,
            context=loaded.context,
            max_batch=max_batch,
            max_cache_bytes=max_cache_bytes,
            speculate=speculate,
            defaults=read_defaults(loaded.path),
        )

    @property
    def token_bytes(self) -> int:
        """Bytes of KV cache that one token of one row takes."""
        config = self.model.config
        return 2 * config.n_layers * config.n_kv_heads * config.head_dim * cache_dtype(self.model).itemsize

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Continue all requests; returns their completions in order, n for a request with n samples.

        Raises:
            ArrieroError: a prompt is empty, has ids outside the vocabulary, or doesn't fit together with max_tokens.
        """
        rows = self._open(requests, stream=False)
        with closing(self._run(rows)) as steps:
            for _ in steps:
                pass
        return [row.completion() for row in rows]

    def stream(self, request: Request) -> Generator[Delta, None, None]:
        """Continue one request, giving text as it comes; the last delta of each sample carries its completion.

        Closing the iterator frees the rows. Raises as `generate` does, before the first delta is asked for.
        """
        return self._deltas(self._open([request], stream=True))

    def _deltas(self, rows: list[Row]) -> Generator[Delta, None, None]:
        with closing(self._run(rows)) as steps:
            for stepped in steps:
                yield from filter(None, [row.delta() for row in stepped])

    def _run(self, rows: list[Row]) -> Generator[list[Row], None, None]:
        """Decode all rows, those that may take longest first; yields the rows that moved, each step."""
        if not rows:
            return
        rows = sorted(rows, key=lambda row: -row.room)
        pages = sum(pages_of(row.room) for row in rows[: self.max_batch])
        with evaluating(self.model):
            scheduler = self.open_scheduler(min(pages, self.max_pages), _STEP_TOKENS)
            scheduler.add(rows)
            while scheduler.busy:
                yield scheduler.step()

    @property
    def max_pages(self) -> int:
        """Pages of the largest cache allowed."""
        return self.max_cache_bytes // (PAGE * self.token_bytes)

    def open_scheduler(self, pages: int, step_tokens: int) -> Scheduler:
        """A scheduler of this engine's rows, with a cache of so many pages and so many tokens in a step."""
        return Scheduler(
            self.model, pages=pages, max_rows=self.max_batch, step_tokens=step_tokens, speculate=self.speculate
        )

    def _open(self, requests: Sequence[Request], *, stream: bool) -> list[Row]:
        for request in requests:
            self.check(request)
        return [
            row for i, request in enumerate(requests) for row in open_rows(request, i, self.tokenizer, stream=stream)
        ]

    def check(self, request: Request) -> None:
        """Refuse a request that can't be served, as `generate` does.

        Raises:
            ArrieroError: an unknown adapter, ids out of the vocabulary, a prompt too long for the context or the cache.
        """
        prompt, wanted = request.prompt_ids, request.sampling.max_tokens
        if request.adapter is not None:
            Adapters.of(self.model).check(request.adapter)
        check_prompt(prompt, wanted, vocab=self.model.config.vocab_size, context=self.context)
        needed = pages_of(len(prompt) + wanted - 1) * PAGE * self.token_bytes
        if needed > self.max_cache_bytes:
            raise ArrieroError(
                f"the prompt's {len(prompt)} tokens and max_tokens {wanted} need {needed:,} bytes of KV cache, over "
                f"max_cache_bytes {self.max_cache_bytes:,}: raise it, lower max_tokens or shorten the prompt"
            )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, and each module's own mode again afterwards."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
