"""A reward model: prompt and response in, one number out (Llama 2, arXiv 2307.09288, section 3.2.2).

A chat model whose output layer gave way to a scalar head, read at the last token of the response, the one that ends
the turn. Training, judging and PPO all encode a dialogue here, so that the model scores what it learnt to score. Its
scores are raw, logits of "this one is preferred"; σ and whitening are for whoever combines them.

D dialogues, N tokens of a row of dialogues laid end to end, C model dim.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from arriero.common.errors import ArrieroError
from arriero.generate.engine import evaluating
from arriero.kernels.documents import Documents
from arriero.model.adapters import Adapters, adapter_on
from arriero.model.formats.peft import fits, load_peft
from arriero.model.heads import SCORE, read_head
from arriero.model.source import LoadedModel, is_adapter, load_model, tokenizer_of
from arriero.model.transformer import Llama
from arriero.tokenizer.chat import Message
from arriero.tokenizer.tokenizer import Tokenizer

ROW_TOKENS = 4096
"""Of the dialogues that are read at a time."""


@dataclass(frozen=True)
class RewardModel:
    """A model that scores responses."""

    name: str
    model: Llama
    tokenizer: Tokenizer
    adapter: str | None = None
    """The adapter that the scores are of; None: none."""
    head: str = SCORE

    def score(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> list[float]:
        """The raw score of each response to its prompt.

        Raises:
            ArrieroError: a response is empty, a dialogue is longer than the context, or a score is not finite.
        """
        rows = [encode_dialogue(self.tokenizer, *pair) for pair in zip(prompts, responses, strict=True)]
        return self.score_ids(rows)

    @torch.inference_mode()
    def score_ids(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """The raw score of each dialogue (T,) of tokens, the one that ends the response included, in fp32.

        Raises:
            ArrieroError: as `score`.
        """
        longest, limit = max(map(len, rows), default=0), self.model.config.max_seq_len
        if longest > limit or not all(map(len, rows)):
            raise ArrieroError(f"{self.name}: expected dialogues of 1 to {limit} tokens, got one of {longest}")
        scores, device = torch.empty(len(rows)), self.model.tok_embeddings.weight.device
        with evaluating(self.model), adapter_on(self.model, self.adapter):
            for chosen in portions([len(row) for row in rows]):
                laid = lay_end_to_end([rows[i] for i in chosen])
                scores[chosen] = self.model.compute(scores_at, self.head, *(part.to(device) for part in laid)).cpu()
        if not scores.isfinite().all():
            raise ArrieroError(f"{self.name}: a score is {scores[~scores.isfinite()][0]}: the reward model is damaged")
        values: list[float] = scores.tolist()
        return values


def scores_at(model: Llama, head: str, tokens: Tensor, documents: Documents, ends: Tensor) -> Tensor:
    """Scores (D,) read at the tokens `ends` (D,) of a row (1, N) of dialogues."""
    return read_head(model, head, model.hidden(tokens, documents=documents)[0, ends])


def lay_end_to_end(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Documents, Tensor]:
    """Dialogues as one row of tokens (1, N), where they lie in it, and the place of each one's last token (D,)."""
    lengths = torch.tensor([len(row) for row in rows])
    bounds = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    tokens = torch.from_numpy(np.concatenate([np.asarray(row, np.int64) for row in rows]))[None]  # (1, N)
    return tokens, Documents.from_cu_seqlens(bounds, 1, tokens.shape[1]), bounds[1:] - 1


def encode_dialogue(tokenizer: Tokenizer, prompt: Sequence[Message], response: str) -> list[int]:
    """Tokens of a chat and the response to it, up to and with the one that ends the turn.

    Raises:
        ArrieroError: the response is empty, or the chat template does not suit.
    """
    if not response.strip():
        raise ArrieroError("expected a response, got an empty one: there is nothing to score")
    ids, spans = tokenizer.encode_answers([*prompt, {"role": "assistant", "content": response}])
    return ids[: spans[-1][1]]


def load_reward_model(
    source: str, *, device: str = "auto", over: LoadedModel | None = None, name: str = "reward"
) -> RewardModel:
    """A reward model that `arriero align reward` trained, or any `LlamaForSequenceClassification` of one label.

    Args:
        source: a folder, or what else `load_model` takes.
        over: a model that is loaded already: if the reward model is an adapter for it, it becomes a guest there, and
            the base is in memory once.
        name: of adapter and head, where the base is shared.

    Raises:
        NotFoundError, FormatError, ArrieroError: it is not here, is damaged, or gives no scores.
    """
    folder = Path(source).expanduser()
    if over is not None and is_adapter(folder) and fits(over.model, folder):
        load_peft(over.model, folder, name, base=over.name, head=name)
        _check_scores(over.model, name, source)
        return RewardModel(source, over.model, tokenizer_of(folder) or over.tokenizer, name, name)
    loaded = load_model(source, device=device, dtype="auto")
    _check_scores(loaded.model, SCORE, source)
    active = Adapters.of(loaded.model).active if loaded.model.adapters is not None else None
    return RewardModel(source, loaded.model.requires_grad_(False), loaded.tokenizer, active)


def same_words(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether two tokenizers make the same tokens of a chat: what one model said, the other can read."""
    chat: list[Message] = [
        {"role": "user", "content": "¿Cuánto pesa una llama? 🦙 42"},
        {"role": "assistant", "content": "About 130 kg."},
    ]
    return one.vocab_size == other.vocab_size and one.encode_answers(chat) == other.encode_answers(chat)


def _check_scores(model: Llama, head: str, source: str) -> None:
    if head not in model.heads:
        raise ArrieroError(
            f"{source} gives no scores: expected a reward model, such as `arriero align reward` makes, or a "
            "LlamaForSequenceClassification with one label"
        )


def portions(lengths: Sequence[int], most: int = ROW_TOKENS) -> Iterator[list[int]]:
    """Numbers of rows in portions of at most `most` tokens, or of one longer row; rows of like length meet.

    Args:
        lengths: tokens of each row.
    """
    portion: list[int] = []
    used = 0
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if portion and used + lengths[i] > most:
            yield portion
            portion, used = [], 0
        portion.append(i)
        used += lengths[i]
    if portion:
        yield portion
