"""Dialogues that a model holds by itself: the user's messages are known beforehand, the answers are sampled.

An instruction stands in every message of the user, in the first alone, or nowhere (Llama 2, arXiv 2307.09288, section
3.3). All dialogues of a list go forward together, a turn at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from arriero.align.ghost_config import Place
from arriero.common.seeds import seed_of
from arriero.generate.engine import Engine, Request, SamplingConfig
from arriero.tokenizer.chat import Message

Where = Literal["every", "first", "never"]
"""In which of the user's messages the instruction stands."""


@dataclass(frozen=True)
class Talk:
    """One side of a dialogue."""

    questions: tuple[str, ...]
    """What the user says, turn by turn."""
    instruction: str = ""
    """What he asks for throughout."""
    system: str = ""
    """A system message that the dialogue has of its own."""


@dataclass(frozen=True)
class Said:
    """An answer."""

    text: str
    ended: bool
    """Whether the model ended it, rather than the limit of tokens."""


def lay_out(
    talk: Talk, answers: Sequence[str], where: Where, place: Place = "user", instruction: str | None = None
) -> list[Message]:
    """The chat with these answers, up to and with the next message of the user, if there is one.

    Args:
        talk: the user's side.
        answers: to the first of his messages, in order.
        where: the instruction stands.
        place: likewise, in the first turn.
        instruction: in place of the talk's own, such as a shorter one.
    """
    wish = talk.instruction if instruction is None else instruction
    in_system = where == "first" and place == "system"
    system = "\n\n".join(filter(None, (talk.system, wish if in_system else "")))
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for turn, question in enumerate(talk.questions[: len(answers) + 1]):
        is_asked = where == "every" or (where == "first" and turn == 0 and not in_system)
        messages.append({"role": "user", "content": f"{question} {wish}" if is_asked and wish else question})
        if turn < len(answers):
            messages.append({"role": "assistant", "content": answers[turn]})
    return messages


def converse(
    engine: Engine,
    talks: Sequence[Talk],
    sampling: SamplingConfig,
    *,
    where: Where,
    place: Place = "user",
    names: Sequence[int] | None = None,
) -> list[list[Said]]:
    """The model's answers in each dialogue.

    A dialogue ends early, with the answers so far, where the next turn would not fit the context, or where an answer is
    empty, which is not among its answers then.

    Args:
        engine: with the model.
        talks: the user's side of each dialogue.
        sampling: of each answer; its seed is that of all dialogues, of which each answer has its own.
        where: the instruction stands.
        place: likewise, in the first turn.
        names: numbers that tell the dialogues' random streams apart; default: their places in the list.
    """
    names = range(len(talks)) if names is None else names
    answers: list[list[Said]] = [[] for _ in talks]
    live = list(range(len(talks)))
    turn = 0
    while live := [i for i in live if len(answers[i]) == turn < len(talks[i].questions)]:
        asked = {
            i: engine.tokenizer.encode_chat(lay_out(talks[i], [said.text for said in answers[i]], where, place))
            for i in live
        }
        fitting = [i for i in live if len(asked[i]) + sampling.max_tokens <= engine.context]
        requests = [
            Request(prompt_ids=asked[i], sampling=replace(sampling, seed=seed_of(sampling.seed or 0, names[i], turn)))
            for i in fitting
        ]
        for i, answer in zip(fitting, engine.generate(requests), strict=True):
            if answer.text.strip():
                answers[i].append(Said(answer.text.strip(), answer.finish_reason == "stop"))
        turn += 1
    return answers
