"""A LLaMA as RAG's generator: a decoder-only model that reads one document and the question in its prompt.

The document comes first and the question after it, so a document's keys and values serve every question about it
(`prefix_cache.py`). The wording is a chat's where the model has a template, else plain text.

R prompts, N rows that decode, T tokens of an answer, C model dim, V vocabulary.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from arriero.common.device import DTypeName
from arriero.common.errors import ArrieroError
from arriero.generate.engine import evaluating
from arriero.generate.schedule import group_prompts
from arriero.kernels.documents import Documents
from arriero.kernels.token_logprobs import token_logprobs
from arriero.model.adapters import Adapters
from arriero.model.kv_cache import KVCache
from arriero.model.packed import Weights
from arriero.model.transformer import Llama
from arriero.rag.fit import cut_to_fit
from arriero.rag.generator import RagDocument, RagPrompt
from arriero.rag.prefix_cache import PrefixCache
from arriero.tokenizer.chat import Message
from arriero.tokenizer.tokenizer import Tokenizer

SYSTEM = "Answer the question with a few words from the text."
SYSTEM_ALONE = "Answer the question with a few words."
KEEP_BYTES = 2**30
"""Of documents' keys and values: some 150 passages of 100 words for SmolLM2-135M."""
_SCORED_ROWS = 32
"""Answers that are scored together: each needs a copy of its prompt's cache."""


class LlamaGenerator:
    """A LLaMA with its tokenizer. For one thread at a time."""

    def __init__(
        self,
        model: Llama,
        tokenizer: Tokenizer,
        *,
        name: str = "LLaMA",
        context: int | None = None,
        keep_bytes: int = KEEP_BYTES,
    ) -> None:
        """Wrap a model.

        Args:
            model: its train/eval mode is left as found; it is in eval mode while it reads and decodes.
            tokenizer: names the tokens that end an answer.
            name: what messages call it.
            context: most tokens of prompt and answer together; by default what the model was trained for.
            keep_bytes: most bytes of documents' keys and values that are kept between questions.
        """
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.context = model.config.max_seq_len if context is None else context
        self.vocab_size, self.stop_ids = model.config.vocab_size, tokenizer.stop_ids
        self.kept = PrefixCache(keep_bytes)
        self._shared_ids = lru_cache(maxsize=4096)(self._find_shared_ids)

    @classmethod
    def load(
        cls,
        source: str,
        *,
        adapter: Path | None = None,
        device: str = "auto",
        dtype: DTypeName = "auto",
        weights: Weights = "full",
    ) -> "LlamaGenerator":
        """A generator of what `load_model` takes, an adapter merged into its weights where one is given."""
        from arriero.model.source import load_merged  # brings the file formats

        loaded = load_merged(source, adapter, device=device, dtype=dtype, weights=weights)
        return cls(loaded.model, loaded.tokenizer, name=loaded.name, context=loaded.context)

    def forget(self) -> None:
        """Drop what was kept of documents; call it when the model's weights have changed."""
        self.kept.clear()

    def prompt(self, question: str, document: RagDocument | None, *, reserve: int) -> RagPrompt:
        """As `Generator.prompt`."""
        room = self.context - reserve
        alone = self._encode(question, None)
        if len(alone) > room:
            raise ArrieroError(
                f"the question takes {len(alone)} tokens, and {room} of {self.name}'s context of {self.context} are "
                "free beside the answer: shorten the question, or take a model with a longer context"
            )
        if document is None:
            return RagPrompt(tuple(alone), _count_common(alone, self._shared_ids(None)))
        text = _shown(document)
        ids = self._encode(question, text)
        if cut := len(ids) > room:
            text = cut_to_fit(text, lambda beginning: len(self._encode(question, beginning)) <= room)
            ids = self._encode(question, text or None)
        return RagPrompt(tuple(ids), _count_common(ids, self._shared_ids(text or None)), cut)

    def target(self, answer: str) -> list[int]:
        """As `Generator.target`; an answer of no words is refused."""
        if not answer.strip():
            raise ArrieroError("expected an answer of one word or more, got an empty one")
        if self.tokenizer.chat_template is None:
            if self.tokenizer.eos_id is None:
                raise ArrieroError(f"{self.name} has no token that ends a text: an answer could not end")
            return [*self.tokenizer.encode(f" {answer.strip()}", bos=False, eos=False), self.tokenizer.eos_id]
        answered: Message = {"role": "assistant", "content": answer}
        ids, spans = self.tokenizer.encode_answers([*_write_chat("", None), answered])
        start, end = spans[-1]
        return ids[start:end]

    def text(self, ids: Sequence[int]) -> str:
        """As `Generator.text`."""
        return self.tokenizer.decode([token for token in ids if token not in self.stop_ids]).strip()

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """As `Generator.pieces`; what is part of a character is U+FFFD."""
        return ["" if token in self.stop_ids else self.tokenizer.decode([token]) for token in ids]

    @torch.inference_mode()
    def read(self, prompts: Sequence[RagPrompt]) -> "LlamaReading":
        """As `Generator.read`; beginnings that are kept, or that prompts share, are read once."""
        adapter = self._adapter
        heads = [(adapter, prompt.ids[: min(prompt.shared, len(prompt.ids) - 1)]) for prompt in prompts]
        rest = [prompt.ids[len(ids) :] for prompt, (_, ids) in zip(prompts, heads, strict=True)]
        cache = self._room(len(prompts), max(len(ids) for _, ids in heads) + max(map(len, rest)))
        rows: dict[tuple[str, tuple[int, ...]], list[int]] = {}
        for row, key in enumerate(heads):
            rows.setdefault(key, []).append(row)
        with evaluating(self.model):
            fresh = [key for key in rows if key[1] and self.kept.get(key) is None]
            for key in rows.keys() - fresh:
                if (kept := self.kept.get(key)) is not None:
                    cache.adopt(kept, 0, rows[key])
            for group in group_prompts(fresh):
                read = self._room(len(group), max(len(ids) for _, ids in group))
                self._forward([ids for _, ids in group], read)
                for place, key in enumerate(group):
                    cache.adopt(read, place, rows[key])
                    self.kept.put(key, read.select([place], max_len=len(key[1])))
            return LlamaReading(self, cache, self._logits_after(rest, cache))

    def logprobs(self, prompts: Sequence[RagPrompt], targets: Sequence[Sequence[int]]) -> Tensor:
        """As `Generator.logprobs`: prompts and answers lie end to end in one row, without padding."""
        rows = [[*prompt.ids, *target[:-1]] for prompt, target in zip(prompts, targets, strict=True)]
        bounds = torch.tensor([0, *map(len, rows)]).cumsum(0)  # (R + 1,)
        places = [
            torch.arange(int(end) - len(target), int(end)) for end, target in zip(bounds[1:], targets, strict=True)
        ]
        device = self.model.tok_embeddings.weight.device
        tokens = torch.tensor([token for row in rows for token in row])[None]  # (1, Σ tokens)
        documents = Documents.from_cu_seqlens(bounds, 1, tokens.shape[1])
        wanted = torch.tensor([token for target in targets for token in target])  # (Σ T,)
        flat = self.model.compute(
            _logprobs_at, tokens.to(device), documents.to(device), torch.cat(places).to(device), wanted.to(device)
        )
        return pad_sequence(list(torch.split(flat, [len(target) for target in targets])), batch_first=True)  # (R, T)

    @property
    def _adapter(self) -> str:
        return (self.model.adapters.active or "") if isinstance(self.model.adapters, Adapters) else ""

    def _room(self, rows: int, tokens: int) -> KVCache:
        weight = self.model.tok_embeddings.weight
        return KVCache(self.model.config, rows, tokens, dtype=weight.dtype, device=weight.device)

    def _forward(self, rows: Sequence[Sequence[int]], cache: KVCache) -> Tensor:
        """Hidden states (N, T, C) of rows of tokens that go into a cache."""
        lengths = [len(row) for row in rows]
        padded = [[*row, *[0] * (max(lengths) - len(row))] for row in rows]
        tokens = torch.tensor(padded, device=cache.k.device)  # (N, T)
        return self.model.hidden(tokens, cache=cache, prompt_lengths=lengths)

    def _logits_after(self, rows: Sequence[Sequence[int]], cache: KVCache) -> Tensor:
        """(N, V) fp32: of the token after each row, whose tokens go into the cache."""
        hidden = self._forward(rows, cache)  # (N, T, C)
        last = hidden[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]  # (N, C)
        logits: Tensor = self.model.output(last).float()
        return logits

    def _encode(self, question: str, text: str | None) -> list[int]:
        if self.tokenizer.chat_template is not None:
            return self.tokenizer.encode_chat(_write_chat(question, text))
        about = "" if text is None else f"{text}\n\n"
        return self.tokenizer.encode(f"{about}Question: {question}\nAnswer:", eos=False)

    def _find_shared_ids(self, text: str | None) -> tuple[int, ...]:
        """The tokens that a text's prompts begin with, whatever the question: two that share nothing tell."""
        ids = self._encode("A", text)
        return tuple(ids[: _count_common(ids, self._encode("1", text))])


class LlamaReading:
    """Prompts that were read: their keys and values, and what follows each."""

    def __init__(self, generator: LlamaGenerator, cache: KVCache, logits: Tensor) -> None:
        self.generator, self.cache, self.first = generator, cache, logits  # (R, V)

    def start(self, rows: Sequence[int], max_tokens: int) -> "LlamaState":
        """As `Reading.start`."""
        return LlamaState(self, rows, max_tokens)

    @torch.inference_mode()
    def logprobs(self, rows: Sequence[int], targets: Sequence[Sequence[int]]) -> Tensor:
        """As `Reading.logprobs`."""
        found: list[Tensor] = []
        with evaluating(self.generator.model):
            for start in range(0, len(rows), _SCORED_ROWS):
                part = slice(start, start + _SCORED_ROWS)
                found += self._score(rows[part], targets[part])
        return pad_sequence(found, batch_first=True)  # (len(rows), T)

    def _score(self, rows: Sequence[int], targets: Sequence[Sequence[int]]) -> list[Tensor]:
        longest = max(map(len, targets))
        logits = self.first[list(rows)][:, None]  # (N, 1, V)
        if longest > 1:
            lengths = self.cache.lengths[list(rows)]
            cache = self.cache.select(rows, max_len=int(lengths.max()) + longest - 1)
            hidden = self.generator._forward([target[:-1] or [0] for target in targets], cache)  # (N, T − 1, C)
            logits = torch.cat([logits, self.generator.model.output(hidden).float()], dim=1)  # (N, T, V)
        logprobs = logits.log_softmax(-1)
        return [logprobs[n, torch.arange(len(target)), torch.tensor(target)] for n, target in enumerate(targets)]


class LlamaState:
    """Answers in progress."""

    def __init__(self, reading: LlamaReading, rows: Sequence[int], max_tokens: int) -> None:
        self._generator, self._prompts = reading.generator, list(rows)
        self._prompt_lengths = reading.cache.lengths.tolist()
        longest = max(self._prompt_lengths[row] for row in rows)
        self._cache = reading.cache.select(rows, max_len=longest + max_tokens - 1)
        self.logits = reading.first[self._prompts]  # (N, V)

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> None:
        """As `DecoderState.step`."""
        with evaluating(self._generator.model):
            self.logits = self._generator._logits_after(tokens[:, None].tolist(), self._cache)

    def select(self, rows: Sequence[int]) -> None:
        """As `DecoderState.select`; where each row keeps its prompt, what comes after the prompts moves alone."""
        if list(rows) == list(range(len(self._prompts))):
            return
        prompts = [self._prompts[row] for row in rows]
        if prompts == self._prompts:
            self._cache.reorder(rows, min(self._prompt_lengths[prompt] for prompt in prompts))
        else:
            self._cache = self._cache.select(rows)
        self._prompts = prompts
        self.logits = self.logits[list(rows)]


def _write_chat(question: str, text: str | None) -> list[Message]:
    about = "" if text is None else f"{text}\n\n"
    system = SYSTEM_ALONE if text is None else SYSTEM
    return [{"role": "system", "content": system}, {"role": "user", "content": f"{about}Question: {question}"}]


def _shown(document: RagDocument) -> str:
    return f"{document.title}\n{document.text}" if document.title else document.text


def _count_common(ids: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next(
        (i for i, pair in enumerate(zip(ids, other, strict=False)) if pair[0] != pair[1]), min(len(ids), len(other))
    )


def _logprobs_at(model: Llama, tokens: Tensor, documents: Documents, places: Tensor, wanted: Tensor) -> Tensor:
    """log p of the tokens `wanted` (M,) after the `places` (M,) of a row (1, N)."""
    hidden = model.hidden(tokens, documents=documents)[0, places]  # (M, C)
    return token_logprobs(hidden, model.output_weight, wanted)[0]
