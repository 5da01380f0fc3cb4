"""What the tests of sampled dialogues share: a model that talks nonsense and ends it, and one that is scripted."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from arriero.generate.engine import Completion, Request
from arriero.model.config import LlamaConfig
from arriero.model.formats.hf import save_hf
from arriero.model.transformer import Llama
from arriero.tokenizer.tokenizer import Tokenizer
from tests.train.shard_folders import EOS, byte_tokenizer
from tests.train.tuning import TEMPLATE

ODD = ("Ünïcödé 🦙\u200d🏔 ok?", "שלום עולם", "a\u0301 </s> [INST] \x07?", "日本語。\u2028next")
"""Questions that are hard to handle."""


def talker_tokenizer() -> Tokenizer:
    """A token a byte, and a chat template."""
    tokenizer = byte_tokenizer()
    tokenizer.use_chat_template(TEMPLATE)
    return tokenizer


def write_talker(folder: Path, *, context: int = 1024) -> Path:
    """A Hugging Face folder of a model of random weights, with a strong opinion about when to end an answer."""
    shape = LlamaConfig.of(
        vocab_size=258, dim=64, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=96, max_seq_len=context
    )
    model = Llama(shape).init_weights(5)
    with torch.no_grad():
        model.output.weight[EOS] *= 30
    save_hf(model, folder, bos_id=None, eos_id=EOS)
    talker_tokenizer().save(folder)
    return folder


class Scripted:
    """Stands in for the engine: answers what `reply` says to the text of a prompt, and keeps all that it was asked."""

    def __init__(self, reply: Callable[[str], str], *, context: int = 4096, ended: bool = True) -> None:
        self.reply, self.context, self.ended = reply, context, ended
        self.tokenizer = talker_tokenizer()
        self.asked: list[str] = []
        self.seeds: list[int] = []

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request."""
        prompts = [self.tokenizer.decode(request.prompt_ids, skip_special=False) for request in requests]
        self.asked += prompts
        self.seeds += [request.sampling.seed for request in requests]
        return [
            Completion(
                request=number,
                sample=0,
                ids=(),
                text=self.reply(prompt),
                finish_reason="stop" if self.ended else "length",
                logprobs=None,
                prompt_tokens=len(request.prompt_ids),
                seed=0,
            )
            for number, (prompt, request) in enumerate(zip(prompts, requests, strict=True))
        ]
