"""What a training run would take: memory of each device, days, energy, CO₂. Arithmetic only; nothing is trained.

Memory counts what `parallel.py`, `layers.py` and `cross_entropy.py` hold; time goes by the share of the peak that is
reached, MFU (Chowdhery et al., PaLM, arXiv 2204.02311, appendix B); energy by LLaMA's formula (`carbon.py`).

Formulas use the papers' letters: N parameters, L layers, C model dim, H heads, K KV heads, D head dim, F hidden dim,
V vocabulary, T tokens of a row, r rank; and n, tokens of a micro-batch; e, bytes of a number in the compute dtype.
"""

from dataclasses import dataclass, fields

from arriero.common.errors import ArrieroError
from arriero.kernels.cross_entropy import CHUNK_BYTES
from arriero.model.choices import Quantisation, Recompute
from arriero.model.config import LlamaConfig
from arriero.model.quantised import quantised_bytes
from arriero.train.carbon import PUE, TONNES_PER_MWH, carbon_tonnes, energy_mwh
from arriero.train.cards import Card, DType
from arriero.train.parallel_config import ParallelConfig, check_divisible
from arriero.train.speed import flops_per_token

USUAL_MFU = 0.4
"""Within what well-made training reaches on GPUs: PaLM's 540B 0.46, LLaMA's 65B 0.49 by our count."""
USABLE = 0.9
"""Share of a device's memory that is left by the driver, the communication library and the allocator's gaps."""
TOKENS_PER_PARAMETER = 20
"""Of a compute-optimal run (Hoffmann et al., arXiv 2203.15556, table 3)."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What of fine-tuning learns beside frozen weights: LoRA, in every matrix of every layer."""

    rank: int = 8
    """r."""
    quantise: Quantisation = "none"
    """How the frozen matrices are kept (QLoRA); every device keeps them whole then."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ArrieroError(f"rank: expected a rank of 1 or more, got {self.rank}")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a model is trained, on what."""

    shape: LlamaConfig
    card: Card
    count: int
    rows: int
    """Of a micro-batch, on the devices that share it."""
    tokens: int
    """Of a row."""
    accumulation: int = 1
    layout: ParallelConfig
    recompute: Recompute = "selective"
    dtype: DType = "bfloat16"
    adapter: Adapter | None = None
    """None: all weights learn."""

    def __post_init__(self) -> None:
        for name in ("count", "rows", "tokens", "accumulation"):
            if getattr(self, name) < 1:
                raise ArrieroError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if self.tokens > self.shape.max_seq_len:
            raise ArrieroError(
                f"tokens: expected rows within the model's context of {self.shape.max_seq_len}, got {self.tokens}"
            )
        layout, shard = self.layout, self.shard
        if shard < 1 or layout.replicate * shard * layout.tensor != self.count:
            made = f"replicate {layout.replicate} × shard {layout.shard or 'any'} × tensor {layout.tensor}"
            raise ArrieroError(f"count: expected as many devices as the layout has, {made}, got {self.count}")
        check_divisible(self.shape, layout.tensor)
        if layout.tensor > 1 and _is_quantised(self):
            raise ArrieroError("tensor: quantised matrices cannot be divided: share the work by --shard")
        if layout.tensor > 1 and layout.sequence and self.tokens % layout.tensor:
            raise ArrieroError(f"tokens: expected a multiple of tensor = {layout.tensor}, got {self.tokens}")

    @property
    def shard(self) -> int:
        """Devices over which parameters, gradients and optimizer states are spread."""
        return self.layout.shard or self.count // (self.layout.replicate * self.layout.tensor)

    @property
    def batch_tokens(self) -> int:
        """Tokens of a step of the optimizer, on all devices."""
        return self.rows * self.tokens * self.accumulation * self.batch_share

    @property
    def batch_share(self) -> int:
        """Groups of devices that see different rows."""
        return self.layout.replicate * self.shard


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on each device at the fullest moment, the end of the forward pass and the first blocks of the backward."""

    parameters: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float
    loss: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum((float(getattr(self, field.name)) for field in fields(self)), 0.0)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the whole run takes."""

    total_tokens: float
    steps: float
    flops_per_token: float
    mfu: float
    """By our count: attention's masked half is not work."""
    tokens_per_second: float
    """Of one device."""
    days: float
    device_hours: float
    mwh: float
    tonnes: float


def count_parameters(shape: LlamaConfig) -> int:
    """N: of a block 2·C·H·D + 2·C·K·D + 3·C·F and two norms; embedding and output V·C each, once if tied; a norm."""
    embeddings = (1 if shape.tied_embeddings else 2) * shape.vocab_size * shape.dim
    return embeddings + shape.n_layers * _block_parameters(shape) + shape.dim


def _block_parameters(shape: LlamaConfig) -> int:
    attention = 2 * shape.dim * shape.head_dim * (shape.n_heads + shape.n_kv_heads)
    return attention + 3 * shape.dim * shape.hidden_dim + 2 * shape.dim


def count_learning(setup: Setup) -> int:
    """Parameters that learn: N, or those of the adapter, r · (inputs + outputs) of each matrix."""
    shape = setup.shape
    if setup.adapter is None:
        return count_parameters(shape)
    heads = shape.head_dim * (shape.n_heads + shape.n_kv_heads)
    return setup.adapter.rank * shape.n_layers * (4 * shape.dim + 2 * heads + 3 * (shape.dim + shape.hidden_dim))


def estimate_memory(setup: Setup) -> Memory:
    """What each device holds.

    Between steps all is fp32 and spread over shard × tensor (ZeRO-3, Rajbhandari et al., arXiv 1910.02054): parameters
    4 bytes; of what learns, gradients 4, AdamW's two moments 8. Several micro-batches a step, unless summed one
    by one, gather whole gradients first.
    """
    layout, learning = setup.layout, count_learning(setup)
    ways = setup.shard * layout.tensor
    keeps_whole = setup.accumulation > 1 and setup.shard > 1 and not layout.sum_every
    whole_gradients = 4 * learning / layout.tensor if keeps_whole else 0.0
    return Memory(
        parameters=4 * (_outer_parameters(setup) + setup.shape.n_layers * _block_share(setup)) / ways + _coded(setup),
        gradients=4 * learning / ways + whole_gradients,
        optimizer=8 * learning / ways,
        gathered=_gathered(setup),
        activations=_activations(setup),
        loss=_loss(setup),
    )


def _is_quantised(setup: Setup) -> bool:
    return setup.adapter is not None and setup.adapter.quantise != "none"


def _outer_parameters(setup: Setup) -> int:
    """Of embedding, last norm and output."""
    return count_parameters(setup.shape) - setup.shape.n_layers * _block_parameters(setup.shape)


def _block_share(setup: Setup) -> int:
    """Parameters of a block that are spread over devices: what it and the adapter have; quantised matrices are not."""
    adapter = 0 if setup.adapter is None else count_learning(setup) // setup.shape.n_layers
    return adapter + (2 * setup.shape.dim if _is_quantised(setup) else _block_parameters(setup.shape))


def _coded(setup: Setup) -> float:
    """Bytes of the quantised matrices, and of the largest one when it is made whole: in fp32, then as it is used."""
    if setup.adapter is None or not _is_quantised(setup):
        return 0.0
    largest = setup.shape.dim * setup.shape.hidden_dim
    return quantised_bytes(setup.shape, setup.adapter.quantise) + (4 + _number_bytes(setup)) * largest


def _number_bytes(setup: Setup) -> int:
    return 2 if setup.dtype == "bfloat16" else 4


def _gathered(setup: Setup) -> float:
    """FSDP's whole parameters in the compute dtype, and the gradients that are on their way to their owners.

    Two blocks, the one that computes and the one fetched ahead, and embedding and output throughout; all blocks if no
    other device has a part of them. A block's gradients are there twice, in the compute dtype and in fp32 to be summed.
    """
    if setup.count == 1 and setup.dtype == "float32":
        return 0.0
    number, layers = _number_bytes(setup), setup.shape.n_layers
    held = min(2 if setup.shard > 1 else layers, layers) * _block_share(setup) + _outer_parameters(setup)
    learning = _block_share(setup) if setup.adapter is None else count_learning(setup) // layers
    return (number * held + (number + 4) * learning) / setup.layout.tensor


def _activations(setup: Setup) -> float:
    """What the forward pass leaves for the backward (after Korthikanti et al., arXiv 2205.05198, section 4, for LLaMA).

    With `full` recomputation a block leaves its input, and one block at a time has all of its own. To that come the
    final norm's input and output, and the gradients that pass through the widest layer.
    """
    shape, n = setup.shape, setup.rows * setup.tokens
    block = n * block_activations(setup)
    stream = n * _number_bytes(setup) * shape.dim / _stream_parts(setup)
    if setup.recompute == "full":
        block, once = stream, n * block_activations(setup, recompute="none")
    else:
        once = 0.0
    passing = n * _number_bytes(setup) * (2 * shape.dim + 3 * shape.hidden_dim / setup.layout.tensor)
    return shape.n_layers * block + once + 3 * stream + passing


def block_activations(setup: Setup, recompute: Recompute | None = None) -> float:
    """Bytes a token that a block keeps.

    All: e · (2C + 2C + 2·H·D + 2·K·D + 3F) for the inputs of the norms, their outputs, queries and attention's output,
    keys and values, SwiGLU's two inputs and its product; and 4H for the softmax's sums. `selective` makes the outputs
    of the norms and the product again (LLaMA, section 2.4). Tensor parallelism divides what is between the matrices,
    sequence parallelism the inputs of the norms too; with either, `selective` keeps all (`tensor_parallel.py`).
    """
    shape, tensor, recompute = setup.shape, setup.layout.tensor, recompute or setup.recompute
    number, selective = _number_bytes(setup), recompute == "selective" and tensor == 1
    inputs = 2 * shape.dim / _stream_parts(setup)
    outputs = 0 if selective else 2 * shape.dim
    heads = 2 * shape.head_dim * (shape.n_heads + shape.n_kv_heads) / tensor
    hidden = (2 if selective else 3) * shape.hidden_dim / tensor
    return number * (inputs + outputs + heads + hidden) + 4 * shape.n_heads / tensor


def _stream_parts(setup: Setup) -> int:
    """Among how many devices the residual stream's tokens are divided."""
    return setup.layout.tensor if setup.layout.sequence else 1


def _loss(setup: Setup) -> float:
    """Chunked cross-entropy: three copies of a chunk's logits; the gradients of the output matrix, fp32 while they are
    added up and once more in the compute dtype, unless it is frozen, and of the hidden states. Tensor parallelism
    gathers the matrix."""
    shape, n, number = setup.shape, setup.rows * setup.tokens / _stream_parts(setup), _number_bytes(setup)
    logits = 3 * min(CHUNK_BYTES, 4 * n * shape.vocab_size)
    copies = (0 if setup.adapter else 4 + number) + (number if setup.layout.tensor > 1 else 0)
    matrix = shape.vocab_size * shape.dim * copies
    return logits + matrix + number * n * shape.dim


def fits(setup: Setup) -> bool:
    """Whether each device has the memory, with a reserve."""
    return estimate_memory(setup).total <= USABLE * setup.card.memory_bytes


def estimate_cost(
    setup: Setup,
    *,
    total_tokens: float | None = None,
    mfu: float = USUAL_MFU,
    tokens_per_second: float | None = None,
    watts: float | None = None,
    pue: float = PUE,
    tonnes_per_mwh: float = TONNES_PER_MWH,
) -> Cost:
    """Time and energy of a run; neither what communication costs nor what fails is modelled, but by the MFU.

    Args:
        total_tokens: by default 20 a parameter; an adapter has no such rule.
        mfu: share of the peak reached by what the mathematics needs; what `full` recomputes comes on top of its time.
        tokens_per_second: of one device, where it is known; then the MFU follows from it.
        watts: of one device; by default its power limit.

    Raises:
        ArrieroError: a number is out of its range, or the rate is beyond the card's peak.
    """
    positive = {"total_tokens": total_tokens, "tokens_per_second": tokens_per_second, "watts": watts}
    for name, value in {**positive, "carbon_intensity": tonnes_per_mwh or 1.0}.items():
        if value is not None and not 0 < value < float("inf"):
            raise ArrieroError(f"{name}: expected a number above 0, got {value:g}")
    if not 0 < mfu <= 1:
        raise ArrieroError(f"mfu: expected a share above 0, and at most 1, got {mfu:g}")
    if not 1 <= pue < float("inf"):
        raise ArrieroError(f"pue: expected 1 or more (all power by that of the computers), got {pue:g}")
    needed = training_flops(setup)
    peak = setup.card.peak_flops[setup.dtype]
    if tokens_per_second is None:
        tokens_per_second = mfu * peak / (needed + _recomputed_flops(setup))
    reached = tokens_per_second * needed / peak
    if reached > 1:
        raise ArrieroError(
            f"tokens_per_second: {tokens_per_second:,.0f} a device are beyond the peak of the {setup.card.name}, "
            f"{peak / needed:,.0f}"
        )
    if total_tokens is None and setup.adapter:
        raise ArrieroError(
            "total_tokens: expected the tokens of all examples, times the epochs: an adapter has no rule"
        )
    total = TOKENS_PER_PARAMETER * count_parameters(setup.shape) if total_tokens is None else total_tokens
    device_hours = total / tokens_per_second / 3600
    mwh = energy_mwh(device_hours, setup.card.watts if watts is None else watts, pue)
    return Cost(
        total_tokens=total,
        steps=total / setup.batch_tokens,
        flops_per_token=needed,
        mfu=reached,
        tokens_per_second=tokens_per_second,
        days=device_hours / setup.count / 24,
        device_hours=device_hours,
        mwh=mwh,
        tonnes=carbon_tonnes(mwh, tonnes_per_mwh),
    )


def training_flops(setup: Setup) -> float:
    """Operations a token: of frozen matrices two thirds, as they have no gradients, and of the adapter's 6 each."""
    shape = setup.shape
    full = flops_per_token(shape, setup.tokens)
    if setup.adapter is None:
        return full
    matrices = shape.n_layers * (_block_parameters(shape) - 2 * shape.dim) + shape.vocab_size * shape.dim
    return full - 2.0 * matrices + 6.0 * count_learning(setup)


def palm_flops_per_token(shape: LlamaConfig, tokens: int) -> float:
    """6N + 12·L·H·D·T (PaLM, appendix B): N without the embedding, and attention's masked half counted as work."""
    return flops_per_token(shape, tokens) + 6.0 * shape.n_layers * shape.n_heads * shape.head_dim * tokens


def _recomputed_flops(setup: Setup) -> float:
    """With `full` recomputation the blocks' forward pass, a third of forward and backward, once more."""
    if setup.recompute != "full":
        return 0.0
    outer = 6.0 * setup.shape.vocab_size * setup.shape.dim
    adapter = 2.0 * count_learning(setup) if setup.adapter else 0.0
    return (flops_per_token(setup.shape, setup.tokens) - outer) / 3 + adapter
