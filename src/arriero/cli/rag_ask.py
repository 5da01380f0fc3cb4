"""`arriero rag ask|chat`: questions answered from a collection, with citations."""

import sys
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.padding import Padding
from rich.text import Text

from arriero.cli.collection import CollectionConfig, open_collection
from arriero.cli.conversation import Commands, Talk
from arriero.cli.engine import EngineConfig, load_engine
from arriero.cli.interrupt import stoppable
from arriero.cli.options import positional
from arriero.cli.output import console, note, print_json, printable, read_text
from arriero.common.errors import ArrieroError
from arriero.rag.answer_config import AnswerConfig
from arriero.rag.answer_text import DOUBTS, MOST_SHOWN

if TYPE_CHECKING:
    from arriero.generate.engine import Engine
    from arriero.rag.answer import Answer
    from arriero.rag.collection import Collection
    from arriero.rag.prompt import Turn


@dataclass(frozen=True, kw_only=True)
class TalkConfig(CollectionConfig, EngineConfig):
    """A collection, a model, and how it answers."""

    filter: dict[str, str] | None = None
    """Only documents with this metadata; `document=NAME` is one document."""
    mode: Literal["chat", "sequence", "token"] | None = None
    """chat: the model reads all passages side by side; sequence, token: RAG-Sequence and RAG-Token, which read each
    passage alone and weigh them. Default: chat, and with --rag what that was trained as."""
    rag: Path | None = None
    """Folder of a RAG model that `arriero rag train` made."""
    decoding: Literal["thorough", "fast", "beam", "greedy", "sample"] | None = None
    """RAG-Sequence: thorough (default), fast, greedy; RAG-Token: beam (default), greedy, sample."""
    beams: int = 4
    """Breadth of the search for an answer (sequence, token)."""
    show_posterior: bool = False
    """Also show which passage each token of the answer leans on (sequence, token)."""
    answer: AnswerConfig = field(default_factory=AnswerConfig)

    @property
    def marginal(self) -> bool:
        """Whether one of the paper's models answers."""
        return self.rag is not None or self.mode in ("sequence", "token")


@dataclass(frozen=True, kw_only=True)
class AskConfig(TalkConfig):
    """One question."""

    question: str | None = positional("QUESTION", default=None)
    """The question; without it, or as `-`, it is read from standard input."""
    num_return: int = 1
    """Answers to show, best first (sequence, token)."""
    picture: Path | None = None
    """Also write a page here: which passage each token of the answer leans on, and what it says (sequence, token)."""


_OF_MODELS = ("decoding", "beams", "show_posterior", "num_return", "picture")
"""Options that the chat has no use for."""


def _check_chat(config: TalkConfig) -> None:
    for each in fields(config):
        if each.name in _OF_MODELS and getattr(config, each.name) != each.default:
            flag = "--" + each.name.replace("_", "-")
            raise ArrieroError(
                f"{flag} is for RAG's own models: expected --mode sequence or token, or --rag, beside it"
            )


def ask(config: AskConfig) -> int:
    """Answer a question from a collection's documents.

    Every sentence that a passage supports carries the passage's number; below the answer each number has its file, page
    or section, and the words that support it. What no passage supports is said to be so. When the documents hold
    nothing near the question, they are not made to answer it.

    With --mode sequence or token the answer is one of the paper's models (Lewis et al. 2020): short, and with the share
    of it that rests on each passage.

    Examples:
      arriero rag ask "When does the contract end?"
      arriero rag ask "Who signed it?" --filter document=contract.pdf --json
      arriero rag ask "Who signed it?" --mode token --k 8 --show-posterior --picture why.html
      arriero rag ask "Who signed it?" --rag runs/support/rag --decoding fast
    """
    question = read_text(config.question).removesuffix("\n")
    if config.marginal:
        from arriero.cli.rag_marginal import ask_marginally

        return ask_marginally(config, question)
    from arriero.rag.answer import stream_answer

    _check_chat(config)
    with open_collection(config) as collection:
        engine = load_engine(config)
        stop = threading.Event()
        with stoppable(stop):
            pieces = stream_answer(collection, engine, question, config.answer, filters=config.filter, cancel=stop)
            show_answer(pieces, json=config.json)
    return 0


def chat(config: TalkConfig) -> int:
    """Talk about a collection's documents: each line is a question, answered with citations as by `rag ask`.

    A follow-up such as "And when?" is understood with the question before it; by the paper's models (--mode sequence or
    token, or --rag) each question stands alone. Ctrl-C stops the answer and not the program; Ctrl-D, or Ctrl-C twice at
    the prompt, leaves.
    """
    if config.marginal:
        return _talk_marginally(config)
    _check_chat(config)
    with open_collection(config) as collection:
        session = Session(collection, load_engine(config), config)
        commands: Commands = {
            "/reset": ("forget the talk so far", session.reset),
            "/passages": ("show what the model was given for the last answer", session.show_passages),
        }
        Talk(session.reply, f"Talking about {config.collection} with {config.model}.", commands).run()
    return 0


def _talk_marginally(config: TalkConfig) -> int:
    from arriero.cli.rag_marginal import MarginalSession, open_asker

    with open_asker(config) as asker:
        session = MarginalSession(asker, config)
        commands: Commands = {
            "/posterior": ("show which passage each token of the last answer leans on", session.show_posterior)
        }
        kind = f"RAG-{asker.decoding.kind.capitalize()}"
        Talk(
            session.reply, f"Talking about {config.collection} with {kind} over {asker.generator.name}.", commands
        ).run()
    return 0


class Session:
    """The talk so far."""

    def __init__(self, collection: "Collection", engine: "Engine", config: TalkConfig) -> None:
        self.collection, self.engine, self.config = collection, engine, config
        self.turns: list[Turn] = []
        self.last: Answer | None = None

    def reset(self, rest: str = "") -> None:
        """Forget the turns."""
        self.turns.clear()
        self.last = None
        note("(the talk begins anew)")

    def show_passages(self, rest: str = "") -> None:
        """Show the passages behind the last answer."""
        for hit in self.last.passages if self.last else ():
            note(f"{printable(hit.passage.place)}  ({hit.dense:.3f})\n{printable(hit.passage.text)}\n")
        if self.last is None:
            note("(nothing was asked yet)")

    def reply(self, question: str, stop: threading.Event) -> None:
        """Answer one question, and remember both unless it was refused."""
        from arriero.rag.answer import stream_answer
        from arriero.rag.citations import without_markers
        from arriero.rag.prompt import Turn

        pieces = stream_answer(
            self.collection,
            self.engine,
            question,
            self.config.answer,
            history=self.turns,
            filters=self.config.filter,
            cancel=stop,
        )
        self.last = show_answer(pieces, json=self.config.json)
        if not self.last.refused:
            self.turns.append(Turn(question, without_markers(self.last.text)))


def show_answer(pieces: "Iterator[str | Answer]", *, json: bool) -> "Answer":
    """Print an answer as it comes and its sources after it, or the whole as JSON."""
    answer: Answer | None = None
    for piece in pieces:
        if not isinstance(piece, str):
            answer = piece
        elif not json:
            sys.stdout.write(printable(piece))
            sys.stdout.flush()
    assert answer is not None, "the answer comes last"
    if json:
        print_json(answer.to_dict())
    else:
        print()
        show_sources(answer)
    sys.stdout.flush()
    return answer


def show_sources(answer: "Answer") -> None:
    """The citations with their quotes, and in plain words what is not supported."""
    out = console()
    for citation in answer.citations:
        out.print()
        out.print(f"[{citation.number}] {printable(citation.place)}", style="bold", markup=False)
        out.print(quoted(citation.quote))
    if answer.finish_reason == "length":
        note("(ended at --max-tokens)")
    if answer.refused:
        if answer.passages:
            best = max(answer.passages, key=lambda hit: hit.dense)
            out.print(
                f"The nearest passage is in {printable(best.passage.place)}, at {best.dense:.2f}.",
                style="dim",
                markup=False,
            )
    elif doubt := DOUBTS.get(answer.grounded):
        out.print()
        out.print(doubt, style="yellow", markup=False)
        for hit in answer.passages if answer.grounded == "none" else ():
            out.print(f"\n    {printable(hit.passage.place)}", style="bold", markup=False)
            words = textwrap.shorten(hit.passage.text, MOST_SHOWN, placeholder=" …")
            out.print(quoted(words))


def quoted(words: str) -> Padding:
    """A passage's words below its place, set in."""
    return Padding(Text(f"“{' '.join(printable(words).split())}”", style="dim"), (0, 0, 0, 4), expand=False)
