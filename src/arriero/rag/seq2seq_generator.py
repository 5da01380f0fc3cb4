"""An encoder-decoder as RAG's generator: BART, as in the paper (Lewis et al., arXiv 2005.11401, section 2.3), T5, …

The encoder reads `title / document // question`, the decoder writes the answer. The network is `transformers`'; a
prompt's encoding and its cross-attention keys are computed once, for decoding and for scoring, and beams share them.

R prompts, N rows that decode, G prompts that they read, S tokens of a prompt, T of an answer, V vocabulary.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from arriero.common.device import pick_device
from arriero.common.errors import ArrieroError, FormatError, NotFoundError, require
from arriero.generate.engine import evaluating
from arriero.kernels.linear import Linear
from arriero.model.staging import staged
from arriero.rag.fit import cut_to_fit
from arriero.rag.generator import RagDocument, RagPrompt
from arriero.rag.quiet import quiet
from arriero.rag.shared_attention import Groups, share_prompts

_LONGEST = 1024
"""Tokens of a prompt where neither model nor tokenizer names a limit."""
_SCORED_ROWS = 32
"""Answers that are scored together."""


class Seq2SeqGenerator:
    """An encoder-decoder of `transformers` with its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any, *, name: str = "encoder-decoder") -> None:
        """Wrap a model; its train/eval mode is left as found, its attention is one that can share prompts."""
        self.model: Any = model
        self.tokenizer, self.name = tokenizer, name
        config, generation = self.model.config, self.model.generation_config
        self.vocab_size = int(config.vocab_size)
        self.stop_ids = _ids(generation.eos_token_id if generation.eos_token_id is not None else config.eos_token_id)
        start = generation.decoder_start_token_id
        start = config.decoder_start_token_id if start is None else start
        if start is None or not self.stop_ids:
            raise FormatError(f"{name}: its config names no decoder_start_token_id, or no eos_token_id")
        self.given = [int(start), *sorted(_ids(generation.forced_bos_token_id))]
        """What every answer begins with: it is given, and not scored."""
        limit = config.to_dict().get("max_position_embeddings")
        self.answer_limit = int(limit or _LONGEST) - len(self.given)
        self.prompt_limit = min(int(limit or _LONGEST), int(tokenizer.model_max_length))
        self.shares = share_prompts(model)

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "auto") -> "Seq2SeqGenerator":
        """Read a folder in Hugging Face format.

        Raises:
            NotFoundError: there is no such folder.
            FormatError: it holds no encoder-decoder with safetensors.
        """
        transformers = require("transformers", extra="rag", purpose="running encoder-decoders")
        place = Path(folder)
        if not place.is_dir():
            raise NotFoundError(f"no model folder at {folder}: expected one with config.json and model.safetensors")
        own: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            with quiet(transformers):
                model = transformers.AutoModelForSeq2SeqLM.from_pretrained(
                    str(place), use_safetensors=True, dtype=torch.float32, **own
                )
                tokenizer = transformers.AutoTokenizer.from_pretrained(str(place), **own)
        except (OSError, ValueError, RuntimeError) as error:
            raise FormatError(f"{folder} does not load as an encoder-decoder ({str(error).splitlines()[0]})") from error
        for layer in model.modules():
            if type(layer) is nn.Linear:
                layer.__class__ = Linear  # computed by ours
        return cls(model.to(pick_device(device)).eval(), tokenizer, name=place.resolve().name)

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as `transformers` reads them, whole or not at all."""
        transformers = require("transformers", extra="rag", purpose="writing encoder-decoders")
        with staged(folder) as aside, quiet(transformers):
            self.model.save_pretrained(aside)
            self.tokenizer.save_pretrained(aside)

    def forget(self) -> None:
        """Nothing is kept between prompts."""

    def prompt(self, question: str, document: RagDocument | None, *, reserve: int) -> RagPrompt:
        """As `Generator.prompt`."""
        if reserve > self.answer_limit:
            raise ArrieroError(f"{self.name} writes answers of at most {self.answer_limit} tokens, not {reserve}")
        if (alone := len(self._encode(question))) > self.prompt_limit:
            raise ArrieroError(
                f"the question takes {alone} tokens, and {self.name} reads {self.prompt_limit}: shorten the question"
            )
        if document is None:
            return RagPrompt(tuple(self._encode(question)))
        title = f"{document.title} / " if document.title else ""

        def write(text: str) -> str:
            return f"{title}{text} // {question}"

        ids, cut = self._encode(write(document.text)), False
        if len(ids) > self.prompt_limit:
            cut = True
            text = cut_to_fit(document.text, lambda beginning: len(self._encode(write(beginning))) <= self.prompt_limit)
            ids = self._encode(write(text) if text else question)
        return RagPrompt(tuple(ids), cut=cut)

    def target(self, answer: str) -> list[int]:
        """As `Generator.target`; an answer of no words is refused."""
        if not answer.strip():
            raise ArrieroError("expected an answer of one word or more, got an empty one")
        ids = list(self.tokenizer(text_target=answer.strip())["input_ids"])
        if len(self.given) > 1 and ids[:1] == self.given[1:]:
            ids = ids[1:]
        return ids if ids[-1] in self.stop_ids else [*ids, min(self.stop_ids)]

    def text(self, ids: Sequence[int]) -> str:
        """As `Generator.text`."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """As `Generator.pieces`."""
        return [str(self.tokenizer.decode([token], skip_special_tokens=True)) for token in ids]

    @torch.inference_mode()
    def read(self, prompts: Sequence[RagPrompt]) -> "Seq2SeqReading":
        """As `Generator.read`."""
        with evaluating(self.model):
            tokens, mask = self._pad([prompt.ids for prompt in prompts])  # (R, S)
            encoded = self.model.get_encoder()(input_ids=tokens, attention_mask=mask)
            cache = self._new_cache()
            given = torch.tensor([self.given], device=tokens.device).expand(len(prompts), -1)  # (R, given)
            logits = self._decode(encoded, mask, given, cache, None)[:, -1]  # (R, V)
        return Seq2SeqReading(self, encoded, mask, cache, logits)

    def logprobs(self, prompts: Sequence[RagPrompt], targets: Sequence[Sequence[int]]) -> Tensor:
        """As `Generator.logprobs`."""
        tokens, mask = self._pad([prompt.ids for prompt in prompts])  # (R, S)
        inputs, _ = self._pad([[*self.given, *target[:-1]] for target in targets])  # (R, given + T − 1)
        logits = self.model(input_ids=tokens, attention_mask=mask, decoder_input_ids=inputs, use_cache=False).logits[
            :, len(self.given) - 1 :
        ]  # (R, T, V)
        return self._pick(logits.float(), targets)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, truncation=False, verbose=False)["input_ids"])

    def _pad(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Tokens and mask, (R, S) each; what is masked may be any id."""
        device = self.model.device
        tokens = pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True)  # (R, S)
        mask = torch.arange(tokens.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]  # (R, S)
        return tokens.to(device), mask.long().to(device)

    def _new_cache(self) -> Any:
        transformers = require("transformers", extra="rag", purpose="running encoder-decoders")
        empty = [transformers.DynamicCache(config=self.model.config) for _ in range(2)]
        return transformers.EncoderDecoderCache(*empty)

    def _decode(self, encoded: Any, mask: Tensor, tokens: Tensor, cache: Any, groups: Groups | None) -> Tensor:
        """Logits (N, T, V) in fp32 after the tokens (N, T), which go into the cache; encodings and mask are of N rows,
        or of G prompts where the rows share them."""
        shared = {} if groups is None else {"groups": groups}
        logits: Tensor = self.model(
            encoder_outputs=encoded,
            attention_mask=mask,
            decoder_input_ids=tokens,
            cache=cache,
            use_cache=True,
            **shared,
        ).logits.float()
        return logits

    def _pick(self, logits: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
        """Of logits (N, T, V), the targets' log-probabilities (N, T), 0 behind a target's end."""
        wanted, real = self._pad(targets)  # (N, T)
        chosen = logits.log_softmax(-1).gather(-1, wanted[..., None])[..., 0]  # (N, T)
        return torch.where(real.bool(), chosen, 0.0)


class Seq2SeqReading:
    """Prompts that were read: their encodings, the decoder's keys and values, and what follows."""

    def __init__(self, generator: Seq2SeqGenerator, encoded: Any, mask: Tensor, cache: Any, logits: Tensor) -> None:
        self.generator, self.encoded, self.mask, self.cache, self.first = generator, encoded, mask, cache, logits

    def start(self, rows: Sequence[int], max_tokens: int) -> "Seq2SeqState":
        """As `Reading.start`."""
        return Seq2SeqState(self, rows)

    @torch.inference_mode()
    def logprobs(self, rows: Sequence[int], targets: Sequence[Sequence[int]]) -> Tensor:
        """As `Reading.logprobs`."""
        longest, found = max(map(len, targets)), []
        for start in range(0, len(rows), _SCORED_ROWS):
            scored = self._score(rows[start : start + _SCORED_ROWS], targets[start : start + _SCORED_ROWS])
            found.append(nn.functional.pad(scored, (0, longest - scored.shape[1])))
        return torch.cat(found)  # (len(rows), T)

    def _score(self, rows: Sequence[int], targets: Sequence[Sequence[int]]) -> Tensor:
        state = Seq2SeqState(self, rows)
        logits = state.logits[:, None]  # (N, 1, V)
        if max(map(len, targets)) > 1:
            inputs, _ = self.generator._pad([target[:-1] for target in targets])  # (N, T − 1)
            logits = torch.cat([logits, state.append(inputs)], dim=1)  # (N, T, V)
        return self.generator._pick(logits, targets)

    def encodings(self, rows: Sequence[int]) -> Any:
        """The encoder's output for some of the prompts."""
        return type(self.encoded)(last_hidden_state=self.encoded.last_hidden_state[list(rows)])


class Seq2SeqState:
    """Answers in progress."""

    def __init__(self, reading: Seq2SeqReading, rows: Sequence[int]) -> None:
        self._reading, self._prompts = reading, list(rows)
        self._cache = _copy(reading.cache)
        self._cache.self_attention_cache.reorder_cache(torch.tensor(self._prompts))
        self._held = list(range(len(reading.mask)))
        self._hold()
        self.logits = reading.first[self._prompts]  # (N, V)

    @torch.inference_mode()
    def append(self, tokens: Tensor) -> Tensor:
        """Append tokens (N, T); returns the logits (N, T, V) after each."""
        generator = self._reading.generator
        with evaluating(generator.model):
            return generator._decode(self._encoded, self._mask, tokens.to(self._mask.device), self._cache, self._groups)

    def step(self, tokens: Tensor) -> None:
        """As `DecoderState.step`."""
        self.logits = self.append(tokens[:, None])[:, 0]

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        """As `DecoderState.select`; cross-attention moves only where another set of prompts is read."""
        if list(rows) == list(range(len(self._prompts))):
            return
        self._cache.self_attention_cache.reorder_cache(torch.tensor(rows))
        prompts = [self._prompts[row] for row in rows]
        if prompts != self._prompts:
            self._prompts = prompts
            self._hold()
        self.logits = self.logits[list(rows)]

    def _hold(self) -> None:
        """Have the cross-attention of the prompts that are read: each once where rows can share it, else one a row."""
        shares = self._reading.generator.shares
        wanted = list(dict.fromkeys(self._prompts)) if shares else self._prompts
        if wanted != self._held:
            self._cache.cross_attention_cache = _copy_part(self._reading.cache.cross_attention_cache)
            self._cache.cross_attention_cache.reorder_cache(torch.tensor(wanted))
        self._held = list(wanted)
        self._encoded, self._mask = self._reading.encodings(wanted), self._reading.mask[wanted]
        # as many prompts as rows are the rows' own, in their order
        grouped = len(wanted) < len(self._prompts)
        self._groups = Groups.of(self._prompts, self._mask.device) if grouped else None


def _ids(value: int | Sequence[int] | None) -> frozenset[int]:
    return frozenset() if value is None else frozenset([value] if isinstance(value, int) else value)


def _copy(cache: Any) -> Any:
    """Another cache of the same tensors, which are replaced as it grows and never written to."""
    other = copy.copy(cache)
    other.is_updated = dict(cache.is_updated)
    other.self_attention_cache = _copy_part(cache.self_attention_cache)
    other.cross_attention_cache = _copy_part(cache.cross_attention_cache)
    return other


def _copy_part(part: Any) -> Any:
    other = copy.copy(part)
    other.layers = [copy.copy(layer) for layer in part.layers]
    return other
