"""What a model makes of given answers: the log-probability of each of their tokens, and what it is worth to a critic.

Prompts and answers are laid end to end as one row in which each sees itself only, so there is no padding to be masked:
what comes out is what each alone would give. Only the places before an answer's tokens meet the output layer.

N tokens of a row, M tokens of its answers, C model dim, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from arriero.kernels.documents import Documents
from arriero.kernels.token_logprobs import token_logprobs
from arriero.model.heads import read_head
from arriero.model.transformer import Llama


@dataclass(frozen=True, eq=False)
class AnswerRow:
    """Prompts and their answers, end to end."""

    tokens: Tensor
    """(1, N) ids."""
    documents: Documents
    """Each prompt with its answer is one."""
    places: Tensor
    """(M,) the token before each of the answers' tokens: whose hidden state tells it, and what it will be worth."""
    targets: Tensor
    """(M,) the answers' tokens."""

    def to(self, device: torch.device) -> "AnswerRow":
        """The same on a device."""
        return AnswerRow(
            self.tokens.to(device), self.documents.to(device), self.places.to(device), self.targets.to(device)
        )


def lay_answers(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> AnswerRow:
    """Prompts and answers, none of them empty, as one row, on the CPU."""
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    bounds = [0, *accumulate(map(len, rows))]
    places = [
        place
        for start, prompt, answer in zip(bounds, prompts, answers, strict=False)
        for place in range(start + len(prompt) - 1, start + len(prompt) + len(answer) - 1)
    ]
    tokens = torch.tensor([[token for row in rows for token in row]])  # (1, N)
    targets = torch.tensor([token for answer in answers for token in answer])  # (M,)
    documents = Documents.from_cu_seqlens(torch.tensor(bounds), 1, bounds[-1])
    return AnswerRow(tokens, documents, torch.tensor(places), targets)


def answer_logprobs(model: Llama, row: AnswerRow, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the answers' tokens, and the entropies there, at a temperature; both (M,) fp32.

    To be run by `Llama.compute`. The temperature is the sampler's: what is compared is what was sampled from.
    """
    hidden = model.hidden(row.tokens, documents=row.documents)[0, row.places]  # (M, C)
    return token_logprobs(hidden, model.output_weight, row.targets, temperature)


def answer_values(model: Llama, row: AnswerRow, head: str) -> Tensor:
    """What a scalar head expects before each of the answers' tokens, (M,) fp32. To be run by `Llama.compute`."""
    hidden = model.hidden(row.tokens, documents=row.documents)[0, row.places]  # (M, C)
    return read_head(model, head, hidden)
