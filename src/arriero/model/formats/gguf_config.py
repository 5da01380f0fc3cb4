"""GGUF metadata of the architecture `llama` ↔ `LlamaConfig`; a key that asks for mathematics we lack is refused.

Llama 3's frequency scaling has no key: converters store what divides each rotary frequency as `rope_freqs.weight`.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arriero.common.errors import ArrieroError, FormatError
from arriero.common.gguf_header import GgufHeader
from arriero.model.config import LlamaConfig, RopeScaling

ROPE_FREQS = "rope_freqs.weight"

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "general.type": ("model",),
    "split.count": (0, 1),
    "llama.expert_count": (0,),
    "llama.attention.causal": (True,),
    "llama.attention.clamp_kqv": (0,),
    "llama.attention.max_alibi_bias": (0,),
    "llama.attention.scale": (0,),
    "llama.attention.sliding_window": (0,),
    "llama.embedding_scale": (0, 1),
    "llama.logit_scale": (0, 1),
    "llama.residual_scale": (0, 1),
    "llama.rope.scaling.attn_factor": (0, 1),
    "llama.use_parallel_residual": (False,),
}
"""Keys that llama.cpp obeys and this model does not, with the values that say nothing."""


def read_config(header: GgufHeader) -> LlamaConfig:
    """The model's shape; its rotary scaling lacks what `rope_freqs.weight` says (see `scaling_of_divisors`).

    Raises:
        FormatError: another architecture, a missing key, or a value that is not supported.
    """
    keys = _Keys(header)
    architecture = keys.get("general.architecture", str)
    if architecture != "llama":
        raise FormatError(f"{header.path}: architecture '{architecture}' is not supported: expected llama")
    for key, neutral in _NEUTRAL.items():
        if (value := header.metadata.get(key, neutral[0])) not in neutral:
            raise FormatError(f"{header.path}: {key} = {value!r} is not supported: expected {neutral[0]!r}")
    dim, n_heads = keys.count("llama.embedding_length"), keys.count("llama.attention.head_count")
    head_dim = keys.count("llama.attention.key_length", dim // n_heads)
    for key in ("llama.attention.value_length", "llama.rope.dimension_count"):
        if (other := keys.count(key, head_dim)) != head_dim:
            raise FormatError(f"{header.path}: {key} = {other} is not supported: expected the head width {head_dim}")
    if "token_embd.weight" not in header.tensors:
        raise FormatError(f"{header.path}: tensor 'token_embd.weight' is missing")
    context = keys.count("llama.context_length")
    try:
        return LlamaConfig(
            vocab_size=header.tensors["token_embd.weight"].shape[0],
            dim=dim,
            n_layers=keys.count("llama.block_count"),
            n_heads=n_heads,
            n_kv_heads=keys.count("llama.attention.head_count_kv", n_heads),
            head_dim=head_dim,
            hidden_dim=keys.count("llama.feed_forward_length"),
            norm_eps=keys.number("llama.attention.layer_norm_rms_epsilon"),
            rope_theta=keys.number("llama.rope.freq_base", 10000.0),
            rope_scaling=_linear_scaling(keys, context),
            max_seq_len=context,
            tied_embeddings="output.weight" not in header.tensors,
        )
    except ArrieroError as error:
        raise error if isinstance(error, FormatError) else FormatError(f"{header.path}: {error}") from error


def config_metadata(config: LlamaConfig) -> dict[str, int | float | str]:
    """The keys that `read_config` reads, for a file to be written; `general.architecture` is the writer's.

    Raises:
        ArrieroError: the config has dynamic rotary scaling, which GGUF cannot express.
    """
    metadata: dict[str, int | float | str] = {
        "llama.context_length": config.max_seq_len,
        "llama.embedding_length": config.dim,
        "llama.block_count": config.n_layers,
        "llama.feed_forward_length": config.hidden_dim,
        "llama.attention.head_count": config.n_heads,
        "llama.attention.head_count_kv": config.n_kv_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.attention.layer_norm_rms_epsilon": config.norm_eps,
        "llama.rope.dimension_count": config.head_dim,
        "llama.rope.freq_base": config.rope_theta,
        "llama.vocab_size": config.vocab_size,
    }
    if (scaling := config.rope_scaling) is not None:
        if scaling.kind == "dynamic":
            raise ArrieroError("GGUF cannot express dynamic rotary scaling: set rope_scaling to null, linear or llama3")
        if scaling.kind == "linear":
            metadata["llama.rope.scaling.type"] = "linear"
            metadata["llama.rope.scaling.factor"] = scaling.factor
            metadata["llama.rope.scaling.original_context_length"] = scaling.original_max_seq_len
    return metadata


def llama3_divisors(config: LlamaConfig, scaling: RopeScaling) -> NDArray[np.float32]:
    """What Llama 3's scaling divides each rotary frequency by: (D/2,), the content of `rope_freqs.weight`."""
    turns = _turns(config) * scaling.original_max_seq_len  # (D/2,)
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = blend.clip(0.0, 1.0)
    return (1.0 / ((1.0 - blend) / scaling.factor + blend)).astype(np.float32)


def scaling_of_divisors(config: LlamaConfig, divisors: NDArray[np.float32]) -> RopeScaling | None:
    """The Llama 3 scaling that gives these divisors (D/2,); None when they are all 1.

    The blend between kept and divided frequencies is a line, `slope · turns + shift`, cut off at 0 and 1, and only the
    ratios of (original context, low, high) matter. Two blended frequencies give the line; with fewer, any line that
    passes between the kept and the divided ones will do, and the published high/low ratio of 4 is preferred.

    Raises:
        FormatError: no Llama 3 scaling gives these divisors.
    """
    if np.allclose(divisors, 1.0, rtol=1e-6):
        return None
    factor = float(divisors.max())
    if np.isfinite(divisors).all() and divisors.min() >= 1 - 1e-6:
        turns = _turns(config)  # (D/2,) full turns a token
        blend = (1.0 / divisors.astype(np.float64) - 1.0 / factor) / (1.0 - 1.0 / factor)  # (D/2,)
        slope, shift = _blend_line(turns, blend)
        if slope > 0 > shift:
            context, high = -slope / shift, 1.0 - 1.0 / shift  # with low = 1
            whole = max(1, round(context))
            original = whole if abs(whole - context) < 1e-4 * context else math.ceil(1000 * context)
            low = 1.0 if original == whole else original / context
            scaling = RopeScaling(
                kind="llama3",
                factor=factor,
                low_freq_factor=low,
                high_freq_factor=high * low,
                original_max_seq_len=original,
            )
            if np.allclose(llama3_divisors(config, scaling), divisors, rtol=1e-3):
                return scaling
    raise FormatError(f"tensor '{ROPE_FREQS}' is not Llama 3's frequency scaling, the only one supported")


def _blend_line(turns: NDArray[np.float64], blend: NDArray[np.float64]) -> tuple[float, float]:
    """(slope, shift) of a line through the blended frequencies, above 1 on the kept ones, below 0 on the divided."""
    inner = (blend > 1e-6) & (blend < 1 - 1e-6)
    if inner.sum() > 1:
        slope, shift = np.polyfit(turns[inner], blend[inner], 1)
        return float(slope), float(shift)
    kept = float(turns[blend >= 1 - 1e-6].min(initial=math.inf))
    divided = float(turns[blend <= 1e-6].max(initial=0.0))
    if not inner.any():
        top = kept if kept < math.inf else 4 * divided
        return 1.0 / (top - divided), -divided / (top - divided)
    turn, value = float(turns[inner][0]), float(blend[inner][0])
    slope = max((value + 1 / 3) / turn, (1 - value) / (kept - turn), value / (turn - divided))
    return slope, value - slope * turn


def _turns(config: LlamaConfig) -> NDArray[np.float64]:
    """Full turns a token of each rotary frequency: (D/2,)."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    return np.asarray(config.rope_theta**-exponents / (2 * math.pi))


def _linear_scaling(keys: "_Keys", context: int) -> RopeScaling | None:
    metadata = keys.header.metadata
    key = "llama.rope.scaling.factor" if "llama.rope.scaling.factor" in metadata else "llama.rope.scale_linear"
    kind = metadata.get("llama.rope.scaling.type", "linear" if key in metadata else "none")
    if kind not in ("none", "linear"):
        raise FormatError(f"{keys.header.path}: llama.rope.scaling.type = {kind!r} is not supported: expected linear")
    factor = keys.number(key, 1.0)
    if kind == "none" or factor in (0.0, 1.0):
        return None
    original = keys.count("llama.rope.scaling.original_context_length", max(1, round(context / factor)))
    return RopeScaling(kind="linear", factor=factor, original_max_seq_len=original)


class _Keys:
    """Typed look-up in the metadata; a value of another type is refused by key."""

    def __init__(self, header: GgufHeader) -> None:
        self.header = header

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        value = self.header.metadata.get(key, default)
        if value is None:
            raise FormatError(f"{self.header.path}: metadata key '{key}' is missing")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise FormatError(f"{self.header.path}: {key} = {str(value)[:40]}: expected {kind.__name__}")
        return value

    def count(self, key: str, default: int | None = None) -> int:
        """A positive integer; a list, which some files give per layer, must repeat one value."""
        value = self.header.metadata.get(key, default)
        if isinstance(value, list) and value:
            if len(set(map(str, value))) > 1:
                raise FormatError(f"{self.header.path}: {key} differs from layer to layer, which is not supported")
            value = value[0]
        if value is None:
            raise FormatError(f"{self.header.path}: metadata key '{key}' is missing")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise FormatError(f"{self.header.path}: {key} = {str(value)[:40]}: expected a positive whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number that is not negative; of those that fp32 cannot tell apart, the shortest (1e-05)."""
        value = self.header.metadata.get(key, default)
        if value is None:
            raise FormatError(f"{self.header.path}: metadata key '{key}' is missing")
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
            raise FormatError(f"{self.header.path}: {key} = {str(value)[:40]}: expected a positive number")
        return float(str(np.float32(value)))
