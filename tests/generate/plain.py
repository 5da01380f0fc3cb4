"""The definition of an answer: the whole text so far through the model for every token, and no cache."""

import torch

from arriero.generate.engine import Request
from arriero.generate.sampling import Rules, choose, shape_logits


@torch.no_grad()
def decode_plainly(model, request: Request, sample: int = 0) -> tuple[int, ...]:
    """The tokens of one sample, without stop tokens and stop texts."""
    config, tokens = request.sampling, list(request.prompt_ids)
    rules, generator = Rules.of([config]), torch.Generator().manual_seed((config.seed or 0) + sample)
    for _ in range(config.max_tokens):
        logits = model(torch.tensor([tokens]))[:, -1]
        tokens.append(int(choose(shape_logits(logits, rules, torch.tensor(tokens)), rules, [generator])))
    return tuple(tokens[len(request.prompt_ids) :])
