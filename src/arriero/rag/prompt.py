"""The prompt of a grounded answer: what the passages say, then the question exactly as it was typed.

Its form was chosen among twelve by how often SmolLM2-135M-Instruct answered rightly, and supported, from it. The
passages bear no numbers: this model writes wrong ones, which would have to be taken out again; citations are set by
evidence.

What does not fit the context is left out in this order: earlier turns (oldest first), whole passages (worst first), the
end of the last passage that is kept. The question is never cut. The prompt claims nothing about a passage being whole:
what is left out between two sentences, or after the last one, shows as '…'.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from arriero.common.errors import ArrieroError
from arriero.rag.evidence import Span
from arriero.rag.fit import end_at_blank, longest_fit
from arriero.rag.search import Hit
from arriero.tokenizer.chat import Message
from arriero.tokenizer.tokenizer import Tokenizer

SYSTEM = "Answer the question from the text in one or two short sentences."
REMINDER = "Answer with words from the text."

GAP = " … "

MIN_PIECE_CHARACTERS = 80
"""A passage that would be cut to fewer is left out: a few words answer nothing, and mislead."""


@dataclass(frozen=True)
class Turn:
    """An earlier question of the talk, and its answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class Source:
    """A passage as it stands in the prompt."""

    hit: Hit
    spans: tuple[Span, ...]
    """The pieces of the passage's text that are shown, as offsets in it, in order."""

    @property
    def pieces(self) -> list[str]:
        """The texts of the spans, as the document has them."""
        return [self.hit.passage.text[start:end] for start, end in self.spans]

    @property
    def shown(self) -> str:
        """What the model reads: one paragraph, since line breaks and indentation tell a small model little."""
        text = GAP.join(" ".join(piece.split()) for piece in self.pieces)
        return text + ("" if self.spans[-1][1] >= len(self.hit.passage.text.rstrip()) else GAP.rstrip())


@dataclass(frozen=True)
class Prompt:
    """What the model reads."""

    ids: list[int]
    sources: tuple[Source, ...]
    dropped_turns: int
    """Earlier turns that did not fit."""


def build_prompt(
    tokenizer: Tokenizer,
    question: str,
    hits: Sequence[Hit],
    *,
    spans: Sequence[Sequence[Span]] | None = None,
    history: Sequence[Turn] = (),
    instruction: str = "",
    context: int,
    reserve: int,
) -> Prompt:
    """Fit as much as the context takes.

    Args:
        tokenizer: the model's, with its chat template.
        question: as typed.
        hits: passages, best first.
        spans: what to show of each passage, by default all; a passage without any is left out.
        history: earlier turns of the talk, oldest first.
        instruction: what else to keep to, behind our own.
        context: tokens that the model takes, the answer included.
        reserve: tokens kept for the answer.

    Raises:
        ArrieroError: the question does not fit, or leaves no room for a passage.
    """
    room = context - reserve
    shown = spans if spans is not None else [[(0, len(hit.passage.text))] for hit in hits]
    sources = [Source(hit, tuple(parts)) for hit, parts in zip(hits, shown, strict=True) if parts]
    turns = list(history)

    def encode(shown: Sequence[Source], turns: Sequence[Turn]) -> list[int]:
        return tokenizer.encode_chat(write_messages(question, shown, turns, instruction))

    def fits(shown: Sequence[Source]) -> bool:
        return len(encode(shown, turns)) <= room

    if (alone := len(encode((), ()))) > room:
        raise ArrieroError(
            f"the question takes {alone} tokens, and {room} of the model's context of {context} are free beside the "
            "answer: shorten the question, or take a model with a longer context"
        )
    while turns and not fits(sources):
        turns.pop(0)
    while sources and not fits(sources):
        last = sources.pop()
        end = longest_fit(last.spans[-1][1], partial(_fits_cut, fits, tuple(sources), last))
        if kept := _cut(last, end):
            sources += kept
            break
    if hits and not sources:
        raise ArrieroError(
            f"the question leaves no room for a passage in the model's context of {context} tokens: shorten the "
            "question, or take a model with a longer context"
        )
    return Prompt(encode(sources, turns), tuple(sources), len(history) - len(turns))


def write_messages(
    question: str, sources: Sequence[Source], history: Sequence[Turn] = (), instruction: str = ""
) -> list[Message]:
    """The chat that asks the question."""
    messages: list[Message] = [{"role": "system", "content": f"{SYSTEM}\n{instruction}".rstrip()}]
    for turn in history:
        messages.append({"role": "user", "content": turn.question})
        messages.append({"role": "assistant", "content": turn.answer})
    passages = "".join(f"{source.shown}\n\n" for source in sources)
    messages.append({"role": "user", "content": f"{passages}Question: {question}\n{REMINDER}"})
    return messages


def _fits_cut(fits: Callable[[Sequence[Source]], bool], sources: Sequence[Source], last: Source, end: int) -> bool:
    return fits([*sources, *_cut(last, end)])


def _cut(source: Source, end: int) -> list[Source]:
    """The passage's pieces up to a character, ended at a blank where one is near; nothing if too little is left."""
    if end < source.spans[-1][1]:
        end = end_at_blank(source.hit.passage.text, end)
    spans = tuple((start, min(stop, end)) for start, stop in source.spans if start < end)
    enough = sum(stop - start for start, stop in spans) >= MIN_PIECE_CHARACTERS
    return [replace(source, spans=spans)] if enough else []
