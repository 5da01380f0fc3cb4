"""`arriero rag ask|chat --mode sequence|token`: answers of the paper's models, and the passages that they rest on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from arriero.cli.collection import open_collection
from arriero.cli.engine import choose_weights
from arriero.cli.interrupt import interruptible
from arriero.cli.output import console, note, print_json, printable
from arriero.cli.rag_ask import quoted
from arriero.cli.trained_rag import asking_by, load_trained
from arriero.common.errors import ArrieroError

if TYPE_CHECKING:
    from arriero.cli.rag_ask import AskConfig, TalkConfig
    from arriero.rag.collection import Collection
    from arriero.rag.decoding_config import DecodingConfig, RagKind
    from arriero.rag.generator import Generator
    from arriero.rag.marginal_answer import MarginalAnswer

_PIPE_WIDTH = 100
"""Columns of the picture where the output is no terminal."""


def ask_marginally(config: "AskConfig", question: str) -> int:
    """Answer one question by RAG-Sequence or RAG-Token, and show what the answer rests on."""
    with open_asker(config, num_return=config.num_return) as asker:
        answer = asker.ask(question)
    if config.picture is not None:
        _write_picture(answer, config.picture)
    show(answer, config, num_return=config.num_return)
    return 0


class MarginalSession:
    """A talk in which each question stands alone: the paper's models read a question with a passage, and no turns."""

    def __init__(self, asker: "Asker", config: "TalkConfig") -> None:
        self.asker, self.config = asker, config
        self.last: MarginalAnswer | None = None

    def reply(self, question: str, stop: threading.Event) -> None:
        """Answer one question."""
        with interruptible():
            self.last = self.asker.ask(question)
        show(self.last, self.config)

    def show_posterior(self, rest: str = "") -> None:
        """Show which passage each token of the last answer leans on."""
        if self.last is None or self.last.refused:
            note("(nothing was answered yet)")
        else:
            show_posterior(self.last)


@dataclass(frozen=True)
class Asker:
    """A collection and a generator, loaded once, and how they answer."""

    collection: "Collection"
    generator: "Generator"
    decoding: "DecodingConfig"
    k: int
    scale: float | None
    config: "TalkConfig"

    def ask(self, question: str) -> "MarginalAnswer":
        """Answer one question."""
        from arriero.rag.marginal_answer import ask_marginal

        return ask_marginal(
            self.collection,
            self.generator,
            question,
            self.decoding,
            k=self.k,
            retrieval=self.config.answer.retrieval,
            scale=self.scale,
            threshold=self.config.answer.threshold,
            filters=self.config.filter,
        )


@contextmanager
def open_asker(config: "TalkConfig", *, num_return: int = 1) -> "Iterator[Asker]":
    """What answers, for as long as the block runs.

    Raises:
        ArrieroError: options that do not go together, or a RAG model of the other kind.
        NotFoundError: no such collection, model, or RAG model.
    """
    from arriero.rag.answer import PASSAGES
    from arriero.rag.generators import load_generator

    if config.mode == "chat":
        raise ArrieroError("--mode chat reads passages side by side and takes no --rag: leave one of them out")
    if config.rag is not None and config.weights not in ("auto", "full"):
        raise ArrieroError("--rag brings its own generator, in full precision: leave --weights out")
    trained = load_trained(config, config.mode)
    kind = config.mode or (trained.kind if trained else None)
    assert kind is not None, "with neither mode nor RAG model the chat answers"
    decoding = _decoding(config, kind, num_return)
    with open_collection(asking_by(config, trained)) as collection:
        generator = (
            trained.generator
            if trained
            else load_generator(
                config.model,
                adapter=config.adapter,
                device=config.device,
                dtype=config.dtype,
                weights=choose_weights(config),
            )
        )
        k = config.answer.k or (trained.k if trained else PASSAGES)
        yield Asker(collection, generator, decoding, k, trained.scale if trained else None, config)


def _decoding(config: "TalkConfig", kind: "RagKind", num_return: int) -> "DecodingConfig":
    from arriero.rag.decoding_config import DecodingConfig

    sampling = config.answer.sampling
    decoding = DecodingConfig(
        kind=kind,
        decoding=config.decoding,
        beams=config.beams,
        num_return=num_return,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature or 1.0,
        top_p=sampling.top_p,
        seed=sampling.seed or 0,
    )
    _check_options(config, sampled=decoding.way == "sample")
    return decoding


def _check_options(config: "TalkConfig", *, sampled: bool) -> None:
    """Refuse what was asked for and would have no effect."""
    from arriero.rag.answer_config import AnswerConfig

    usual, given = AnswerConfig(), config.answer
    idle = ["sentences"] if given.sentences != usual.sentences else []
    heeded = {"max_tokens"} | ({"temperature", "top_p", "seed"} if sampled else set())
    idle += [
        each.name
        for each in fields(given.sampling)
        if each.name not in heeded and getattr(given.sampling, each.name) != getattr(usual.sampling, each.name)
    ]
    if idle:
        flag = "--" + idle[0].replace("_", "-")
        own = "--max-tokens, and with --decoding sample --temperature, --top-p and --seed"
        raise ArrieroError(f"{flag} has no effect on RAG's own models here: they take {own}; leave it out")


def show(answer: "MarginalAnswer", config: "TalkConfig", *, num_return: int = 1) -> None:
    """The answer, then the passages by their share of it; or the whole as JSON."""
    from arriero.report.posterior import LEAST_SHARE

    if config.json:
        print_json(answer.to_dict())
        return
    out = console()
    out.print(printable(answer.text) or "(the answer is empty)", markup=False)
    if answer.rag is None:
        for hit in sorted(answer.passages, key=lambda hit: -hit.dense)[:1]:
            place = f"The nearest passage is in {printable(hit.passage.place)}, at {hit.dense:.2f}."
            out.print(place, style="dim", markup=False)
        return
    if answer.finish_reason == "length":
        note("(ended at --max-tokens)")
    for number, other in enumerate(answer.rag.hypotheses[1:], 2):
        out.print(f"  {number}. {printable(other.text)}  (log p {other.logprob:.2f})", style="dim", markup=False)
    if (found := len(answer.rag.hypotheses)) < num_return:
        note(f"({found} {'answer was' if found == 1 else 'answers were'} found: more --beams find more)")
    shown = [citation for citation in answer.citations if citation.posterior >= LEAST_SHARE]
    for number, citation in enumerate(shown, 1):
        title = Text(f"[{number}] {citation.posterior:4.0%}  {printable(citation.place)}", style="bold")
        title.append(f"  ({citation.prior:.0%} before the answer)", style="not bold dim")
        out.print("", title, sep="\n")
        out.print(quoted(citation.quote))
    if rest := len(answer.citations) - len(shown):
        out.print(f"\nand {rest} more, each below {LEAST_SHARE:.0%}", style="dim", markup=False)
    if answer.rag.cut:
        note(f"(passages cut at their end to fit the model's context: {answer.rag.cut})")
    if config.show_posterior:
        show_posterior(answer)


def show_posterior(answer: "MarginalAnswer") -> None:
    """Which passage each token of the answer leans on, as blocks."""
    from arriero.report.posterior import posterior_lines

    out = console()
    out.print()
    for line in posterior_lines(answer, out.width if out.is_terminal else _PIPE_WIDTH):
        line.plain = printable(line.plain)
        out.print(line, no_wrap=True, overflow="crop")


def _write_picture(answer: "MarginalAnswer", target: Path) -> None:
    from arriero.common.files import atomic_file
    from arriero.report.posterior import render_posterior

    if answer.refused:
        note(f"(no answer, no picture: {target} is not written)")
        return
    with atomic_file(target) as aside:
        aside.write_text(render_posterior(answer), encoding="utf-8")
    note(f"written: {target}")
