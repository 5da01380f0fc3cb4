"""A generator without a network: the logits after a prompt and some tokens are drawn from what these are."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from arriero.rag.generator import RagDocument, RagPrompt

STOP = 0


class ToyGenerator:
    """p(y_i | x, z, y_<i) of a random table over a small vocabulary; token 0 ends an answer."""

    name = "toy"

    def __init__(self, vocab_size: int = 4, sharpness: float = 1.5) -> None:
        self.vocab_size, self.sharpness = vocab_size, sharpness
        self.stop_ids = frozenset([STOP])
        self.model = nn.Module()
        self.scored = 0
        """Answers that `Reading.logprobs` was asked for."""

    def prompt(self, question: str, document: RagDocument | None, *, reserve: int) -> RagPrompt:
        read = f"{document.title}/{document.text}//{question}" if document else question
        return RagPrompt(tuple(read.encode()))

    def target(self, answer: str) -> list[int]:
        return [*(1 + ord(letter) - ord("a") for letter in answer), STOP]

    def text(self, ids: Sequence[int]) -> str:
        return "".join(self.pieces([token for token in ids if token != STOP]))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [chr(ord("a") + token - 1) if token else "" for token in ids]

    def forget(self) -> None:
        pass

    def read(self, prompts: Sequence[RagPrompt]) -> "ToyReading":
        return ToyReading(self, prompts)

    def logprobs(self, prompts: Sequence[RagPrompt], targets: Sequence[Sequence[int]]) -> Tensor:
        rows = [
            torch.stack([self.logits(prompt, target[:i]).log_softmax(-1)[token] for i, token in enumerate(target)])
            for prompt, target in zip(prompts, targets, strict=True)
        ]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (R, T)

    def logits(self, prompt: RagPrompt, answer: Sequence[int]) -> Tensor:
        seed = hashlib.sha256(repr((prompt.ids, tuple(answer))).encode()).digest()[:8]
        stream = torch.Generator().manual_seed(int.from_bytes(seed, "little"))
        return self.sharpness * torch.randn(self.vocab_size, generator=stream)


class ToyReading:
    def __init__(self, generator: ToyGenerator, prompts: Sequence[RagPrompt]) -> None:
        self.generator, self.prompts = generator, prompts

    def start(self, rows: Sequence[int], max_tokens: int) -> "ToyState":
        return ToyState(self.generator, [(self.prompts[row], ()) for row in rows], max_tokens)

    def logprobs(self, rows: Sequence[int], targets: Sequence[Sequence[int]]) -> Tensor:
        self.generator.scored += len(rows)
        return self.generator.logprobs([self.prompts[row] for row in rows], targets)


class ToyState:
    def __init__(self, generator: ToyGenerator, rows: list[tuple[RagPrompt, tuple[int, ...]]], max_tokens: int) -> None:
        self.generator, self.rows, self.max_tokens = generator, rows, max_tokens

    @property
    def logits(self) -> Tensor:
        return torch.stack([self.generator.logits(*row) for row in self.rows])

    def step(self, tokens: Tensor) -> None:
        assert len(tokens) == len(self.rows)
        self.rows = [(prompt, (*ids, int(token))) for (prompt, ids), token in zip(self.rows, tokens, strict=True)]
        assert all(len(ids) < self.max_tokens for _, ids in self.rows), "a step that nothing needs"

    def select(self, rows: Sequence[int]) -> None:
        self.rows = [self.rows[row] for row in rows]
