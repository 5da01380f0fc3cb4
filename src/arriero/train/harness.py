"""Our models in lm-eval, the Language Model Evaluation Harness (Gao et al., doi 10.5281/zenodo.10256836).

The harness asks three things of a model: the log-likelihood of a continuation, that of a whole text, and a text. Its
conventions are kept, as its own class for Hugging Face models keeps them, so that scores compare:

- a context's trailing spaces belong to the continuation, and both are tokenized as one text (`TemplateLM` does that);
- an empty context, and what precedes a whole text, is the beginning-of-sequence token, else the end-of-sequence token;
- what exceeds the context is cut off on the left; a whole text is cut into windows that predict each token once, the
  last from a full context;
- names of control tokens in a text are read as these tokens: chat templates write them.

This file alone imports lm-eval: `pip install 'arriero[eval]'`. Importing it makes `arriero` a model name of lm-eval.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.tasks import TaskManager
from lm_eval.utils import make_table

from arriero.common.device import DTypeName
from arriero.common.errors import ArrieroError, NotFoundError, did_you_mean
from arriero.common.progress import progress
from arriero.generate.engine import Engine, Request, SamplingConfig
from arriero.model.source import LoadedModel
from arriero.tokenizer.chat import Message
from arriero.train.trained import load_trained
from arriero.train.windows import Window, document_windows, score_windows

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""What a task's `generation_kwargs` may set, beside `until`, `do_sample` and the harness's names for most tokens."""


@register_model("arriero")
class ArrieroLM(TemplateLM):  # type: ignore[misc]  # lm-eval has no types
    """A LLaMA of ours as the harness sees one."""

    def __init__(
        self,
        model: str | LoadedModel,
        *,
        device: str = "auto",
        dtype: DTypeName = "auto",
        context: int | None = None,
        batch_size: int | str = 16,
        batch_tokens: int = 4096,
    ) -> None:
        """Load a model.

        Args:
            model: what `load_trained` takes, or a model that is loaded: then `device` and `dtype` play no part.
            context: most tokens read at a time; default: the model's.
            batch_size: most rows that decode together.
            batch_tokens: tokens whose log-likelihoods are computed together.

        Raises:
            ArrieroError: the model is not here, lacks a tokenizer or a token to begin with, or has a shorter context.
        """
        super().__init__()
        loaded = load_trained(model, device=device, dtype=dtype) if isinstance(model, str) else model
        self.max_length = loaded.context if context is None else context
        if not 2 <= self.max_length <= loaded.context:
            raise ArrieroError(f"context: expected 2 to the model's {loaded.context} tokens, got {context}")
        if not str(batch_size).isdecimal():
            raise ArrieroError(f"batch_size: expected a number, got '{batch_size}'")
        self.name, self.batch_tokens = loaded.name, batch_tokens
        self.engine = Engine(loaded.model, loaded.tokenizer, context=self.max_length, max_batch=int(batch_size))
        self._device = loaded.model.tok_embeddings.weight.device
        words = self.engine.tokenizer
        if words.bos_id is None and words.eos_id is None:
            raise ArrieroError(f"{loaded.name}: its vocabulary has neither a beginning- nor an end-of-sequence token")

    @property
    def eot_token_id(self) -> int | None:
        """The end-of-sequence token."""
        return self.engine.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that nothing precedes."""
        words = self.engine.tokenizer
        token_id = words.eos_id if words.bos_id is None else words.bos_id
        assert token_id is not None
        return token_id

    @property
    def tokenizer_name(self) -> str:
        """For the harness's caches of requests."""
        return self.name.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text; by default with the tokens that the model wants around it, unless it begins with its own."""
        words = self.engine.tokenizer
        begun = add_special_tokens is None and string.startswith(
            words.decode([self.prefix_token_id], skip_special=False)
        )
        edges = False if begun or add_special_tokens is False else None
        return words.encode(string, bos=edges, eos=edges, parse_special=True)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """(Σ log p of the continuation, whether it is what greedy decoding gives) of each context and continuation.

        Raises:
            ArrieroError: a continuation is empty, or longer than the context.
        """
        windows = []
        for _text, context, continuation in requests:
            if not 1 <= len(continuation) <= self.max_length:
                raise ArrieroError(
                    f"a continuation has {len(continuation):,} tokens: expected 1 to the context of {self.max_length:,}"
                )
            windows.append(Window((context + continuation)[-self.max_length - 1 :], len(continuation)))
        return [(score.logprob, score.greedy) for score in self._score(windows)]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Log-likelihood of each request's whole text."""
        windows: list[Window] = []
        counts = []
        for request in requests:
            (text,) = request.args
            ids = [self.prefix_token_id, *self.tok_encode(text)]
            own = list(document_windows(ids, self.max_length, self.max_length))
            windows += own
            counts.append(len(own))
        scores = iter(self._score(windows))
        return [math.fsum(next(scores).logprob for _ in range(count)) for count in counts]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The text that follows each request's context, up to the first of its stop strings.

        Raises:
            ArrieroError: a setting that is not known, or more tokens than the context has.
        """
        wanted = [self._request(i, *request.args) for i, request in enumerate(requests)]
        order = sorted(range(len(wanted)), key=lambda i: -len(wanted[i].prompt_ids))
        texts: dict[int, str] = {}
        with progress("Generating", len(wanted), "texts") as advance:
            for start in range(0, len(order), self.engine.max_batch):
                batch = order[start : start + self.engine.max_batch]
                for i, completion in zip(batch, self.engine.generate([wanted[i] for i in batch]), strict=True):
                    text = self.engine.tokenizer.decode(completion.ids)
                    texts[i] = postprocess_generated_text(text, list(wanted[i].sampling.stop), None)
                advance(len(batch))
        return [texts[i] for i in range(len(wanted))]

    def apply_chat_template(self, chat_history: list[Message], add_generation_prompt: bool = True) -> str:
        """A chat as one text, in the model's own format.

        Raises:
            ArrieroError: the model carries no chat template, or its template refuses the messages.
        """
        template = self.engine.tokenizer.chat_template
        if template is None:
            raise ArrieroError(f"{self.name} carries no chat template: leave out --chat")
        return template.render(chat_history, add_generation_prompt=add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template's source, for the harness's records."""
        template = self.engine.tokenizer.chat_template
        return None if template is None or chat_template is False else template.source

    def _score(self, windows: Sequence[Window]) -> list[Any]:
        scores = []
        with progress("Log-likelihoods", len(windows), "texts") as advance:
            for score in score_windows(self.engine.model, windows, batch_tokens=self.batch_tokens):
                scores.append(score)
                advance(1)
        return scores

    def _request(self, number: int, context: str, settings: dict[str, Any]) -> Request:
        kwargs = dict(normalize_gen_kwargs(settings, 256))
        most, stops = kwargs.pop("max_gen_toks"), kwargs.pop("until")
        kwargs.pop("do_sample")
        sampling = {name: kwargs.pop(name) for name in SAMPLING if name in kwargs}
        if kwargs.pop("num_beams", 1) != 1 or kwargs:
            unknown = next(iter(kwargs), "num_beams")
            raise ArrieroError(f"generation_kwargs: '{unknown}' is not known here: expected {', '.join(SAMPLING)}")
        if most >= self.max_length:
            raise ArrieroError(f"max_gen_toks: expected less than the context of {self.max_length} tokens, got {most}")
        ids = self.tok_encode(context)[-(self.max_length - most) :] or [self.prefix_token_id]
        stop = tuple(text for text in stops if text)
        config = SamplingConfig(max_tokens=most, stop=stop, seed=number, **sampling)
        return Request(prompt_ids=ids, sampling=config)


@dataclass(frozen=True, kw_only=True)
class TaskResults:
    """What the harness found."""

    results: dict[str, dict[str, Any]]
    """By task and group: `metric,filter` and its standard error."""
    table: str
    """The harness's own table, in Markdown."""


def run_tasks(
    model: ArrieroLM,
    names: Sequence[str],
    *,
    include: Path | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    chat: bool = False,
) -> TaskResults:
    """Run tasks of the harness.

    Args:
        names: tasks, groups and patterns with `*`.
        include: a folder of task files beside the harness's own.
        num_fewshot: examples before each question; default: as each task says.
        limit: only so many of the first questions.
        chat: ask in the model's chat format.

    Raises:
        NotFoundError: there is no such task or folder, or a task's data is not on this machine.
        ArrieroError: a task asks for something that the model cannot do.
    """
    if include is not None and not include.is_dir():
        raise NotFoundError(f"no such folder of tasks: {include}")
    manager = TaskManager(include_path=None if include is None else str(include))
    for name in names:
        if not manager.match_tasks([name]):
            near = did_you_mean(name, manager.all_tasks)
            raise NotFoundError(f"lm-eval has no task '{name}'{near}; --include-path names a folder of your own")
    try:
        found = simple_evaluate(
            model=model,
            tasks=manager.match_tasks(list(names)),
            num_fewshot=num_fewshot,
            limit=limit,
            apply_chat_template=chat,
            task_manager=manager,
            log_samples=False,
        )
    except OSError as error:  # ConnectionError and `datasets`' own kinds among them
        raise NotFoundError(f"the data of {', '.join(names)} is not here: {str(error).splitlines()[0]}") from error
    assert found is not None, "one process only"
    tables = [make_table(found)] + ([make_table(found, "groups")] if found.get("groups") else [])
    return TaskResults(results=_plain(found["results"]), table="\n".join(tables))


def _plain(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Results without NumPy's numbers, and without those that are not finite: JSON knows neither."""
    plain: dict[str, dict[str, Any]] = {}
    for task, values in results.items():
        plain[task] = {}
        for name, value in values.items():
            number = value.item() if hasattr(value, "item") else value
            finite = not isinstance(number, float) or math.isfinite(number)
            plain[task][name] = number if finite else None
    return plain
