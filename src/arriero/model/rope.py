"""Rotary position embeddings (RoFormer, Su et al., arXiv 2104.09864), and their stretching for longer contexts.

A head's dims i and i + D/2 form a pair that turns by position · θ_i, θ_i = base^(−2i/D). This is Hugging Face's layout;
Meta's and GGUF's files pair 2i with 2i + 1 instead, and their Q and K rows are reordered on loading. Angles, sines and
cosines are fp32 in every model dtype: at position 4000 a bf16 angle is wrong by whole radians.

B batch, T tokens, H heads, D head dim.
"""

import math

import torch
from torch import Tensor

from arriero.model.config import LlamaConfig, RopeScaling

Rotation = tuple[Tensor, Tensor]
"""cos θ and ±sin θ, each (B, T, 1, D) fp32: minus on the first half of the dims, which receives −sin of the second."""


def rotation(config: LlamaConfig, positions: Tensor, lengths: Tensor | None = None) -> Rotation:
    """Turning of every head at `positions` (B, T); compute it once a step, for all layers.

    `lengths` (B,) counts the tokens of each row so far, by default up to its last position; for dynamic scaling only.
    """
    if config.rope_scaling is not None and config.rope_scaling.kind == "dynamic":
        lengths = positions.amax(dim=1) + 1 if lengths is None else lengths
        theta = dynamic_frequencies(config, config.rope_scaling, lengths)[:, None]  # (B, 1, D/2)
    else:
        theta = frequencies(config, positions.device)  # (D/2,)
    angle = positions[..., None].float() * theta  # (B, T, D/2)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), -1)[:, :, None], torch.cat((-sin, sin), -1)[:, :, None]  # (B, T, 1, D)


def rotate(x: Tensor, turn: Rotation) -> Tensor:
    """Turn `x` (B, T, H, D): (a, b) → (a cos θ − b sin θ, b cos θ + a sin θ) for each pair of dims."""
    cos, sin = turn
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin).to(x.dtype)  # (B, T, H, D)


def frequencies(config: LlamaConfig, device: torch.device) -> Tensor:
    """θ_i, (D/2,) fp32, in radians a token, for every scaling whose frequencies are fixed."""
    theta = _base_frequencies(config.rope_theta, config.head_dim, device)
    if config.rope_scaling is None:
        return theta
    if config.rope_scaling.kind == "linear":
        return theta / config.rope_scaling.factor
    return _llama3_frequencies(theta, config.rope_scaling)


def dynamic_frequencies(config: LlamaConfig, scaling: RopeScaling, lengths: Tensor) -> Tensor:
    """NTK-aware frequencies (B, D/2) of rows of `lengths` (B,) tokens: the base grows as a row outgrows the context.

    As in Hugging Face, keys stay as they were turned when they entered a cache. Unlike there, each row has its own
    base, so that a row's result does not depend on the others of its batch.
    """
    stretch = lengths.clamp(min=scaling.original_max_seq_len).float() / scaling.original_max_seq_len  # (B,)
    growth = (scaling.factor * stretch - (scaling.factor - 1)) ** (config.head_dim / (config.head_dim - 2))  # (B,)
    return _base_frequencies(config.rope_theta * growth[:, None], config.head_dim, lengths.device)


def _base_frequencies(base: float | Tensor, head_dim: int, device: torch.device) -> Tensor:
    exponents = torch.arange(0, head_dim, 2, device=device).float() / head_dim  # (D/2,)
    return 1.0 / (base**exponents)


def _llama3_frequencies(theta: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3.1: short wavelengths stay, long ones are stretched by the factor, those between blend the two."""
    turns = scaling.original_max_seq_len * theta / (2 * math.pi)  # (D/2,) full turns within the original context
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = blend.clamp(0.0, 1.0)  # 0: divide, 1: keep
    return (1 - blend) * theta / scaling.factor + blend * theta
