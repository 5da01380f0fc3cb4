"""A wave of rows that decode together over one preallocated cache: read the prompts, then a token a row a step.

Shapes: `B` rows, `T` prompt tokens, `C` model dim, `V` vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from arriero.generate.logprobs import report_logprobs
from arriero.generate.row import Row
from arriero.generate.sampling import Rules, choose, shape_logits
from arriero.generate.schedule import group_prompts
from arriero.model.adapters import Adapters
from arriero.model.kv_cache import KVCache
from arriero.model.transformer import Llama


class Batch:
    """The live rows, their cache and their next logits. Finished rows leave it at once."""

    def __init__(self, model: Llama, rows: Sequence[Row]) -> None:
        weight = model.tok_embeddings.weight
        self.model, self.rows = model, list(rows)
        self.device, self.dtype = weight.device, weight.dtype
        self.rules = Rules.of([row.request.sampling for row in self.rows], self.device)
        self.seen = self._mark_seen() if self.rules.penalised else None  # (B, V) bool

    def run(self) -> Iterator[list[Row]]:
        """Decode until every row has finished; yields, each step, the rows that got a token."""
        logits = self._read_prompts()  # (B, V)
        while True:
            tokens = self._choose(logits)  # (B,)
            live = self._push(tokens.tolist())
            yield self.rows
            if not live:
                return
            logits = self._step(tokens, live)

    @torch.inference_mode()
    def _read_prompts(self) -> Tensor:
        """Fill the cache, each distinct prompt read once; returns the logits after each row's prompt (B, V)."""
        config = self.model.config
        room = max(row.room for row in self.rows)
        self.cache = KVCache(config, len(self.rows), room, dtype=self.dtype, device=self.device)
        logits = torch.empty(len(self.rows), config.vocab_size, device=self.device)  # (B, V)
        for group in group_prompts([row.key for row in self.rows]):
            lengths = [len(prompt) for _, prompt in group]
            longest = max(lengths)
            padded = [[*prompt, *[0] * (longest - len(prompt))] for _, prompt in group]
            tokens = torch.tensor(padded, device=self.device)  # (B, T)
            read = KVCache(config, len(group), longest, dtype=self.dtype, device=self.device)
            with self._adapted([adapter for adapter, _ in group]):
                hidden = self.model.hidden(tokens, cache=read, prompt_lengths=lengths)  # (B, T, C)
                last = hidden[torch.arange(len(group)), torch.tensor(lengths) - 1]  # (B, C)
                after = self.model.output(last).float()  # (B, V)
            for source, rows in enumerate(group.values()):
                self.cache.adopt(read, source, rows)
                logits[rows] = after[source]
        return logits

    @torch.inference_mode()
    def _step(self, tokens: Tensor, live: list[int]) -> Tensor:
        """Drop the rows that aren't live, then the logits after each remaining row's new token (B, V)."""
        if len(live) < len(self.rows):
            live = self.cache.keep(live)
            tokens = tokens[live]
            self.rows = [self.rows[row] for row in live]
            self.rules = Rules.of([row.request.sampling for row in self.rows], self.device)
            self.seen = None if self.seen is None else self.seen[live]
        with self._adapted([row.request.adapter for row in self.rows]):
            hidden = self.model.hidden(tokens[:, None], cache=self.cache)  # (B, 1, C)
            logits: Tensor = self.model.output(hidden[:, 0]).float()  # (B, V)
        return logits

    def _adapted(self, adapters: Sequence[str | None]) -> AbstractContextManager[None]:
        """Each row with its own adapter; nothing to do where no request names one."""
        if not any(adapters):
            return nullcontext()
        own = Adapters.of(self.model)
        return own.mixed([adapter or own.active for adapter in adapters])

    @torch.inference_mode()
    def _choose(self, logits: Tensor) -> Tensor:
        """The next token of each row (B,), with its log-probabilities noted where asked for."""
        shaped = shape_logits(logits, self.rules, self.seen)  # (B, V)
        tokens = choose(shaped, self.rules, [row.generator for row in self.rows])  # (B,)
        if self.seen is not None:
            self.seen.scatter_(1, tokens[:, None], True)
        for kind, source in (("model", logits), ("sampler", shaped)):
            asking = [
                i
                for i, row in enumerate(self.rows)
                if row.request.sampling.logprobs is not None and row.request.sampling.logprobs_of == kind
            ]
            if asking:
                self._note_logprobs(asking, source, tokens)
        return tokens

    def _note_logprobs(self, asking: list[int], logits: Tensor, tokens: Tensor) -> None:
        wanted = [self.rows[i].request.sampling.logprobs or 0 for i in asking]
        reports = report_logprobs(logits[asking], tokens[asking], max(wanted))
        for i, count, report in zip(asking, wanted, reports, strict=True):
            self.rows[i].note(report, count)

    def _push(self, tokens: list[int]) -> list[int]:
        """Hand each row its token; returns the places of the rows that go on."""
        for row, token in zip(self.rows, tokens, strict=True):
            row.push(token)
            row.check_cancelled()
        return [i for i, row in enumerate(self.rows) if row.finish_reason is None]

    def _mark_seen(self) -> Tensor:
        seen = torch.zeros(len(self.rows), self.model.config.vocab_size, dtype=torch.bool, device=self.device)
        for i, row in enumerate(self.rows):
            seen[i, row.prompt] = True
        return seen
