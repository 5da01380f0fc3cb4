"""Who answers a request: a model, or a model with one of its adapters."""

import dataclasses
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arriero.common.errors import did_you_mean
from arriero.generate.live import Live
from arriero.generate.request import Delta, Request
from arriero.generate.sampling_config import SamplingConfig
from arriero.serve.errors import ApiError
from arriero.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class ServedAdapter:
    """An adapter that is loaded into one of the models."""

    name: str
    model: str
    """The model's name."""
    folder: Path
    tokenizer: Tokenizer | None
    """Its own, where its folder carries one: with another chat template, say."""


@dataclass(frozen=True)
class Answerer:
    """A model, or a model with an adapter. It stands where an engine does for answers from documents."""

    name: str
    live: Live
    adapter: ServedAdapter | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """What writes its prompts."""
        own = self.adapter.tokenizer if self.adapter is not None else None
        return own or self.live.tokenizer

    @property
    def context(self) -> int:
        """Most tokens of prompt and answer together."""
        return self.live.context

    @property
    def defaults(self) -> dict[str, Any]:
        """How the model wants to be sampled, where it says so."""
        return self.live.engine.defaults

    def request(
        self,
        prompt_ids: list[int],
        sampling: SamplingConfig,
        cancel: threading.Event,
        prompt_logprobs: int | None = None,
    ) -> Request:
        """A request that it answers."""
        return self._own(
            Request(prompt_ids=prompt_ids, sampling=sampling, cancel=cancel, prompt_logprobs=prompt_logprobs)
        )

    def stream(self, request: Request) -> Generator[Delta, None, None]:
        """As an engine's, with the adapter."""
        return self.live.stream(self._own(request))

    def room(self, prompt_ids: list[int], wanted: int | None, param: str) -> int:
        """Most tokens that an answer may have: what is wanted, or what the model is used to and the context leaves.

        Raises:
            ApiError: the prompt leaves no room, or less than is wanted; `param` names the field that holds it.
        """
        room = self.context - len(prompt_ids)
        if room < max(1, wanted or 1):
            asked = f" and {wanted} of the answer" if wanted else ""
            raise ApiError(
                400,
                f"{param}: {len(prompt_ids)} tokens{asked} exceed the context of {self.context}: shorten it"
                + (" or ask for fewer tokens" if wanted else ""),
                param,
                "context_length_exceeded",
            )
        return wanted or min(room, self.defaults.get("max_tokens", room))

    def _own(self, request: Request) -> Request:
        return request if self.adapter is None else dataclasses.replace(request, adapter=self.adapter.name)


def find_answerer(
    name: str | None, models: dict[str, Live], adapters: dict[str, ServedAdapter], param: str = "model"
) -> Answerer:
    """The model or adapter of a name; the first model where none is given.

    Raises:
        ApiError: there is none of that name.
    """
    name = next(iter(models)) if name is None else name
    if name in models:
        return Answerer(name, models[name])
    if (adapter := adapters.get(name)) is not None:
        return Answerer(name, models[adapter.model], adapter)
    known = [*models, *adapters]
    raise ApiError(
        404, f"there is no model '{name}'{did_you_mean(name, known)}: /v1/models lists them", param, "model_not_found"
    )
