"""Log-likelihoods of tokens by windows no longer than a model's context.

A document within the context is one window. In a longer one each window advances by `stride` tokens and scores these
alone: every token is predicted once, and each but the first window's from at least `context − stride + 1` tokens before
it. A short stride costs context / stride times the work, and comes closer to a context without end.

B windows, T tokens of the longest, C model dim, V vocabulary, N scored tokens.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, islice, pairwise
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from arriero.common.errors import ArrieroError
from arriero.kernels.cross_entropy import CHUNK_BYTES
from arriero.model.transformer import Llama

_T = TypeVar("_T")

AHEAD = 256
"""Windows that are looked at together, to read those of like length in one batch."""


class Window(NamedTuple):
    """A run of tokens, of which the last ones are to be predicted."""

    ids: Sequence[int]
    """At most one more than the context: the last is read by nobody."""
    scored: int
    """So many of the last, at most all but the first."""


class Score(NamedTuple):
    """What a model thinks of a window's scored tokens."""

    logprob: float
    """Their summed log-probability, in nats."""
    greedy: bool
    """Whether each is the likeliest at its place."""


def document_windows(ids: Sequence[int], context: int, stride: int) -> Iterator[Window]:
    """Windows that predict each token of a document but its first.

    Args:
        ids: the document; none or one token give no window.
        context: most tokens that the model reads at a time.
        stride: tokens by which windows advance, 1 to `context`.

    Raises:
        ArrieroError: a context or stride outside its bounds.
    """
    if context < 1 or not 1 <= stride <= context:
        raise ArrieroError(f"stride: expected 1 to the context of {context}, got {stride}")
    done, end = 1, min(len(ids), context + 1)
    while done < end:
        yield Window(ids[max(0, end - context - 1) : end], end - done)
        done, end = end, min(len(ids), end + stride)


def score_windows(model: Llama, windows: Iterable[Window], *, batch_tokens: int = 4096) -> Iterator[Score]:
    """Score windows, in order; those of like length are read together, in batches of about `batch_tokens`.

    The result of a window does not depend on the others, up to rounding.

    Raises:
        ArrieroError: the model gives numbers that are not finite.
    """
    return in_batches(windows, batch_tokens, lambda batch: _score(model, batch))


def in_batches(windows: Iterable[Window], batch_tokens: int, score: Callable[[list[Window]], list[_T]]) -> Iterator[_T]:
    """What `score` makes of each window, in order; it is given windows of like length, about `batch_tokens` in all.

    Raises:
        ArrieroError: `batch_tokens` is below 1.
    """
    if batch_tokens < 1:
        raise ArrieroError(f"batch_tokens: expected at least 1, got {batch_tokens}")
    rest = iter(windows)
    while group := list(islice(rest, AHEAD)):
        scores: dict[int, _T] = {}
        for batch in _by_length(group, batch_tokens):
            scores |= zip(batch, score([group[i] for i in batch]), strict=True)
        yield from (scores[i] for i in range(len(group)))


def _by_length(windows: Sequence[Window], batch_tokens: int) -> Iterator[list[int]]:
    """Places of the windows in batches, the longest first; a batch holds one at least."""
    batch: list[int] = []
    for place in sorted(range(len(windows)), key=lambda i: -len(windows[i].ids)):
        if batch and (len(batch) + 1) * len(windows[batch[0]].ids) > batch_tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


@torch.inference_mode()
def _score(model: Llama, windows: Sequence[Window]) -> list[Score]:
    hidden, targets = read_windows(model, windows)  # (N, C), (N,)
    logprobs, greedy = _predict(model, hidden, targets)  # (N,), (N,)
    ends = accumulate((window.scored for window in windows), initial=0)
    scores = [Score(float(logprobs[a:b].sum()), bool(greedy[a:b].all())) for a, b in pairwise(ends)]
    check_finite(model, (score.logprob for score in scores))
    return scores


def read_windows(model: Llama, windows: Sequence[Window]) -> tuple[Tensor, Tensor]:
    """The hidden states (N, C) that predict the windows' scored tokens, and these tokens, (N,)."""
    device = model.tok_embeddings.weight.device
    lengths = [len(window.ids) - 1 for window in windows]
    longest, scored = max(lengths), [window.scored for window in windows]
    padded = [[*window.ids[:-1], *[0] * (longest - length)] for window, length in zip(windows, lengths, strict=True)]
    tokens = torch.tensor(padded, device=device)  # (B, T)
    last = torch.tensor(lengths, device=device)[:, None] - 1  # (B, 1)
    places = torch.arange(longest, device=device).expand_as(tokens)  # (B, T)
    positions = places.minimum(last)  # (B, T): padding lengthens no row, which dynamic RoPE scaling would feel
    wanted = (places <= last) & (places > last - torch.tensor(scored, device=device)[:, None])  # (B, T)
    targets = torch.tensor([i for w in windows for i in w.ids[len(w.ids) - w.scored :]], device=device)  # (N,)
    return model.hidden(tokens, positions=positions)[wanted], targets


def predict_chunks(model: Llama, hidden: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Log-probabilities (n, V), fp32, of what follows hidden states (N, C), a part at a time, with the part's place."""
    rows = max(1, CHUNK_BYTES // (4 * model.config.vocab_size))
    for start in range(0, len(hidden), rows):
        part = slice(start, start + rows)
        logits: Tensor = model.output(hidden[part])
        yield part, logits.float().log_softmax(-1)


def check_finite(model: Llama, logprobs: Iterable[float]) -> None:
    """Raises ArrieroError where a model's log-probabilities are no finite numbers."""
    if not all(map(math.isfinite, logprobs)):
        raise ArrieroError(
            "the model's log-probabilities are no finite numbers: its weights are damaged, or too large for "
            f"{str(model.tok_embeddings.weight.dtype).removeprefix('torch.')} (try --dtype float32)"
        )


def _predict(model: Llama, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each target, float64, and whether it is the likeliest, (N,); logits for a chunk at a time."""
    logprobs = torch.empty(len(targets), dtype=torch.float64, device=hidden.device)  # (N,): long sums follow
    greedy = torch.empty(len(targets), dtype=torch.bool, device=hidden.device)  # (N,)
    for part, chunk in predict_chunks(model, hidden):  # (n, V)
        logprobs[part] = chunk.gather(1, targets[part, None])[:, 0].double()
        greedy[part] = chunk.argmax(-1) == targets[part]
    return logprobs, greedy
