"""`arriero generate`: one prompt, one answer (or n)."""

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from arriero.cli.engine import EngineConfig, load_engine
from arriero.cli.interrupt import stoppable
from arriero.cli.options import positional
from arriero.cli.output import console, note, print_json, printable, read_text
from arriero.common.errors import ArrieroError
from arriero.generate.sampling_config import SamplingConfig

if TYPE_CHECKING:
    from arriero.generate.engine import Completion, Engine
    from arriero.generate.request import Request


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(EngineConfig):
    """One prompt and how to continue it."""

    prompt: str | None = positional("PROMPT", default=None)
    """The prompt; without it, or as `-`, it is read from standard input."""
    system: str | None = None
    """System message of the chat; default: what the model's template puts there."""
    raw: bool = False
    """Continue the prompt as plain text, outside any chat format."""
    stream: bool = True
    """Show text at once, or with --no-stream only when it is whole."""
    json: bool = False
    """Print one JSON object: the completions with finish reasons, token counts, seeds and log-probabilities."""
    speculate: int = 8
    """Most tokens to guess ahead from what prompt and answer said: the same answer, sooner; 0 guesses nothing."""
    beams: int = 1
    """Search for the likeliest answer as a whole, going on with this many beginnings; --n of the answers are told."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        asked = self.sampling
        if self.beams == 1:
            return
        if self.beams < asked.n:
            raise ArrieroError(f"--beams: expected --n ({asked.n}) or more, got {self.beams}")
        if asked != SamplingConfig(max_tokens=asked.max_tokens, stop_ids=asked.stop_ids, n=asked.n):
            raise ArrieroError("--beams: of the settings of sampling it takes --max-tokens, --stop-ids and --n alone")


def generate(config: GenerateConfig) -> int:
    """Answer one prompt as a chat does, or continue it as plain text with --raw.

    Examples:
      arriero generate "Why is the sky blue?"
      arriero generate --raw "Once upon a time" --temperature 0.8 --n 3
      arriero generate --beams 4 "Translate into French: good morning"
      cat notes.txt | arriero generate --system "Summarise the text." --json
    """
    prompt = read_text(config.prompt)
    engine = load_engine(config, speculate=config.speculate)
    request = _request(engine, prompt, config)
    if config.beams > 1:
        completions = _search(engine, request, config.beams)
        if not config.json:
            _show(completions)
    else:
        with stoppable(request.cancel):
            completions = _sample(engine, request, config)
    if config.json:
        print_json({"model": config.model, "completions": [_plain(engine, item) for item in completions]})
    elif config.sampling.logprobs is not None:
        _show_logprobs(engine, completions)
    _tell_cut(completions)
    return 0


def _request(engine: "Engine", prompt: str, config: GenerateConfig) -> "Request":
    import threading

    from arriero.generate.request import Request

    tokenizer = engine.tokenizer
    if config.raw:
        if config.system is not None:
            raise ArrieroError("--system belongs to a chat: leave out --raw, or put the text into the prompt")
        ids = tokenizer.encode(prompt)
    else:
        if tokenizer.chat_template is None:
            raise ArrieroError(
                f"model '{config.model}' has no chat template: give --raw to continue the prompt as text"
            )
        messages = [{"role": "system", "content": config.system}] if config.system is not None else []
        ids = tokenizer.encode_chat([*messages, {"role": "user", "content": prompt}])  # type: ignore[list-item]
    return Request(prompt_ids=ids, sampling=config.sampling, cancel=threading.Event())


def _search(engine: "Engine", request: "Request", beams: int) -> "list[Completion]":
    """The likeliest answers, by beam search, the best first."""
    from arriero.generate.beam import beam_search
    from arriero.generate.engine import Completion

    sampling, tokenizer = request.sampling, engine.tokenizer
    stops = tokenizer.stop_ids if sampling.stop_ids is None else frozenset(sampling.stop_ids)
    found = beam_search(engine.model, request.prompt_ids, beams=beams, max_tokens=sampling.max_tokens, stop_ids=stops)
    return [
        Completion(
            request=0,
            sample=place,
            ids=beam.ids,
            text=tokenizer.decode([token for token in beam.ids if token not in stops]),
            finish_reason="stop" if beam.ids[-1] in stops else "length",
            logprobs=None,
            prompt_tokens=len(request.prompt_ids),
            seed=0,
        )
        for place, beam in enumerate(found[: sampling.n])
    ]


def _sample(engine: "Engine", request: "Request", config: GenerateConfig) -> "list[Completion]":
    if config.sampling.n == 1 and config.stream and not config.json:
        return _stream(engine, request)
    completions = engine.generate([request])
    if not config.json:
        _show(completions)
    return completions


def _stream(engine: "Engine", request: "Request") -> "list[Completion]":
    completions = []
    for delta in engine.stream(request):
        sys.stdout.write(printable(delta.text))
        sys.stdout.flush()
        if delta.completion:
            completions.append(delta.completion)
    print()
    return completions


def _show(completions: "list[Completion]") -> None:
    for completion in completions:
        if len(completions) > 1:
            console().print(f"--- {completion.sample + 1} of {len(completions)}", style="dim")
        print(printable(completion.text))


def _show_logprobs(engine: "Engine", completions: "list[Completion]") -> None:
    for completion in completions:
        for item in completion.logprobs or ():
            others = "  ".join(f"{_token(engine, other)} {logprob:.3f}" for other, logprob in item.top)
            print(f"{item.logprob:9.4f}  {_token(engine, item.id)}" + (f"    | {others}" if others else ""))


def _tell_cut(completions: "list[Completion]") -> None:
    reasons = {completion.finish_reason for completion in completions}
    if "length" in reasons:
        note("(ended at --max-tokens)")
    if "cancelled" in reasons:
        note("(stopped)")


def _plain(engine: "Engine", completion: "Completion") -> dict[str, Any]:
    logprobs = completion.logprobs and [
        {
            "token": _text(engine, item.id),
            "id": item.id,
            "logprob": item.logprob,
            "top": [{"token": _text(engine, other), "id": other, "logprob": value} for other, value in item.top],
        }
        for item in completion.logprobs
    ]
    return {
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": len(completion.ids),
        "seed": completion.seed,
        "logprobs": logprobs,
    }


def _text(engine: "Engine", token_id: int) -> str:
    return engine.tokenizer.token_bytes(token_id).decode("utf-8", "replace")


def _token(engine: "Engine", token_id: int) -> str:
    return repr(_text(engine, token_id))
