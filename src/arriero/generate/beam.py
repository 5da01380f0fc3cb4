"""Beam search: the likeliest answer that a bounded breadth finds (Sutskever et al. 2014, arXiv 1409.3215, section 3.2).

A beam's score is its summed log-probability over length^length_penalty, the stop token counted in both (Wu et al. 2016,
arXiv 1609.08144, section 7, without its constant: as `transformers` has it). The search ends when no running beam can
still overtake the worst of the kept answers, by a bound that holds for every length: `transformers`'
`early_stopping="never"`. Like there, a finished candidate counts only if it is among the `beams` best of its step.

Shapes: `B` running beams, `V` vocabulary, `T` prompt tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from arriero.common.errors import ArrieroError
from arriero.generate.limits import check_prompt
from arriero.model.kv_cache import KVCache
from arriero.model.transformer import Llama


@dataclass(frozen=True)
class Beam:
    """One answer found."""

    ids: tuple[int, ...]
    """Generated tokens, the stop token included."""
    logprob: float
    """Summed log-probability of the tokens, in nats."""
    score: float
    """What the answers are ranked by."""


@torch.inference_mode()
def beam_search(
    model: Llama,
    prompt_ids: Sequence[int],
    *,
    beams: int,
    max_tokens: int,
    length_penalty: float = 1.0,
    stop_ids: frozenset[int] = frozenset(),
) -> list[Beam]:
    """The best answers, at most `beams`, best first.

    Args:
        model: in eval mode if it has dropout.
        prompt_ids: at least one token.
        beams: breadth of the search; 1 is greedy decoding.
        max_tokens: an answer that reaches it counts as finished.
        length_penalty: above 0 favours long answers, below 0 short ones.
        stop_ids: tokens that finish an answer.

    Raises:
        ArrieroError: an empty prompt, a breadth or length below 1, or a prompt that doesn't fit the context.
    """
    if beams < 1 or max_tokens < 1:
        raise ArrieroError(f"beams and max_tokens must be at least 1, not {beams} and {max_tokens}")
    check_prompt(prompt_ids, max_tokens, vocab=model.config.vocab_size, context=model.config.max_seq_len)
    weight = model.tok_embeddings.weight
    room = len(prompt_ids) + max_tokens
    cache = KVCache(model.config, 1, room, dtype=weight.dtype, device=weight.device)
    tokens = torch.tensor([list(prompt_ids)], device=weight.device)  # (1, T)
    running = [Beam((), 0.0, 0.0)]
    finished: list[Beam] = []
    for length in range(1, max_tokens + 1):
        logits = model.output(model.hidden(tokens, cache=cache)[:, -1])  # (B, V)
        ended, going = _extend(running, logits, beams, stop_ids, length**length_penalty, last=length == max_tokens)
        finished = sorted(finished + ended, key=lambda beam: -beam.score)[:beams]
        running = [beam for _, beam in going]
        if not running or (
            len(finished) == beams and _bound(running, length, max_tokens, length_penalty) <= finished[-1].score
        ):
            break
        parents = [parent for parent, _ in going]
        if parents != list(range(cache.batch)):
            cache = cache.select(parents)
        tokens = torch.tensor([[beam.ids[-1]] for beam in running], device=weight.device)  # (B, 1)
    return finished


def _extend(
    running: list[Beam], logits: Tensor, beams: int, stop_ids: frozenset[int], divisor: float, *, last: bool
) -> tuple[list[Beam], list[tuple[int, Beam]]]:
    """The step's finished answers, and the beams that go on with the row they come from, best first.

    logits (B, V). So many candidates are taken that `beams` go on even if every beam's best tokens all end it.
    """
    so_far = torch.tensor([beam.logprob for beam in running], dtype=torch.float64, device=logits.device)  # (B,)
    total = so_far[:, None] + logits.float().log_softmax(-1)  # (B, V) float64
    best = total.flatten().topk(min((1 + max(1, len(stop_ids))) * beams, total.numel()))
    ended: list[Beam] = []
    going: list[tuple[int, Beam]] = []
    for rank, (place, logprob) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True)):
        parent, token = divmod(place, logits.shape[1])
        beam = Beam((*running[parent].ids, token), logprob, logprob / divisor)
        if not last and token not in stop_ids:
            going.append((parent, beam))
        elif rank < beams:
            ended.append(beam)
    return ended, going[:beams]


def _bound(running: list[Beam], length: int, max_tokens: int, length_penalty: float) -> float:
    """The best score that any running beam can still reach: log-probabilities only fall."""
    divisor = max_tokens**length_penalty if length_penalty > 0 else (length + 1) ** length_penalty
    return max(beam.logprob for beam in running) / float(divisor)
