"""The losses of reward models (Llama 2, arXiv 2307.09288, section 3.2.2, equations 1 and 2), as pure functions.

    L = −log σ(r(x, y_c) − r(x, y_r) − m(degree))

A pair's better response is to score above the other one, by a margin that grows with how much better it was found. The
safety model also learns to tell safe responses; the paper gives no formula of that loss, and the choice is ours: binary
cross-entropy on σ(r), so that 0 is the border between unsafe and safe, and σ(r) what section 3.2.3 compares with 0.15.

P pairs, D responses.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from arriero.align.preferences import Degree, Safety
from arriero.align.reward_config import Margins

MARGINS: dict[Margins, dict[Degree, float]] = {
    "none": {},
    "small": {
        "significantly better": 1.0,
        "better": 2 / 3,
        "slightly better": 1 / 3,
        "negligibly better": 0.0,
    },
    "large": {
        "significantly better": 3.0,
        "better": 2.0,
        "slightly better": 1.0,
        "negligibly better": 0.0,
    },
}
"""m by degree (Llama 2, appendix A.3.3, table 27)."""
UNKNOWN = -1
"""The label of a response of which nobody said whether it is safe."""
_LABELS: dict[Safety, tuple[int, int]] = {
    "chosen safe": (1, 0),
    "both safe": (1, 1),
    "both unsafe": (0, 0),
    "chosen unsafe": (0, 1),
}


def margin_of(degree: Degree | None, margins: Margins) -> float:
    """m of a comparison; 0 where no degree was told."""
    return 0.0 if degree is None else MARGINS[margins].get(degree, 0.0)


def safety_labels(safety: Safety | None) -> tuple[int, int]:
    """Whether the chosen and the rejected response are safe: 1, 0 or `UNKNOWN`."""
    return (UNKNOWN, UNKNOWN) if safety is None else _LABELS[safety]


def ranking_loss(chosen: Tensor, rejected: Tensor, margins: Tensor) -> Tensor:
    """−log σ(r_c − r_r − m) of each pair (P,), for scores (P,) and margins (P,), none of them through σ and back."""
    return F.softplus(margins - (chosen - rejected))


def safety_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of σ(r) of each response (D,); 0, without a gradient, where its label is `UNKNOWN`."""
    known = labels != UNKNOWN
    targets = torch.where(known, labels, 0).to(scores.dtype)
    losses = F.binary_cross_entropy_with_logits(scores, targets, reduction="none")
    return torch.where(known, losses, 0.0)
