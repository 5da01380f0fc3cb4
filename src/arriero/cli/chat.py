"""`arriero chat`: a talk with a model, whose history is trimmed to the model's context."""

import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from arriero.cli.conversation import Commands, Talk
from arriero.cli.engine import EngineConfig, load_engine
from arriero.cli.output import note, print_json, printable
from arriero.common.errors import ArrieroError
from arriero.generate.request import Request
from arriero.generate.sampling_config import SamplingConfig

if TYPE_CHECKING:
    from arriero.generate.engine import Engine
    from arriero.tokenizer.chat import Message


USUAL = {"temperature": 0.2, "top_p": 0.9, "repetition_penalty": 1.1}
"""For models that name no temperature: small ones ramble at 1."""


@dataclass(frozen=True, kw_only=True)
class TalkSampling:
    """How answers are sampled; what is not given is as the model's generation_config.json has it."""

    max_tokens: int | None = None
    """Most tokens of an answer; default: the model's own, else 512."""
    temperature: float | None = None
    """Divides the logits before the softmax; 0 takes the likeliest token (greedy); default: the model's own, else
    0.2."""
    top_k: int | None = None
    """Sample among the k likeliest tokens only; 0 = all; default: the model's own, else 0."""
    top_p: float | None = None
    """Sample among the likeliest tokens that together hold this probability; 1 = all; default: the model's own, else
    0.9."""
    min_p: float | None = None
    """Sample among tokens at least this fraction as likely as the likeliest; default: the model's own, else 0."""
    repetition_penalty: float | None = None
    """Divides the positive and multiplies the negative logits of tokens already said; 1 = none; default: the model's
    own, else 1.1."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer; the answer is cut before them."""
    stop_ids: tuple[int, ...] | None = None
    """Token ids that end an answer; default: those of the tokenizer; () = none, run to max_tokens."""
    seed: int | None = None
    """Random stream of each answer, one of 2^32 (low bits count); default: a fresh one."""

    def __post_init__(self) -> None:
        self.over({})  # what cannot be used is told before a model is loaded

    def over(self, own: Mapping[str, Any]) -> SamplingConfig:
        """These settings over the model's own, and those over the usual ones where they have no temperature."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        usual = {} if "temperature" in own else USUAL
        return SamplingConfig(**({"max_tokens": 512} | usual | dict(own) | given))


@dataclass(frozen=True, kw_only=True)
class ChatConfig(EngineConfig):
    """Whom to talk with, and how."""

    system: str | None = None
    """System message; default: what the model's template puts there."""
    json: bool = False
    """Print each answer as one JSON object a line."""
    speculate: int = 8
    """Most tokens to guess ahead from what prompt and answer said: the same answer, sooner; 0 guesses nothing."""
    sampling: TalkSampling = field(default_factory=TalkSampling)


def chat(config: ChatConfig) -> int:
    """Talk with a model: type a line, get an answer. Lines may also come from a pipe.

    Ctrl-C stops the answer and not the program; Ctrl-D, or Ctrl-C twice at the prompt, leaves. When the talk outgrows
    the model's context, its oldest turns are dropped, and a notice says so.
    """
    session = Session(load_engine(config, speculate=config.speculate), config)
    commands: Commands = {
        "/reset": ("forget the talk so far", session.reset),
        "/system": ("set the system message and begin anew; without a text, show it", session.set_system),
    }
    Talk(session.reply, f"Talking with {config.model}.", commands).run()
    return 0


class Session:
    """The turns so far, and the engine that answers them."""

    def __init__(self, engine: "Engine", config: ChatConfig) -> None:
        if engine.tokenizer.chat_template is None:
            raise ArrieroError(f"model '{config.model}' has no chat template: `arriero generate --raw` continues text")
        self.engine, self.config = engine, config
        self.sampling = config.sampling.over(engine.defaults)
        self.system = config.system
        self.turns: list[Message] = []

    def reset(self, rest: str = "") -> None:
        """Forget the turns."""
        self.turns.clear()
        note("(the talk begins anew)")

    def set_system(self, text: str) -> None:
        """Set the system message and begin anew, or show it."""
        if text:
            self.system = text
            self.reset()
        else:
            note(self.system if self.system is not None else "(the model's own)")

    def reply(self, text: str, stop: threading.Event) -> None:
        """Answer one message, and remember both; a stopped answer is remembered as far as it came."""
        self.turns.append({"role": "user", "content": text})
        try:
            ids, dropped = self._fit()
        except ArrieroError:
            self.turns.pop()
            raise
        if dropped:
            note(f"(the context of {self.engine.context} tokens is full: the oldest {dropped} turns are dropped)")
        room = self.engine.context - len(ids)
        sampling = replace(self.sampling, max_tokens=min(self.sampling.max_tokens, room))
        said, reason = [], "cancelled"
        try:
            for delta in self.engine.stream(Request(prompt_ids=ids, sampling=sampling, cancel=stop)):
                said.append(delta.text)
                if not self.config.json:
                    sys.stdout.write(printable(delta.text))
                    sys.stdout.flush()
                reason = delta.completion.finish_reason if delta.completion else reason
        finally:
            answer = "".join(said)
            self.turns.append({"role": "assistant", "content": answer})
            if not self.config.json:
                print()
        if self.config.json:
            print_json({"role": "assistant", "content": answer, "finish_reason": reason, "dropped_turns": dropped})
            sys.stdout.flush()
        elif reason == "length":
            note("(ended at --max-tokens)")

    def _fit(self) -> tuple[list[int], int]:
        """(prompt ids, turns dropped): drop the oldest question and answer together until an answer fits behind them.

        Raises:
            ArrieroError: the last message alone leaves no room for an answer.
        """
        context, dropped = self.engine.context, 0
        reserve = min(self.sampling.max_tokens, context // 2)
        head: list[Message] = [{"role": "system", "content": self.system}] if self.system is not None else []
        while True:
            ids = self.engine.tokenizer.encode_chat([*head, *self.turns])
            if len(ids) + reserve <= context:
                return ids, dropped
            if len(self.turns) == 1:
                if len(ids) < context:
                    return ids, dropped
                raise ArrieroError(
                    f"the message has {len(ids)} tokens, which leaves no room in the context of {context}: shorten it"
                )
            del self.turns[:2]
            dropped += 2
