"""Cross-attention in which the beams of one prompt share its keys and values, instead of a copy for each.

An answer's tokens see all of their prompt, so the queries of beams that read the same prompt are as good as more tokens
of one answer: they are laid beside each other. `transformers` calls `attend` where a model asks for it by `NAME`.

N rows (beams), G prompts, b beams of a prompt at most, H heads, T new tokens, S tokens of a prompt, D head dim.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from arriero.common.errors import require

NAME = "arriero_shared_prompts"
MODELS = frozenset({"bart", "t5"})
"""Those that are known to hand `groups` down to their attention; others copy."""


@dataclass(frozen=True)
class Groups:
    """Which rows read which prompt; each prompt has one row or more."""

    rows: Tensor
    """(G, b) the rows of each prompt; what a prompt lacks to b is filled with its first."""
    places: Tensor
    """(N,) where in G · b each row lies."""

    @classmethod
    def of(cls, prompts: Sequence[int], device: torch.device) -> "Groups":
        """Groups of the rows that read these prompts (N,), in the order in which the prompts first come."""
        own: dict[int, list[int]] = {}
        for row, prompt in enumerate(prompts):
            own.setdefault(prompt, []).append(row)
        widest = max(map(len, own.values()))
        places = [0] * len(prompts)
        for group, rows in enumerate(own.values()):
            for place, row in enumerate(rows):
                places[row] = group * widest + place
        padded = [[*rows, *rows[:1] * (widest - len(rows))] for rows in own.values()]
        return cls(torch.tensor(padded, device=device), torch.tensor(places, device=device))


def share_prompts(model: Any) -> bool:
    """Have a model of `transformers` share prompts among the rows of `groups=…`; False where it cannot."""
    if model.config.model_type not in MODELS:
        return False
    transformers = require("transformers", extra="rag", purpose="running encoder-decoders")
    whole = transformers.AttentionInterface()["sdpa"]
    transformers.AttentionInterface.register(NAME, partial(attend, whole))
    transformers.AttentionMaskInterface.register(NAME, transformers.AttentionMaskInterface()["sdpa"])
    model.set_attn_implementation(NAME)
    return True


def attend(
    whole: Callable[..., tuple[Tensor, None]],
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    groups: Groups | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention (N, T, H, D) of `query` (N, H, T, D) over `key` and `value`: (N, H, S, D), or (G, H, S, D) if shared.

    Args:
        whole: attention where each row has its own keys.
        module, attention_mask, options: as `transformers` hands them over.
        groups: of the rows; what has a row of keys for each is self-attention, and no business of theirs.
    """
    if groups is None or key.shape[0] == query.shape[0]:
        return whole(module, query, key, value, attention_mask, **options)
    tokens = query.shape[2]
    laid = query[groups.rows].transpose(1, 2).flatten(2, 3)  # (G, H, b·T, D)
    mask = None if attention_mask is None else attention_mask[:, :, :1]  # (G, 1, 1, S): the same for all tokens
    # T5's bias of positions is 0 in cross-attention, and made for T tokens
    options |= {"is_causal": False, "position_bias": None}
    found, _ = whole(module, laid, key, value, mask, **options)  # (G, b·T, H, D)
    return found.reshape(-1, tokens, *found.shape[2:])[groups.places], None  # (N, T, H, D)
