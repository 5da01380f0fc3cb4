"""A model in Python: `Model.load(…)`, and what it says to a message, to a text's beginning, and of a text.

It is the commands' engine with the commands' settings: an answer here is the answer that `arriero generate` prints.
"""

import dataclasses
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Literal, overload

from arriero.api.reply import Reply, Stream
from arriero.common.device import DTypeName
from arriero.common.errors import ArrieroError
from arriero.generate.engine import Engine
from arriero.generate.request import Delta, Request
from arriero.generate.sampling_config import SamplingConfig
from arriero.model.adapters import Adapters, adapter_on
from arriero.model.choices import DEFAULT_MODEL
from arriero.model.export import Storage, export_model
from arriero.model.formats.peft import load_peft, read_quantised
from arriero.model.own_weights import own_weights
from arriero.model.packed import Weights
from arriero.model.presets import PRESETS
from arriero.model.source import NAMED, base_of, is_adapter, load_merged, tokenizer_of
from arriero.tokenizer.chat import Message
from arriero.tokenizer.tokenizer import Tokenizer
from arriero.train.evaluate import evaluate, memory_source


class Model:
    """A model with its tokenizer, ready to answer. For one thread at a time.

    >>> model = Model.load("smollm2-135m-instruct")
    >>> model.chat("What is the capital of France?")
    'The capital of France is Paris.'
    """

    def __init__(self, source: str, engine: Engine, *, adapter: Path | None = None, guest: str | None = None) -> None:
        """Use `Model.load`, or `with_adapter` of another one.

        Args:
            source: where the weights come from.
            engine: what runs them.
            adapter: folder of the adapter that is in the weights or, as a guest, over them.
            guest: by what name the engine's model has it, if it is over them.
        """
        self.source, self.engine = source, engine
        self._adapter, self._guest = adapter, guest
        own = tokenizer_of(adapter) if adapter is not None and guest is not None else None
        self.tokenizer: Tokenizer = own or engine.tokenizer
        """Text to tokens and back; writes the prompts of chats."""

    @classmethod
    def load(
        cls,
        source: str | Path = DEFAULT_MODEL,
        *,
        adapter: str | Path | None = None,
        device: str = "auto",
        dtype: DTypeName = "auto",
        weights: Weights | Literal["auto"] = "auto",
        max_batch: int = 16,
    ) -> "Model":
        """Load a model that is on this machine.

        Args:
            source: a name (`arriero model get` lists them), a folder, a .gguf file, a hub id, or the folder of an
                adapter, such as `sft` makes.
            adapter: a folder with an adapter in PEFT's format, to be merged into the weights.
            device: auto takes the first of cuda, mps, cpu.
            dtype: auto is bfloat16 on cuda and float32 elsewhere.
            weights: how matrices are held: full, int8 or int4; auto keeps the bits of a GGUF file on a CPU, and is full
                elsewhere.
            max_batch: most prompts that are continued together.

        Raises:
            NotFoundError: it is not here; the message says how to get it.
            FormatError, ArrieroError: its files are damaged, or not of a kind that is supported.
        """
        whole, folder = _locate(source), None if adapter is None else Path(adapter).expanduser().resolve()
        held = own_weights(whole, folder, device=device, dtype=dtype) if weights == "auto" else weights
        engine = Engine.load(whole, adapter=folder, device=device, dtype=dtype, weights=held, max_batch=max_batch)
        return cls(whole, engine, adapter=folder)

    def __repr__(self) -> str:
        on = "" if self._adapter is None else f" with {self._adapter}"
        return f"<Model {self.source}{on}, context of {self.context} tokens>"

    @property
    def context(self) -> int:
        """Most tokens of prompt and answer together."""
        return self.engine.context

    @overload
    def chat(
        self,
        messages: str | Sequence[Message],
        sampling: SamplingConfig | None = None,
        *,
        system: str | None = None,
        stream: Literal[False] = False,
    ) -> Reply: ...
    @overload
    def chat(
        self,
        messages: str | Sequence[Message],
        sampling: SamplingConfig | None = None,
        *,
        system: str | None = None,
        stream: Literal[True],
    ) -> Stream: ...
    def chat(
        self,
        messages: str | Sequence[Message],
        sampling: SamplingConfig | None = None,
        *,
        system: str | None = None,
        stream: bool = False,
    ) -> Reply | Stream:
        """Answer a message, or the last one of a talk.

        >>> model.chat([
        ...     {"role": "user", "content": "What is the capital of France?"},
        ...     {"role": "assistant", "content": "The capital of France is Paris."},
        ...     {"role": "user", "content": "And of Italy?"},
        ... ])
        'The capital of Italy is Rome.'
        >>> for piece in model.chat("What is the capital of France?", stream=True):
        ...     print(piece, end="")
        The capital of France is Paris.

        Args:
            messages: a text of the user, or mappings with `role` (system, user, assistant) and `content`.
            sampling: how to answer; by default greedily, so that the same message gets the same answer. Fewer than its
                `max_tokens` come where the context leaves less room.
            system: the system message, before all others; default: what the model's template puts there.
            stream: give pieces of text as they come.

        Raises:
            ArrieroError: the model has no chat template, or the messages do not fit its context.
        """
        turns: list[Message] = [{"role": "user", "content": messages}] if isinstance(messages, str) else [*messages]
        if system is not None:
            turns.insert(0, {"role": "system", "content": system})
        request = self._request(self.tokenizer.encode_chat(turns), sampling)
        if stream:
            return Stream(self.engine.stream(request))
        return Reply(self.engine.generate([request])[0])

    @overload
    def generate(self, prompt: str, sampling: SamplingConfig | None = None) -> Reply: ...
    @overload
    def generate(self, prompt: list[str] | tuple[str, ...], sampling: SamplingConfig | None = None) -> list[Reply]: ...
    def generate(
        self, prompt: str | list[str] | tuple[str, ...], sampling: SamplingConfig | None = None
    ) -> Reply | list[Reply]:
        """Continue a text as it stands, outside any chat format; several texts at once go faster than one by one.

        >>> model.generate("One, two, three,", SamplingConfig(max_tokens=2))
        ' four,'
        >>> model.generate(["One, two, three,", "The capital of France is"], SamplingConfig(max_tokens=2))
        [' four,', ' Paris.']

        Args:
            prompt: the text, or several.
            sampling: as of `chat`.

        Raises:
            ArrieroError: a text is empty, or does not fit the context.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt
        requests = [self._request(self.tokenizer.encode(text), sampling) for text in prompts]
        replies = [Reply(completion) for completion in self.engine.generate(requests)]
        return replies[0] if isinstance(prompt, str) else replies

    def tokenize(self, text: str) -> list[int]:
        """The ids of a text's tokens; `model.tokenizer.decode` makes text of them again.

        >>> model.tokenizer.decode(model.tokenize("¿Qué tal?"))
        '¿Qué tal?'
        """
        return self.tokenizer.encode(text)

    def perplexity(self, text: str) -> float:
        """How many tokens the model hesitates between, on average, at each of the text's: lower is better predicted.

        What `arriero eval --no-eos` gives for a file with this text. The first token is predicted only by a model whose
        texts begin with a token of their own.

        >>> model.perplexity("The cat sat on the mat.") < model.perplexity("Mat the on sat cat the.")
        True

        Raises:
            ArrieroError: the text has not two tokens.
        """
        with adapter_on(self.engine.model, self._guest):
            return evaluate(self.engine.model, memory_source("text", [text], self.tokenizer, eos=False)).perplexity

    def with_adapter(self, folder: str | Path) -> "Model":
        """This model with an adapter over it, in PEFT's format: the weights are shared, and this one stays as it is.

        Any number of adapters can be over one model. `Model.load(…, adapter=…)` merges one into the weights instead,
        and is a little faster. The adapter stays in memory as long as the weights do.

        Raises:
            NotFoundError: the folder holds no adapter.
            ArrieroError: it is for another model, or the weights have one merged into them.
        """
        folder = Path(folder).expanduser().resolve()
        if self._guest is None and (self._adapter is not None or is_adapter(Path(self.source))):
            raise ArrieroError(f"{self!r} has its adapter in its weights: load the model without it first")
        base_of(folder, self.source)
        if (kind := read_quantised(folder)) != "none":
            raise ArrieroError(
                f"{folder} was trained over weights in {kind}, and over these is another model: use Model.load(folder)"
            )
        adapters = Adapters.of(self.engine.model)
        name = f"guest-{len(adapters.configs)}"
        load_peft(self.engine.model, folder, name, base=self.source)
        return Model(self.source, self.engine, adapter=folder, guest=name)

    def save(self, target: str | Path, storage: Storage = "f16") -> Path:
        """Write the model, its adapter merged, as `arriero model export` does, and read it back to compare.

        Args:
            target: a new folder (Hugging Face's format), or a new file that ends in .gguf, for llama.cpp.
            storage: f32, f16, bf16 (folders only) or q8_0 (GGUF only). What is stored comes from the model's source in
                full precision, however it is held in memory.

        Returns:
            The target.

        Raises:
            ArrieroError: something is there already, or what was written reads back as another model.
        """
        target = Path(target).expanduser()
        if target.is_file() or (target.is_dir() and any(target.iterdir())):
            raise ArrieroError(f"{target} exists already: choose another target, or remove it first")
        export_model(load_merged(self.source, self._adapter, device="cpu", dtype="float32"), target, storage)
        return target

    def stream(self, request: Request) -> Generator[Delta, None, None]:
        """Continue a request, as an engine does, with the adapter of this model: so it answers from documents."""
        return self.engine.stream(self._own(request))

    def _request(self, ids: list[int], sampling: SamplingConfig | None) -> Request:
        sampling = sampling or SamplingConfig()
        if sampling.n != 1:
            raise ArrieroError(
                f"expected n = 1, got {sampling.n}: for several samples give `generate` the prompt several times"
            )
        room = max(1, self.context - len(ids))
        sampling = dataclasses.replace(sampling, max_tokens=min(sampling.max_tokens, room))
        return self._own(Request(prompt_ids=ids, sampling=sampling))

    def _own(self, request: Request) -> Request:
        return dataclasses.replace(request, adapter=self._guest)


def _locate(source: str | Path) -> str:
    """The source; a path whole, so that it is found again wherever the program goes."""
    path = Path(source).expanduser()
    if isinstance(source, str) and (source in NAMED or source in PRESETS):
        return source
    return str(path.resolve()) if path.exists() else str(source)
