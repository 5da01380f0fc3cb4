"""Chats to ids in which text of a message can never become a control token.

A template writes control tokens by their names, and a message may hold the same names, or a part of one that the text
around completes. So the chat is rendered a second time with a mark, a character that occurs nowhere, before, between
and after the characters of every message: names that are still whole there are the template's own. If both renderings
hold equally many, the plain rendering is encoded in one go, as `transformers` does. Otherwise the text between the
template's own tokens is encoded with control tokens switched off.

For training, the places of the answers are found in the same way: a chat up to an answer is rendered as it is for
serving, and where the text goes on from there is the answer, up to a mark behind its last character and the token that
ends the turn. No text is searched for.

Some templates look into messages, e.g. for `</think>`. Marks would hide that from them, so where marks change more than
themselves, a second try leaves whole what the template's own string literals say.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from typing import Any

import tokenizers
from tokenizers.models import WordLevel

from arriero.common.errors import ArrieroError
from arriero.tokenizer.chat import ChatTemplate, Message
from arriero.tokenizer.pieces import encode_text

_CHARACTER, _EVERYTHING = re.compile(".", re.DOTALL), re.compile(".+", re.DOTALL)
_OTHER = "\ufffetext"  # the finder's one word: whatever is no added token


@dataclass(frozen=True)
class _Marked:
    """A chat rendered with marks, and without."""

    text: str
    rendered: str
    turns: list[Message]
    """The messages with marks that make the text."""
    mark: str
    end: str
    """Stands behind the last character of each answer."""

    def plain(self, text: str) -> str:
        """A part of the text without marks."""
        return text.replace(self.mark, "").replace(self.end, "")

    @property
    def faithful(self) -> bool:
        """Whether the marks changed nothing but themselves."""
        return self.plain(self.text) == self.rendered


class ChatEncoder:
    """Encodes rendered chats with one vocabulary."""

    def __init__(
        self, backend: tokenizers.Tokenizer, added: Mapping[int, Any], encode_plain: Callable[[str, bool], list[int]]
    ) -> None:
        """`encode_plain` encodes text with control tokens switched off, and is told whether it begins the chat."""
        self._backend = backend
        self._encode_plain = encode_plain
        self._finder = tokenizers.Tokenizer(WordLevel({_OTHER: 0}, unk_token=_OTHER))
        if backend.normalizer is not None:
            self._finder.normalizer = backend.normalizer
        self._finder.add_tokens([added[token_id] for token_id in sorted(added)])
        special = {token.content: token_id for token_id, token in added.items() if token.special}
        found = self._finder.get_added_tokens_decoder()
        self._special = {key: special[token.content] for key, token in found.items() if token.special}

    def encode(self, template: ChatTemplate, messages: Sequence[Message], *, add_generation_prompt: bool) -> list[int]:
        """Ids of the chat; only the template's own text makes control tokens."""
        chat = self._mark(template, messages, add_generation_prompt=add_generation_prompt)
        return self._encode(chat, chat.text, chat.rendered)

    def encode_answers(
        self, template: ChatTemplate, messages: Sequence[Message], stop_ids: Collection[int]
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of a whole chat, and from where to where in them the model's own tokens go, answer by answer.

        An answer begins where serving lets the model begin, and ends behind the token that ends its turn.

        Args:
            stop_ids: the tokens that end a turn.

        Raises:
            ArrieroError: the template leaves out an answer, or writes no token that ends it.
        """
        chat = self._mark(template, messages, add_generation_prompt=False)
        if not chat.faithful and not any(self._find(message["content"]) for message in messages):
            chat = self._mark(template, messages, add_generation_prompt=False, units=[_EVERYTHING])
        if not chat.faithful:
            raise ArrieroError("the chat template changes what the messages say: where answers are cannot be told")
        cuts, ids = self._cut(template, chat, stop_ids), self._encode(chat, chat.text, chat.rendered)
        bounds: list[int] = []
        for cut in cuts:
            head = self._encode(chat, chat.text[:cut], chat.plain(chat.text[:cut]))
            if ids[: len(head)] != head:  # a token would reach across: what lies between the cuts is encoded by itself
                ids, bounds = self._encode_apart(chat, cuts)
                break
            bounds.append(len(head))
        return ids, list(zip(bounds[::2], bounds[1::2], strict=True))

    def _cut(self, template: ChatTemplate, chat: _Marked, stop_ids: Collection[int]) -> list[int]:
        """Where in the marked text each answer begins and ends."""
        cuts, behind, own = [], 0, self._find(chat.text)
        for index, turn in enumerate(chat.turns):
            if turn["role"] != "assistant":
                continue
            end = chat.text.find(chat.end, behind)
            if end < 0:
                raise ArrieroError(f"the chat template leaves out message {index + 1}, an answer: it cannot be learnt")
            served = _render_before(template, chat, index)
            if served is None:
                served = chat.text[: max(behind, end + 1 - len(turn["content"].strip()))]
            stop = next((token for token in own if token[1] > end), None)
            if stop is None or stop[0] not in stop_ids or chat.plain(chat.text[end : stop[1]]).strip():
                raise ArrieroError(
                    f"the chat template ends message {index + 1}, an answer, without a token that ends a turn: a model "
                    "would never learn to stop; choose another template, such as chatml or llama2"
                )
            cuts += [_shared(served, chat.text), stop[2]]
            behind = end + 1
        return cuts

    def _mark(
        self,
        template: ChatTemplate,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        units: Sequence[re.Pattern[str]] = (),
    ) -> _Marked:
        """The chat with marks around each unit; by default the first way that changes nothing else, or the second."""
        rendered = template.render(messages, add_generation_prompt=add_generation_prompt)
        mark, end = _unused_characters([template.source, rendered, *(message["content"] for message in messages)])
        for unit in units or (_CHARACTER, self._whole_literals(template)):
            turns = [_mark(message, mark, end, unit) for message in messages]
            text = template.render(turns, add_generation_prompt=add_generation_prompt)
            chat = _Marked(text, rendered, turns, mark, end)
            if chat.faithful:
                break
        return chat

    def _whole_literals(self, template: ChatTemplate) -> re.Pattern[str]:
        """One of the template's string literals that names no control token, or one character."""
        literals = sorted((text for text in template.literals if not self._find(text)), key=len, reverse=True)
        return re.compile("|".join([*map(re.escape, literals), "."]), re.DOTALL)

    def _find(self, text: str) -> list[tuple[int, int, int]]:
        """Control tokens in a text: id, first character, end."""
        encoding = encode_text(self._finder, text, offsets=True)
        found = zip(encoding.ids, encoding.offsets, strict=True)
        return [(self._special[key], start, end) for key, (start, end) in found if key in self._special]

    def _encode(self, chat: _Marked, text: str, plain: str) -> list[int]:
        """Ids of the chat, or of its beginning, given with marks and without."""
        own = self._find(text)
        if len(own) == len(self._find(plain)):
            ids: list[int] = encode_text(self._backend, plain).ids
            return ids
        return list(self._join(chat, text, own, begins=True))

    def _encode_apart(self, chat: _Marked, cuts: Sequence[int]) -> tuple[list[int], list[int]]:
        """Ids of the parts between the cuts, one behind the other, and where the cuts are in them."""
        ids, bounds = self._encode(chat, head := chat.text[: cuts[0]], chat.plain(head)), []
        for start, end in pairwise([*cuts, len(chat.text)]):
            bounds.append(len(ids))
            part = chat.text[start:end]
            ids += self._join(chat, part, self._find(part), begins=False)
        return ids, bounds

    def _join(self, chat: _Marked, text: str, own: list[tuple[int, int, int]], *, begins: bool) -> Iterator[int]:
        position = 0
        for token_id, start, end in own:
            yield from self._encode_plain(chat.plain(text[position:start]), begins and position == 0)
            yield token_id
            position = end
        yield from self._encode_plain(chat.plain(text[position:]), begins and position == 0)


def _mark(message: Message, mark: str, end: str, unit: re.Pattern[str]) -> Message:
    """Marks around every unit of the text but the outer white space, which templates trim; an answer's end."""
    content = message["content"]
    core = content.strip()
    start = content.index(core)
    inner = mark + mark.join(unit.findall(core)) + mark if core else ""
    inner += end if message["role"] == "assistant" else ""
    return {"role": message["role"], "content": content[:start] + inner + content[start + len(core) :]}


def _render_before(template: ChatTemplate, chat: _Marked, index: int) -> str | None:
    """The text that serving gives the model to answer; None where no chat is served that way.

    A chat that begins with an answer may begin with more than serving no message does, such as a system message.
    """
    try:
        served = template.render(chat.turns[:index], add_generation_prompt=True)
    except ArrieroError:
        return None
    return served if index or chat.text.startswith(served) else None


def _shared(x: str, y: str) -> int:
    """How many characters two texts begin with alike."""
    if y.startswith(x):
        return len(x)
    return next((place for place, (a, b) in enumerate(zip(x, y, strict=False)) if a != b), min(len(x), len(y)))


def _unused_characters(texts: Sequence[str]) -> tuple[str, str]:
    """Two private-use characters (planes 15 and 16) that occur in none of the texts."""
    used = set().union(*texts)
    every = map(chr, chain(range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE)))
    free = list(islice((character for character in every if character not in used), 2))
    if len(free) < 2:
        raise ArrieroError("the messages use up all 131,068 private-use characters of Unicode: they are no text")
    return free[0], free[1]
