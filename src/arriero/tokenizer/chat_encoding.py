"""Chats to ids in which text of a message can never become a control token.

A template writes control tokens by their names, and a message may hold the same names, or a part of one that the text
around completes. So the chat is rendered a second time with a mark, a character that occurs nowhere, before, between
and after the characters of every message: names that are still whole there are the template's own. If both renderings
hold equally many, the plain rendering is encoded in one go, as `transformers` does. Otherwise the text between the
template's own tokens is encoded with control tokens switched off.

Some templates look into messages, e.g. for `</think>`. Marks would hide that from them, so where marks change more than
themselves, a second try leaves whole what the template's own string literals say.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import tokenizers
from tokenizers.models import WordLevel

from arriero.common.errors import ArrieroError
from arriero.tokenizer.chat import ChatTemplate, Message

_CHARACTER = re.compile(".", re.DOTALL)
_OTHER = "\ufffetext"  # the finder's one word: whatever is no added token


class ChatEncoder:
    """Encodes rendered chats with one vocabulary."""

    def __init__(
        self, backend: tokenizers.Tokenizer, added: Mapping[int, Any], encode_text: Callable[[str, bool], list[int]]
    ) -> None:
        """`encode_text` encodes text with control tokens switched off, and is told whether it begins the chat."""
        self._backend = backend
        self._encode_text = encode_text
        self._finder = tokenizers.Tokenizer(WordLevel({_OTHER: 0}, unk_token=_OTHER))
        if backend.normalizer is not None:
            self._finder.normalizer = backend.normalizer
        self._finder.add_tokens([added[token_id] for token_id in sorted(added)])
        special = {token.content: token_id for token_id, token in added.items() if token.special}
        found = self._finder.get_added_tokens_decoder()
        self._special = {key: special[token.content] for key, token in found.items() if token.special}

    def encode(self, template: ChatTemplate, messages: Sequence[Message], *, add_generation_prompt: bool) -> list[int]:
        """Ids of the chat; only the template's own text makes control tokens."""
        text = template.render(messages, add_generation_prompt=add_generation_prompt)
        mark = _unused_character([template.source, text, *(message["content"] for message in messages)])

        def render_marked(unit: re.Pattern[str]) -> str:
            turns = [_mark(message, mark, unit) for message in messages]
            return template.render(turns, add_generation_prompt=add_generation_prompt)

        marked = render_marked(_CHARACTER)
        if marked.replace(mark, "") != text:
            marked = render_marked(self._whole_literals(template))
        own = self._find(marked)
        if len(own) == len(self._find(text)):
            ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
            return ids
        return list(self._join(marked, own, mark))

    def _whole_literals(self, template: ChatTemplate) -> re.Pattern[str]:
        """One of the template's string literals that names no control token, or one character."""
        literals = sorted((text for text in template.literals if not self._find(text)), key=len, reverse=True)
        return re.compile("|".join([*map(re.escape, literals), "."]), re.DOTALL)

    def _find(self, text: str) -> list[tuple[int, int, int]]:
        """Control tokens in a text: id, first character, end."""
        encoding = self._finder.encode(text, add_special_tokens=False)
        found = zip(encoding.ids, encoding.offsets, strict=True)
        return [(self._special[key], start, end) for key, (start, end) in found if key in self._special]

    def _join(self, marked: str, own: list[tuple[int, int, int]], mark: str) -> Iterator[int]:
        position = 0
        for token_id, start, end in own:
            yield from self._encode_text(marked[position:start].replace(mark, ""), position == 0)
            yield token_id
            position = end
        yield from self._encode_text(marked[position:].replace(mark, ""), position == 0)


def _mark(message: Message, mark: str, unit: re.Pattern[str]) -> Message:
    """Marks around every unit of the text but the outer white space, which templates trim."""
    content = message["content"]
    core = content.strip()
    start = content.index(core)
    inner = mark + mark.join(unit.findall(core)) + mark if core else ""
    return {"role": message["role"], "content": content[:start] + inner + content[start + len(core) :]}


def _unused_character(texts: Sequence[str]) -> str:
    """A private-use character (planes 15 and 16) that occurs in none of the texts."""
    used = set().union(*texts)
    for character in map(chr, chain(range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))):
        if character not in used:
            return character
    raise ArrieroError("the messages use up all 131,068 private-use characters of Unicode: they are no text")
