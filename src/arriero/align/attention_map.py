"""How much a dialogue's tokens look at the instruction in its first turn (Llama 2, arXiv 2307.09288, section 3.3,
and its figure of attention with and without Ghost Attention).

For each token, the greatest weight of attention from it to a token of the instruction, over all heads of all layers.
The weights are those of the model's own queries and keys: hooks take what goes into each attention layer, so that
adapters count, and nothing of the model is changed.

T tokens, I tokens of the instruction, H heads, D head dim.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from arriero.common.errors import ArrieroError
from arriero.generate.engine import evaluating
from arriero.kernels.options import Options
from arriero.kernels.reference import attention_reference
from arriero.model.layers import Attention
from arriero.model.rope import rotate
from arriero.model.transformer import Llama
from arriero.tokenizer.chat import Message
from arriero.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class AttentionMap:
    """A dialogue under a model's eyes."""

    model: str
    weights: list[float]
    """Of each token, the greatest weight to the instruction; 0 before it."""
    answers: list[tuple[int, int]]
    """From where to where in the tokens the answers go."""

    @property
    def by_turn(self) -> list[float]:
        """The mean over the tokens of each answer."""
        return [sum(self.weights[start:end]) / (end - start) for start, end in self.answers]


def map_attention(
    name: str, model: Llama, tokenizer: Tokenizer, messages: Sequence[Message], instruction: str
) -> AttentionMap:
    """Map a dialogue's attention to the instruction.

    Args:
        name: of the model.
        model: with the adapters that are active.
        tokenizer: of the model.
        messages: a dialogue with an answer at its end.
        instruction: a part of its first messages.

    Raises:
        ArrieroError: the instruction is not in it, or the dialogue is longer than the context.
    """
    ids, answers = tokenizer.encode_answers(messages)
    if len(ids) > model.config.max_seq_len:
        raise ArrieroError(f"expected a dialogue of at most {model.config.max_seq_len} tokens, got {len(ids)}")
    start, end = find_instruction(tokenizer, messages, instruction)
    weights = attention_to(model, torch.tensor([ids], device=model.tok_embeddings.weight.device), start, end)
    return AttentionMap(name, weights.tolist(), answers)


def find_instruction(tokenizer: Tokenizer, messages: Sequence[Message], instruction: str) -> tuple[int, int]:
    """Where the instruction's tokens are: those by which the chat differs from the same one without it.

    Raises:
        ArrieroError: the instruction is not in it.
    """
    place = next((i for i, message in enumerate(messages) if instruction in message["content"]), None)
    if place is None or not instruction.strip():
        raise ArrieroError("expected a dialogue that has the instruction in it")
    before = messages[place]["content"].replace(instruction, "", 1).rstrip()
    without: list[Message] = [*messages[:place], {**messages[place], "content": before}, *messages[place + 1 :]]
    ids, others = tokenizer.encode_answers(messages)[0], tokenizer.encode_answers(without)[0]
    start = _shared(ids, others)
    tail = min(_shared(ids[::-1], others[::-1]), len(others) - start)
    return start, len(ids) - tail


@torch.inference_mode()
def attention_to(model: Llama, tokens: Tensor, start: int, end: int) -> Tensor:
    """The greatest weight from each of `tokens` (1, T) to one of start … end − 1, over heads and layers: (T,) fp32."""
    strongest = torch.zeros(tokens.shape[1], device=tokens.device)  # (T,)

    def look(layer: Attention, arguments: tuple[Any, ...]) -> None:
        x, turn = arguments[0], arguments[1]  # (1, T, C)
        heads = (*x.shape[:2], -1, layer.head_dim)
        q, k = rotate(layer.wq(x).view(heads), turn), rotate(layer.wk(x).view(heads), turn)  # (1, T, H or K, D)
        torch.maximum(strongest, attention_weights(q, k, start, end).amax((0, 1, 3)), out=strongest)

    with evaluating(model), _hooked(model, look):
        model.hidden(tokens)
    return strongest


def attention_weights(q: Tensor, k: Tensor, start: int, end: int) -> Tensor:
    """Causal weights of the queries `q` (B, T, H, D) on the keys start … end − 1 of `k` (B, T, K, D): (B, H, T, I)."""
    options = Options()
    _, log_sum = attention_reference(q, k, torch.zeros_like(k), options)  # (B, H, T)
    keys = k[:, start:end].float().repeat_interleave(q.shape[2] // k.shape[2], dim=2)  # (B, I, H, D)
    scores = torch.einsum("bthd,bihd->bhti", q.float(), keys) * options.scale_of(q)  # (B, H, T, I)
    place = torch.arange(q.shape[1], device=q.device)  # (T,)
    ahead = place[start:end] > place[:, None]  # (T, I)
    return (scores - log_sum[..., None]).exp().masked_fill(ahead, 0.0)


@contextmanager
def _hooked(model: Llama, look: Callable[[Attention, tuple[Any, ...]], None]) -> Iterator[None]:
    """Every attention layer's input goes past `look` first."""
    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, Attention):
                hooks.callback(module.register_forward_pre_hook(look).remove)
        yield


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
