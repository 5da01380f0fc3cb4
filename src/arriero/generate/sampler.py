"""The next tokens of rows: each by its own settings and random stream, whatever rows are drawn beside it.

Shapes: `B` rows, `V` vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from arriero.generate.logprobs import report_logprobs
from arriero.generate.row import Row
from arriero.generate.sampling import Rules, choose, shape_logits


class Sampler:
    """Keeps the rules of the rows it drew for last: mostly they are the next step's too."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._rules: Rules | None = None

    def draw(self, rows: Sequence[Row], logits: Tensor) -> list[int]:
        """A token for each row from its logits (B, V) fp32, with its log-probabilities noted where asked for."""
        if self._rules is None or self._rows != rows:
            self._rows = list(rows)
            self._rules = Rules.of([row.request.sampling for row in rows], logits.device)
        rules = self._rules
        shaped = shape_logits(logits, rules, _seen(rows, logits) if rules.penalised else None)  # (B, V)
        chosen = choose(shaped, rules, [row.generator for row in rows])  # (B,)
        tokens: list[int] = chosen.tolist()
        if rules.penalised:
            for row, token in zip(rows, tokens, strict=True):
                if row.seen is not None:
                    row.seen = torch.cat((row.seen, row.seen.new_tensor([token])))
        for kind, source in (("model", logits), ("sampler", shaped)):
            asking = [
                i
                for i, row in enumerate(rows)
                if row.request.sampling.logprobs is not None and row.request.sampling.logprobs_of == kind
            ]
            if asking:
                _note(rows, asking, source, chosen)
        return tokens


def _note(rows: Sequence[Row], asking: list[int], logits: Tensor, tokens: Tensor) -> None:
    wanted = [rows[i].request.sampling.logprobs or 0 for i in asking]
    reports = report_logprobs(logits[asking], tokens[asking], max(wanted))
    for i, count, report in zip(asking, wanted, reports, strict=True):
        rows[i].note(report, count)


def _seen(rows: Sequence[Row], logits: Tensor) -> Tensor:
    """Row · V + token of each token of prompts and answers, (S,); none for rows without a penalty."""
    for row in rows:
        if row.seen is None and row.request.sampling.repetition_penalty != 1:
            row.seen = torch.tensor(row.prompt, device=logits.device)
    vocab = logits.shape[1]
    return torch.cat([row.seen + place * vocab for place, row in enumerate(rows) if row.seen is not None])
