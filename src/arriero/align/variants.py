"""Model variants that answer prompts: whole models, and adapters that share a base where they were made for it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from arriero.align.prompts import Prompt
from arriero.common.errors import ArrieroError
from arriero.generate.engine import Completion, Engine, Request, SamplingConfig
from arriero.model.formats.peft import fits, load_peft
from arriero.model.source import LoadedModel, base_of, is_adapter, load_merged, load_model, tokenizer_of
from arriero.tokenizer.tokenizer import Tokenizer


class Answering(Protocol):
    """An engine, or what stands in its place."""

    @property
    def tokenizer(self) -> Tokenizer:
        """With the chat template."""

    @property
    def context(self) -> int:
        """Most tokens of prompt and answer together."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """The samples of all requests."""


@dataclass(frozen=True)
class Variant:
    """A model, or one of several adapters over it, ready to answer."""

    name: str
    """The source, as records call it."""
    engine: Answering
    adapter: str | None = None
    """Its name in the engine's model; None: the model as it is."""
    base: LoadedModel | None = None
    """The engine's model, where no adapter is merged into it and others may share it."""
    base_source: str = ""
    """Its source."""

    def request(self, prompt: Prompt, sampling: SamplingConfig) -> Request:
        """What to ask the engine.

        Raises:
            ArrieroError: the model has no chat template, or it refuses the prompt; names file and line.
        """
        return Request(prompt_ids=self.encode(prompt), sampling=sampling, adapter=self.adapter)

    def encode(self, prompt: Prompt) -> list[int]:
        """The prompt's tokens up to where the answer begins.

        Raises:
            ArrieroError: as `request`.
        """
        try:
            return self.engine.tokenizer.encode_chat(prompt.messages)
        except ArrieroError as error:
            raise ArrieroError(f"{prompt.where or 'a prompt'}: {error}") from error

    def base_of(self, source: str) -> LoadedModel | None:
        """The base, if another source is an adapter that was made for it; by name, since weights that were fine-tuned
        a little look alike."""
        return self.base if is_adapter(Path(source).expanduser()) and _base(source) == self.base_source else None

    def fits(self, prompt: Prompt, max_tokens: int) -> bool:
        """Whether the context holds the prompt and an answer of so many tokens."""
        return len(self.encode(prompt)) + max_tokens <= self.engine.context


def load_variants(
    sources: Sequence[str], *, beside: Sequence[str] = (), device: str = "auto", max_batch: int = 16
) -> list[Variant]:
    """A variant for each source; equal sources are one, and adapters made for a base that is loaded share it.

    What shares no base has its adapter merged, which is a little faster.

    Args:
        beside: other models' sources that are to share a base too, such as those of reward models.
        max_batch: most rows that decode together.

    Raises:
        NotFoundError, FormatError, ArrieroError: a source is not here, or is damaged.
    """
    bases = {source: _base(source) for source in sources}
    counts = Counter({source: _base(source) for source in (*sources, *beside)}.values())
    loaded: dict[str, LoadedModel] = {}
    found: dict[str, Variant] = {}
    for number, (source, base) in enumerate(bases.items()):
        folder, name = Path(source).expanduser(), f"variant-{number}"
        if counts[base] > 1 and base not in loaded:
            loaded[base] = load_model(base, device=device)
        if counts[base] > 1 and base == source:
            found[source] = Variant(source, _engine(loaded[base], max_batch), None, loaded[base], base)
        elif counts[base] > 1 and fits(loaded[base].model, folder):
            load_peft(loaded[base].model, folder, name, base=loaded[base].name)
            own = replace(loaded[base], loaded_tokenizer=tokenizer_of(folder) or loaded[base].loaded_tokenizer)
            found[source] = Variant(source, _engine(own, max_batch), name, own, base)
        else:
            found[source] = Variant(source, _engine(load_merged(source, device=device), max_batch))
    return [found[source] for source in sources]


def answer(asked: Sequence[tuple[Variant, Prompt, SamplingConfig]]) -> list[list[Completion]]:
    """The samples of each request, in order; requests of one variant decode together."""
    answers: list[list[Completion]] = [[] for _ in asked]
    for engine in {id(variant.engine): variant.engine for variant, _, _ in asked}.values():
        own = [i for i, (variant, _, _) in enumerate(asked) if variant.engine is engine]
        requests = [asked[i][0].request(*asked[i][1:]) for i in own]
        for completion in engine.generate(requests):
            answers[own[completion.request]].append(completion)
    return answers


def _base(source: str) -> str:
    """The source below an adapter; any other one itself."""
    folder = Path(source).expanduser()
    return base_of(folder) if is_adapter(folder) else source


def _engine(loaded: LoadedModel, max_batch: int) -> Engine:
    return Engine(loaded.model, loaded.tokenizer, context=loaded.context, max_batch=max_batch)
