"""One forward pass of everything that decodes: new tokens of many rows, flat, over one paged cache.

Rows that take their next token, chunks of prompts and guesses at answers are all spans of the same pass. It runs in
compiled code where the model's matrices are packed on a CPU and no adapter is on; else in PyTorch. Rows that name an
adapter leave the others in compiled code.

N tokens, R tokens whose logits are wanted, C model dim, V vocabulary.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from arriero.model.adapters import Adapters
from arriero.model.native import CACHE_DTYPE, native_of
from arriero.model.paged_cache import PagedCache, Span
from arriero.model.transformer import Llama

__all__ = ["Span", "cache_dtype", "step"]


def cache_dtype(model: Llama) -> torch.dtype:
    """What a model's keys and values are kept in."""
    dtype: torch.dtype = model.tok_embeddings.weight.dtype
    return dtype if native_of(model) is None else CACHE_DTYPE


@torch.inference_mode()
def step(model: Llama, cache: PagedCache, spans: Sequence[Span]) -> Tensor:
    """Put the spans' tokens into the cache; returns the logits that they want, in their order: (R, V) fp32."""
    compiled = native_of(model) if cache.k.dtype == CACHE_DTYPE else None
    bare = [span for span in spans if not span.adapter]
    if compiled is None or not bare:
        return _step_in_pytorch(model, cache, spans)
    if len(bare) == len(spans):
        return compiled.step(cache, spans)
    adapted = [span for span in spans if span.adapter]
    logits = torch.cat((compiled.step(cache, bare), _step_in_pytorch(model, cache, adapted)))  # (R, V)
    parts = torch.split(logits, [span.wanted for span in (*bare, *adapted)])
    of_bare, of_adapted = iter(parts[: len(bare)]), iter(parts[len(bare) :])
    return torch.cat([next(of_adapted if span.adapter else of_bare) for span in spans])  # (R, V)


def _step_in_pytorch(model: Llama, cache: PagedCache, spans: Sequence[Span]) -> Tensor:
    tokens = torch.tensor([token for span in spans for token in span.tokens], device=cache.k.device)  # (N,)
    cache.begin(spans)
    with _adapted(model, spans, [len(span.tokens) for span in spans]):
        hidden = model.hidden(tokens[:, None], cache=cache)[:, 0]  # (N, C)
    wanted = [span.wanted for span in spans]
    with _adapted(model, spans, wanted):
        logits: Tensor = model.output(_pick(hidden, spans)).float()  # (R, V)
    return logits


def _pick(hidden: Tensor, spans: Sequence[Span]) -> Tensor:
    """The hidden states (N, C) of each span's last `wanted` tokens, (R, C)."""
    if all(span.wanted == len(span.tokens) for span in spans):
        return hidden
    picked: list[int] = []
    end = 0
    for span in spans:
        end += len(span.tokens)
        picked += range(end - span.wanted, end)
    return hidden[torch.tensor(picked, device=hidden.device, dtype=torch.long)]


def _adapted(model: Llama, spans: Sequence[Span], counts: Sequence[int]) -> AbstractContextManager[None]:
    """Each token, `counts` of each span, with its row's adapter; nothing to do where no span names one."""
    if not any(span.adapter for span in spans):
        return nullcontext()
    own = Adapters.of(model)
    names = [span.adapter or own.active for span in spans]
    return own.mixed([name for name, count in zip(names, counts, strict=True) for _ in range(count)])
