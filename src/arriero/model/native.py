"""A packed LLaMA on a CPU, a step of all its rows in one call of compiled code.

What `Llama.hidden` and `output` compute over a paged cache, with one difference: matrices multiply inputs that are
rounded to 15 bits in groups of 32, so that a product runs on the processor's dot products of bytes.

D head dim, R tokens whose logits are wanted, V vocabulary.
"""

from array import array
from collections.abc import Sequence
from ctypes import addressof, c_void_p
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from arriero.kernels.native.build import why_not_native
from arriero.kernels.native.library import MAX_GROUP, MAX_HEAD_DIM, PAGE, Layer, Matrix, Model, Runner, Step
from arriero.kernels.native.library import Span as NativeSpan
from arriero.model.adapters import Adapters
from arriero.model.layers import Block
from arriero.model.packed import PackedLinear
from arriero.model.paged_cache import PagedCache, Span
from arriero.model.rope import rotation
from arriero.model.transformer import Llama

CACHE_DTYPE = torch.float16
"""Of the keys and values that compiled code reads and writes."""
_LAYER = (
    *("attention.wq", "attention.wk", "attention.wv", "attention.wo"),
    *("feed_forward.w1", "feed_forward.w2", "feed_forward.w3"),
)
_runners: WeakKeyDictionary[Llama, "NativeLlama"] = WeakKeyDictionary()


def native_of(model: Llama) -> "NativeLlama | None":
    """The model's compiled form, made at the first call; None where PyTorch has to compute it."""
    if why_not_compiled(model) is not None:
        return None
    if model not in _runners:
        _runners[model] = NativeLlama(model)
    return _runners[model]


def why_not_compiled(model: Llama) -> str | None:
    """Why a model cannot run in compiled code; None if it can."""
    config = model.config
    if not isinstance(model.output, PackedLinear):
        return "its matrices are not packed"
    if model.tok_embeddings.weight.device.type != "cpu" or model.tok_embeddings.weight.dtype != torch.float32:
        return "it is not in fp32 on a CPU"
    if isinstance(model.adapters, Adapters) and (model.adapters.active or model.adapters.switch.merged):
        return "an adapter is on"
    if config.rope_scaling is not None and config.rope_scaling.kind == "dynamic":
        return "its positions are scaled by the row's length"
    if config.head_dim % PAGE or config.head_dim > MAX_HEAD_DIM or config.n_heads > MAX_GROUP * config.n_kv_heads:
        return f"its heads have {config.head_dim} dims, {config.n_heads // config.n_kv_heads} to a KV head"
    return why_not_native()


class NativeLlama:
    """Pointers into a model's tensors, which it keeps alive but for the model itself, and the threads that step."""

    def __init__(self, model: Llama) -> None:
        self._config = config = model.config
        self._kept: list[Tensor] = []
        self._layers = (Layer * config.n_layers)(*(self._layer(block) for block in model.layers))
        self._model = Model(
            n_layers=config.n_layers,
            dim=config.dim,
            n_heads=config.n_heads,
            n_kv_heads=config.n_kv_heads,
            head_dim=config.head_dim,
            hidden_dim=config.hidden_dim,
            norm_eps=config.norm_eps,
            embeddings=self._keep(model.tok_embeddings.weight),
            norm=self._keep(model.norm.weight),
            layers=self._layers,
            output=self._matrix(model.output),
        )
        self._turned = 0
        self._turn(min(config.max_seq_len, 4096))
        self._runner = Runner(self._model, torch.get_num_threads())

    def step(self, cache: PagedCache, rows: Sequence[Span]) -> Tensor:
        """Put the rows' new tokens into the cache, fp16; returns the logits that they want, in their order: (R, V)."""
        ids, positions, slots, wanted = array("i"), array("i"), array("i"), array("i")
        tables = [array("i", row.pages) for row in rows]
        spans = (NativeSpan * len(rows))()
        for span, row, table in zip(spans, rows, tables, strict=True):
            count, end = len(row.tokens), row.start + len(row.tokens)
            span.first, span.tokens, span.start, span.pages = len(ids), count, row.start, table.buffer_info()[0]
            ids.extend(row.tokens)
            positions.extend(range(row.start, end))
            slots.extend([table[at // PAGE] * PAGE + at % PAGE for at in range(row.start, end)])
            wanted.extend(range(len(ids) - row.wanted, len(ids)))
            if end > self._turned:
                self._turn(end)
        logits = torch.empty(len(wanted), self._model.output.rows)  # (R, V and what fills the last tile)
        addresses = [c_void_p(x.buffer_info()[0]) for x in (ids, positions, slots)]
        step = Step(
            len(ids), len(rows), len(wanted), *addresses, c_void_p(addressof(spans)),
            c_void_p(wanted.buffer_info()[0]), cache.k.data_ptr(), cache.v.data_ptr(), cache.k.shape[1],
            logits.data_ptr(),
        )  # fmt: skip
        self._runner.step(step)
        return logits[:, : self._config.vocab_size]

    def _turn(self, positions: int) -> None:
        """Sines and cosines for at least so many positions."""
        self._turned = max(positions, 2 * self._turned)
        half = self._config.head_dim // 2
        cos, sin = rotation(self._config, torch.arange(self._turned)[None])  # (1, positions, 1, D)
        self._cos, self._sin = cos[0, :, 0, :half].contiguous(), sin[0, :, 0, half:].contiguous()
        self._model.cos, self._model.sin = self._cos.data_ptr(), self._sin.data_ptr()

    def _layer(self, block: nn.Module) -> Layer:
        assert isinstance(block, Block)
        matrices = {name.rpartition(".")[2]: self._matrix(block.get_submodule(name)) for name in _LAYER}
        norms = {name: self._keep(getattr(block, name).weight) for name in ("attention_norm", "ffn_norm")}
        return Layer(**norms, **matrices)

    def _matrix(self, layer: nn.Module) -> Matrix:
        assert isinstance(layer, PackedLinear)
        self._kept += [*layer.buffers()]
        mins = layer.mins if layer.bits == 4 else None
        return Matrix.of(layer.codes, layer.scales, mins, layer.in_features, layer.bits)

    def _keep(self, weight: Tensor) -> int:
        self._kept.append(weight.detach())
        return self._kept[-1].data_ptr()
