"""What a chat model is asked for when it writes a question about a passage, and what is wrong with what it wrote."""

import re
from dataclasses import dataclass
from typing import Literal

from arriero.common.errors import ArrieroError
from arriero.rag.fit import cut_to_fit
from arriero.rag.qa_metrics import answer_tokens, holds_answer
from arriero.rag.words import count_words
from arriero.tokenizer.chat import Message
from arriero.tokenizer.tokenizer import Tokenizer

Fault = Literal["form", "long", "absent", "given away", "pointing", "lost", "disputed", "repeated"]
FAULTS: dict[Fault, str] = {
    "form": "not one question and one answer",
    "long": "an answer of too many words",
    "absent": "an answer that is not in the passage",
    "given away": "a question that holds its answer",
    "pointing": "a question about 'the text', which means nothing without it",
    "lost": "retrieval does not bring the passage back",
    "disputed": "asked again, the model answers otherwise",
    "repeated": "asked already, or another one of its passage has the same answer",
}
"""Why something is dropped, in the order of the checks."""

SYSTEM = "Take a name, number or short phrase from the text as an answer, and write a question that it answers."
_EXAMPLES = (
    (
        "The lighthouse at Port Ellery was built in 1884 from granite that ships had carried as ballast. Its lamp "
        "burnt whale oil until 1911, when the keeper, Agnes Moor, had it changed to electric light.",
        "Who had the lamp of the Port Ellery lighthouse changed to electric light?",
        "Agnes Moor",
    ),
    (
        "Members may cancel their contract in writing at the end of any month. The notice period is four weeks. Fees "
        "that were paid in advance are returned within ten days.",
        "What is the notice period for cancelling a membership contract?",
        "four weeks",
    ),
    (
        "Bread dough rises because yeast turns sugar into carbon dioxide. In a warm kitchen this takes about an hour; "
        "in a refrigerator it may take a whole night, which gives the bread more taste.",
        "Why does bread dough rise?",
        "yeast turns sugar into carbon dioxide",
    ),
)
_WRITTEN = re.compile(r"[ \t]*([^\n]+?)[ \t.。]*\n\s*Question:[ \t]*([^\n]{3,300}[?？])\s*", re.IGNORECASE)
_POINTING = re.compile(
    r"\b(?:the|this|that) (?:\w+ )?(?:text|passage|paragraph|article|document|excerpt)\b", re.IGNORECASE
)
_LONGEST = 12
"""Words of an answer."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What the model wrote once, and what is wrong with it."""

    question: str
    answer: str
    fault: Fault | None


def write_prompt(tokenizer: Tokenizer, text: str, *, room: int) -> list[int]:
    """The chat that asks for a question about a text, whose end is cut where it does not fit; the answer is begun.

    Raises:
        ArrieroError: beside its instructions the context has too little room for a passage.
    """

    def encode(shown: str) -> list[int]:
        messages: list[Message] = [{"role": "system", "content": SYSTEM}]
        for example, question, answer in _EXAMPLES:
            messages.append({"role": "user", "content": example})
            messages.append({"role": "assistant", "content": f"Answer: {answer}\nQuestion: {question}"})
        messages.append({"role": "user", "content": shown})
        return [*tokenizer.encode_chat(messages), *tokenizer.encode("Answer:", bos=False, eos=False)]

    shown = " ".join(text.split())
    ids = encode(shown)
    if len(ids) > room:
        ids = encode(cut_to_fit(shown, lambda beginning: len(encode(beginning)) <= room))
    if len(ids) > room:
        raise ArrieroError(f"the model's context leaves {room} tokens for a passage with its examples: too few")
    return ids


def read_draft(written: str, passage: str) -> Draft:
    """What the model wrote after 'Answer:', with its first fault among those that can be seen without asking it."""
    match = _WRITTEN.fullmatch(written)
    if match is None:
        return Draft(question=written.strip(), answer="", fault="form")
    answer, question = match[1].strip(" \"'“”"), match[2].strip()
    return Draft(question=question, answer=answer, fault=_fault(question, answer, passage))


def _fault(question: str, answer: str, passage: str) -> Fault | None:
    if count_words(answer) > _LONGEST:
        return "long"
    if not answer_tokens(answer) or not holds_answer(passage, [answer]):
        return "absent"
    if holds_answer(question, [answer]):
        return "given away"
    return "pointing" if _POINTING.search(question) else None
