"""One reward out of two reward models (Llama 2, arXiv 2307.09288, section 3.2.3).

    R_c(g | p) = R_s(g | p)   if is_safety(p) or R_s(g | p) < 0.15
                 R_h(g | p)   otherwise
    R̃_c(g | p) = whiten(logit(R_c(g | p)))

There R_s and R_h are σ of what the reward models' heads put out. So logit(R_c) is a head's output itself, and is never
computed by way of σ, which in fp32 is 1 from 17 on and would come back as ∞; R_s < 0.15 is asked of the output as
output < logit(0.15). Whitening is PPO's, over each batch (`experience.py`, `Moments`), and so is the KL penalty of the
paper's last equation (`kl.py`).
"""

import math
from collections.abc import Sequence

from arriero.common.errors import ArrieroError

UNSAFE = 0.15
"""σ(R_s) below which an answer is judged by its safety, whatever it was asked."""


def combine(
    helpfulness: Sequence[float], safety: Sequence[float], is_safety: Sequence[bool], *, unsafe: float = UNSAFE
) -> list[float]:
    """logit(R_c) of each response.

    Args:
        helpfulness: (N) raw scores of the helpfulness reward model, logits of R_h.
        safety: (N) raw scores of the safety reward model, logits of R_s.
        is_safety: (N) whether a response's prompt is a safety prompt.
        unsafe: a share between 0 and 1.

    Raises:
        ArrieroError: the counts differ, a score is not finite, or the share is none.
    """
    if not len(helpfulness) == len(safety) == len(is_safety):
        counts = f"{len(helpfulness)}, {len(safety)} and {len(is_safety)}"
        raise ArrieroError(f"expected a helpfulness score, a safety score and a kind for each response, got {counts}")
    if not 0 < unsafe < 1:
        raise ArrieroError(f"unsafe: expected a share between 0 and 1, got {unsafe}")
    check_finite(helpfulness, "helpfulness")
    check_finite(safety, "safety")
    bound = math.log(unsafe / (1 - unsafe))
    return [
        safe if asked or safe < bound else helpful
        for helpful, safe, asked in zip(helpfulness, safety, is_safety, strict=True)
    ]


def check_finite(scores: Sequence[float], name: str) -> None:
    """Raises ArrieroError where a score is NaN or infinite; `name` says whose they are."""
    for number, score in enumerate(scores):
        if not math.isfinite(score):
            raise ArrieroError(f"{name}: expected finite scores, got {score} for response {number + 1}")
