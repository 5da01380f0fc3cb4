"""One side of the retriever as a network: tokens of texts to vectors, for searching and for training.

A tower is a transformer, a pooling of its token vectors, dense layers and a scaling to length 1, as `encoder_folder.py`
reads them. Texts are tokenised once, sorted by length and encoded in small batches, so little is padded; vectors are
fp32 whatever the model's dtype. A text longer than the encoder's limit is cut at its end.

B texts of a batch, T tokens, C hidden size, dim size of the vector.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from arriero.common.device import pick_device
from arriero.common.errors import ArrieroError, FormatError, require
from arriero.kernels.linear import Linear
from arriero.rag.contracts import Advance, Vectors
from arriero.rag.encoder_folder import Tower, read_json, weight_files
from arriero.rag.quiet import quiet

# A batch is padded to its longest text and holds at most this many tokens. On a CPU (2 cores, all-MiniLM-L6-v2) 8192
# encode a fifth more a second than 4096 and half more than 2048, and 16384 no more than 8192.
TOKENS_PER_BATCH = {"cpu": 8192, "cuda": 65536, "mps": 16384}


class TowerNetwork(nn.Module):
    """Tokens to vectors, differentiable."""

    def __init__(self, tower: Tower, transformer: Any, dense: nn.Sequential) -> None:
        super().__init__()
        self.pooling, self.normalise = tower.pooling, tower.normalise
        self.transformer: Any = transformer  # transformers has no types
        self.dense = dense

    def forward(self, tokens: Tensor, mask: Tensor, skip: int = 0) -> Tensor:
        """Vectors (B, dim) in fp32.

        Args:
            tokens: (B, T) ids; what is masked may be any.
            mask: (B, T) bool, on the same device.
            skip: first tokens that the pooling leaves out.
        """
        # Without a padded place no mask is given: attention then takes its faster road, to the same numbers.
        seen = None if bool(mask.all()) else mask.long()
        hidden = self.transformer(input_ids=tokens, attention_mask=seen).last_hidden_state.float()  # (B, T, C)
        kept = mask.clone()
        kept[:, :skip] = False
        pooled = torch.cat([pool(hidden, kept, mode) for mode in self.pooling], dim=-1)  # (B, C × modes)
        vectors: Tensor = self.dense(pooled)  # (B, dim)
        return nn.functional.normalize(vectors, dim=-1) if self.normalise else vectors


class TowerModel:
    """A tower with its weights and tokenizer, read at the first use; safe to share among threads."""

    def __init__(self, tower: Tower, device: str) -> None:
        self.tower = tower
        self._device_name = device
        self._lock = threading.Lock()
        """Held while the weights are read, and while the tokenizer works: it keeps how to truncate, and is no two
        threads' at once."""
        self._loaded: tuple[TowerNetwork, Any] | None = None

    @property
    def network(self) -> TowerNetwork:
        """The network, in eval mode when it is read."""
        return self._load()[0]

    @property
    def tokenizer(self) -> Any:
        """transformers' tokenizer."""
        return self._load()[1]

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def encode(self, texts: Sequence[str], prompt: str, advance: Advance | None = None) -> Vectors:
        """Encode texts in any order of length; row i belongs to text i. Equal texts share one computation.

        Raises:
            ArrieroError: a text is no string.
        """
        if bad := next((text for text in texts if not isinstance(text, str)), None):
            raise ArrieroError(f"texts to encode must be strings, not {type(bad).__name__}")
        vectors = np.zeros((len(texts), self.tower.dim), dtype=np.float32)
        if not len(texts):
            return vectors
        rows: dict[str, list[int]] = {}
        for row, text in enumerate(texts):
            rows.setdefault(text, []).append(row)
        distinct = list(rows)
        ids, skip = self.tokenise(distinct, prompt)
        for batch in _batches([len(row) for row in ids], TOKENS_PER_BATCH.get(self.device.type, 2048)):
            with torch.inference_mode():
                encoded = self.embed_ids([ids[index] for index in batch], skip).cpu().numpy()
            for index, vector in zip(batch, encoded, strict=True):
                vectors[rows[distinct[index]]] = vector
            if advance is not None:
                advance(sum(len(rows[distinct[index]]) for index in batch))
        return vectors

    def embed(self, texts: Sequence[str], prompt: str) -> Tensor:
        """Vectors (N, dim) of a few texts, as `encode`'s, with gradients where the network has them."""
        return self.embed_ids(*self.tokenise(texts, prompt))

    def embed_ids(self, ids: Sequence[Sequence[int]], skip: int) -> Tensor:
        """Vectors (B, dim) of texts as tokens, padded to the longest."""
        lengths = torch.tensor([len(row) for row in ids])
        tokens = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True)  # (B, T)
        mask = torch.arange(tokens.shape[1]) < lengths[:, None]  # (B, T)
        vectors: Tensor = self.network(tokens.to(self.device), mask.to(self.device), skip)
        return vectors

    def tokenise(self, texts: Sequence[str], prompt: str) -> tuple[list[list[int]], int]:
        """Tokens of texts behind their prompt, and how many of the first ones the pooling leaves out."""
        ids = self._tokenise([prompt + text for text in texts])
        # Tokens of the prompt that the pooling leaves out: all but its closing special token.
        skip = 0 if self.tower.pool_prompt or not prompt else len(self._tokenise([prompt])[0]) - 1
        return ids, skip

    def _tokenise(self, texts: list[str]) -> list[list[int]]:
        tokenizer = self.tokenizer
        with self._lock:
            return list(tokenizer(_clean(texts), truncation=True, max_length=self.tower.max_tokens)["input_ids"])

    def count_tokens(self, texts: Sequence[str], prompt: str) -> list[int]:
        """How many tokens each text would have behind its prompt if none were cut; more than the tower's are."""
        tokenizer = self.tokenizer
        with self._lock:
            rows = tokenizer(_clean([prompt + text for text in texts]), truncation=False, verbose=False)["input_ids"]
        return [len(row) for row in rows]

    def _load(self) -> tuple[TowerNetwork, Any]:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._read()
            return self._loaded

    def _read(self) -> tuple[TowerNetwork, Any]:
        transformers = require("transformers", extra="rag", purpose="encoding text")
        device = pick_device(self._device_name)
        with quiet(transformers):
            model = (
                _load_dpr(self.tower, transformers)
                if self.tower.kind == "dpr"
                else _load_auto(self.tower, transformers)
            )
            tokenizer = _load_tokenizer(self.tower, transformers)
        for layer in model.modules():
            if type(layer) is nn.Linear:
                layer.__class__ = Linear  # transformers' own layers, computed by ours
        dense = nn.Sequential(*[_load_dense(folder) for folder in self.tower.dense])
        return TowerNetwork(self.tower, model, dense).float().to(device).eval(), tokenizer


def _clean(texts: Sequence[str]) -> list[str]:
    """Half a surrogate pair is no text."""
    return [text.encode("utf-8", "replace").decode() for text in texts]


def pool(hidden: Tensor, mask: Tensor, mode: str) -> Tensor:
    """One vector a text out of its token vectors: (B, T, C), (B, T) bool → (B, C)."""
    weights = mask[:, :, None].to(hidden.dtype)  # (B, T, 1)
    if mode == "cls":
        first = mask.int().argmax(dim=1)  # (B,)
        return hidden[torch.arange(len(hidden), device=hidden.device), first]
    if mode == "lasttoken":
        last = mask.shape[1] - 1 - mask.flip(1).int().argmax(dim=1)  # (B,)
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    if mode == "max":
        return hidden.masked_fill(~mask[:, :, None], float("-inf")).amax(dim=1)
    if mode == "weightedmean":
        weights = weights * torch.arange(1, mask.shape[1] + 1, device=hidden.device)[None, :, None]
    total, count = (hidden * weights).sum(dim=1), weights.sum(dim=1).clamp(min=1e-9)  # (B, C), (B, 1)
    return total / (count.sqrt() if mode == "mean_sqrt_len_tokens" else count)


def _batches(lengths: list[int], budget: int) -> list[list[int]]:
    """Indices in batches, longest first, each at most `budget` tokens when padded."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _load_auto(tower: Tower, transformers: Any) -> nn.Module:
    files = weight_files(tower.weights)
    if files[0].suffix != ".safetensors":
        raise FormatError(f"{files[0]} is pickled: expected model.safetensors (save_pretrained writes it)")
    try:
        model, found = transformers.AutoModel.from_pretrained(
            str(tower.weights),
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise FormatError(f"{tower.weights} does not load as an encoder ({str(error).splitlines()[0]})") from error
    # transformers fills what is missing with random numbers; only the pooler, which no vector of ours uses, may be.
    if missing := sorted(name for name in found["missing_keys"] if "pooler." not in name):
        raise FormatError(f"{tower.weights} lacks {len(missing)} of the encoder's tensors, the first '{missing[0]}'")
    encoder: nn.Module = model
    return encoder


def _load_dpr(tower: Tower, transformers: Any) -> nn.Module:
    """BERT out of a DPR checkpoint: prefix removed; the pooler and the old `position_ids` buffer dropped."""
    tensors: dict[str, Tensor] = {}
    for path in weight_files(tower.weights):
        tensors.update(_read_tensors(path))
    kept = {
        name.removeprefix(tower.prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(tower.prefix) and "pooler." not in name and not name.endswith("position_ids")
    }
    config = transformers.BertConfig.from_pretrained(str(tower.weights), local_files_only=True)
    model: nn.Module = transformers.BertModel(config, add_pooling_layer=False)
    try:
        result = model.load_state_dict(kept, strict=False)
    except RuntimeError as error:
        raise FormatError(f"{tower.weights}: {str(error).splitlines()[-1].strip()}") from error
    missing = [name for name in result.missing_keys if not name.endswith("position_ids")]
    if missing or result.unexpected_keys:
        wrong = (
            f"lacks '{tower.prefix}{missing[0]}'"
            if missing
            else f"has the unknown tensor '{result.unexpected_keys[0]}'"
        )
        raise FormatError(f"{tower.weights} {wrong}: expected a DPR checkpoint of BERT")
    return model


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise FormatError(f"{path} is truncated or no safetensors file ({error})") from error
    # DPR's own releases are pickled; weights_only refuses everything in a pickle that is not a tensor.
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _load_tokenizer(tower: Tower, transformers: Any) -> Any:
    if tower.kind == "dpr":  # DPR's tokenizers are BERT's; naming it spares the look-up by model type
        return transformers.BertTokenizer.from_pretrained(str(tower.weights), local_files_only=True)
    return transformers.AutoTokenizer.from_pretrained(
        str(tower.weights), local_files_only=True, trust_remote_code=False
    )


def _load_dense(folder: Path) -> nn.Module:
    """A sentence-transformers `Dense` module: linear, then its activation."""
    config = read_json(folder / "config.json")
    layer = nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
    tensors = _read_tensors(weight_files(folder)[0])
    layer.load_state_dict({name.removeprefix("linear."): tensor for name, tensor in tensors.items()})
    activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    known: dict[str, nn.Module] = {"Tanh": nn.Tanh(), "Identity": nn.Identity(), "ReLU": nn.ReLU(), "GELU": nn.GELU()}
    if activation not in known:
        raise FormatError(f"{folder / 'config.json'} asks for '{activation}': supported are {', '.join(known)}")
    return nn.Sequential(layer, known[activation])
