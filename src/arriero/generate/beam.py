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


class BeamSearch:
    """One search, told after each step what may follow its running beams; whose model it is plays no part."""

    def __init__(self, *, beams: int, max_tokens: int, length_penalty: float, stop_ids: frozenset[int]) -> None:
        """A search before its first token.

        Args:
            beams: breadth of the search; 1 is greedy decoding.
            max_tokens: an answer that reaches it counts as finished.
            length_penalty: above 0 favours long answers, below 0 short ones; 0 ranks by plain log-probability.
            stop_ids: tokens that finish an answer.

        Raises:
            ArrieroError: a breadth or length below 1.
        """
        if beams < 1 or max_tokens < 1:
            raise ArrieroError(f"beams and max_tokens must be at least 1, not {beams} and {max_tokens}")
        self.beams, self.max_tokens, self.length_penalty, self.stop_ids = beams, max_tokens, length_penalty, stop_ids
        self.running = [Beam((), 0.0, 0.0)]
        self.finished: list[Beam] = []
        """The best so far, best first."""

    @property
    def width(self) -> int:
        """Of the tokens after each beam, how many to tell: `beams` go on even if every beam's best tokens end it."""
        return (1 + max(1, len(self.stop_ids))) * self.beams

    def advance(
        self, logprobs: Sequence[Sequence[float]], tokens: Sequence[Sequence[int]]
    ) -> tuple[list[tuple[int, Beam]], list[tuple[int, Beam]]]:
        """Take a step.

        Args:
            logprobs: (B, width) of the likeliest tokens after each running beam, in nats.
            tokens: (B, width) their ids.

        Returns:
            The beams that ended, and those that run on, best first, each with the number of the beam it continues;
            when none runs on, the search is over.
        """
        length = len(self.running[0].ids) + 1
        candidates = sorted(
            (
                (beam.logprob + logprob, parent, token)
                for parent, beam in enumerate(self.running)
                for logprob, token in zip(logprobs[parent], tokens[parent], strict=True)
            ),
            key=lambda candidate: -candidate[0],
        )[: self.width]
        ended: list[tuple[int, Beam]] = []
        going: list[tuple[int, Beam]] = []
        for rank, (logprob, parent, token) in enumerate(candidates):
            beam = Beam((*self.running[parent].ids, token), logprob, logprob / length**self.length_penalty)
            if length < self.max_tokens and token not in self.stop_ids:
                going.append((parent, beam))
            elif rank < self.beams:
                ended.append((parent, beam))
        best = sorted([*self.finished, *(beam for _, beam in ended)], key=lambda beam: -beam.score)
        self.finished = best[: self.beams]
        going = going[: self.beams]
        self.running = [beam for _, beam in going]
        if len(self.finished) == self.beams and self.running and self._bound(length) <= self.finished[-1].score:
            self.running, going = [], []
        return ended, going

    def _bound(self, length: int) -> float:
        """The best score that any running beam can still reach: log-probabilities only fall."""
        penalty = self.length_penalty
        divisor = self.max_tokens**penalty if penalty > 0 else (length + 1) ** penalty
        return max(beam.logprob for beam in self.running) / float(divisor)


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
    """The best answers, at most `beams`, best first; the other arguments are those of `BeamSearch`.

    Args:
        model: in eval mode if it has dropout.
        prompt_ids: at least one token.

    Raises:
        ArrieroError: an empty prompt, a breadth or length below 1, or a prompt that doesn't fit the context.
    """
    search = BeamSearch(beams=beams, max_tokens=max_tokens, length_penalty=length_penalty, stop_ids=stop_ids)
    check_prompt(prompt_ids, max_tokens, vocab=model.config.vocab_size, context=model.config.max_seq_len)
    weight = model.tok_embeddings.weight
    cache = KVCache(model.config, 1, len(prompt_ids) + max_tokens, dtype=weight.dtype, device=weight.device)
    tokens = torch.tensor([list(prompt_ids)], device=weight.device)  # (1, T)
    while True:
        logits = model.output(model.hidden(tokens, cache=cache)[:, -1])  # (B, V)
        likeliest = likeliest_tokens(logits.float().log_softmax(-1), search.width)
        _, going = search.advance(*likeliest)
        if not going:
            return search.finished
        parents = [parent for parent, _ in going]
        if parents != list(range(cache.batch)):
            cache = cache.select(parents)
        tokens = torch.tensor([[beam.ids[-1]] for _, beam in going], device=weight.device)  # (B, 1)


def likeliest_tokens(logprobs: Tensor, count: int) -> tuple[list[list[float]], list[list[int]]]:
    """Log-probabilities and ids of the `count` likeliest tokens of each row (N, V), likeliest first."""
    best = logprobs.topk(min(count, logprobs.shape[-1]), dim=-1)  # (N, count)
    return best.values.tolist(), best.indices.tolist()
