"""The tokenizer of a model: text to ids, ids to text, chats to ids.

It wraps a `tokenizers.Tokenizer` and adds what that library leaves to its callers: which tokens begin and end a
sequence, which end an answer, text that can never become a control token, and decoding token by token.
"""

import json
from collections.abc import Iterable, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import pre_tokenizers, processors

from arriero.common.errors import ArrieroError, FormatError
from arriero.common.files import atomic_file
from arriero.tokenizer.chat import ChatTemplate, Message, check_messages
from arriero.tokenizer.chat_encoding import ChatEncoder
from arriero.tokenizer.pieces import StreamDecoder, encode_text, read_spelling, read_texts

END_OF_TURN = frozenset(
    ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<|end_of_turn|>", "<end_of_turn>",
     "<|end|>", "</s>")
)  # fmt: skip
"""Control tokens that end an answer in the chat formats of LLaMA-architecture models."""


class Tokenizer:
    """Text to ids and back. Safe to share between threads."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        bos_id: int | None = None,
        eos_id: int | None = None,
        pad_id: int | None = None,
        unk_id: int | None = None,
        add_bos: bool = False,
        add_eos: bool = False,
        stop_ids: Iterable[int] = (),
        chat_template: str | None = None,
    ) -> None:
        """Wrap `backend`, whose special added tokens are the control tokens.

        Raises:
            FormatError: its decoder is neither byte-level nor SentencePiece's, or an id is outside the vocabulary.
        """
        self.backend = backend
        self.bos_id, self.eos_id, self.pad_id, self.unk_id = bos_id, eos_id, pad_id, unk_id
        for name, token_id in {"bos": bos_id, "eos": eos_id, "pad": pad_id, "unk": unk_id}.items():
            if token_id is not None and backend.id_to_token(token_id) is None:
                raise FormatError(f"the {name} token's id {token_id} is outside the vocabulary")
        self.add_bos = add_bos and bos_id is not None
        self.add_eos = add_eos and eos_id is not None
        backend.no_padding()
        backend.no_truncation()
        self._added = backend.get_added_tokens_decoder()
        self._special = frozenset(token_id for token_id, token in self._added.items() if token.special)
        self._plain = _ignore_special(backend, self._added, backend.pre_tokenizer)
        self.vocab_size: int = 1 + max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
        """One more than the highest id: the least number of rows of the embedding."""
        self._spelling = read_spelling(backend)
        ends = {token_id for token_id in self._special if self._added[token_id].content in END_OF_TURN}
        self.stop_ids = frozenset(ends | set(stop_ids) | ({eos_id} if eos_id is not None else set()))
        """Tokens that end an answer: end of sequence, and end of turn in a chat."""
        self.chat_template = None if chat_template is None else ChatTemplate(chat_template, self.special_tokens)

    @property
    def special_tokens(self) -> dict[str, str]:
        """The named special tokens, as chat templates know them: `bos_token`, `eos_token`, `pad_token`, `unk_token`."""
        ids = {"bos_token": self.bos_id, "eos_token": self.eos_id, "pad_token": self.pad_id, "unk_token": self.unk_id}
        return {name: self._token(token_id) for name, token_id in ids.items() if token_id is not None}

    @property
    def byte_level(self) -> bool:
        """Whether tokens are bytes (GPT-2's BPE) rather than SentencePiece's pieces."""
        return self._spelling.kind == "bytes"

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of the control tokens, which text never becomes unless `parse_special` is set."""
        return self._special

    def encode(
        self, text: str, *, bos: bool | None = None, eos: bool | None = None, parse_special: bool = False
    ) -> list[int]:
        """Ids of `text`.

        Args:
            text: any text; a control token's name in it is only text, unless `parse_special`.
            bos: begin with the beginning-of-sequence token; by default as the model wants it (`add_bos`).
            eos: end with the end-of-sequence token; by default as the model wants it (`add_eos`).
            parse_special: read names of control tokens as these tokens. Only for text that a program wrote.

        Raises:
            ArrieroError: the text holds a lone surrogate, or the vocabulary lacks the wanted token.
        """
        head, tail = self._edges(bos, eos)
        _check_unicode(text)
        backend = self.backend if parse_special else self._plain
        ids: list[int] = encode_text(backend, text).ids
        return head + (ids if parse_special else self._spell_out(ids)) + tail

    def encode_batch(
        self, texts: Sequence[str], *, bos: bool | None = None, eos: bool | None = None, parse_special: bool = False
    ) -> list[list[int]]:
        """`encode` of many texts, in parallel."""
        head, tail = self._edges(bos, eos)
        for text in texts:
            _check_unicode(text)
        backend = self.backend if parse_special else self._plain
        rows = [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        if not parse_special:
            rows = [self._spell_out(ids) for ids in rows]
        return [head + ids + tail for ids in rows]

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of `ids`; ids without a token are nothing, bytes that are no UTF-8 are U+FFFD."""
        text: str = self.backend.decode(list(ids), skip_special_tokens=skip_special)
        return text

    def stream(self, *, skip_special: bool = True) -> StreamDecoder:
        """A decoder that takes tokens one by one and never gives a part of a character."""
        return StreamDecoder(self._texts, self._spelling, self._special if skip_special else frozenset())

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token adds to a text; b'' for an id without a token."""
        piece = self._texts.get(token_id, b"")
        return piece if isinstance(piece, bytes) else piece.encode()

    def token_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it, or None."""
        token_id: int | None = self.backend.token_to_id(token)
        return token_id

    def encode_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> list[int]:
        """Ids of a chat in the model's own format; text of a message never becomes a control token.

        Equal to `encode(chat_template.render(messages), bos=False, parse_special=True)` where no message holds the
        name of a control token: the template writes the beginning-of-sequence token itself, so it is never doubled.

        Raises:
            ArrieroError: the model carries no chat template, or its template refuses the messages.
        """
        template, turns = self._check_chat(messages)
        return self._chat_encoder.encode(template, turns, add_generation_prompt=add_generation_prompt)

    def encode_answers(self, messages: Sequence[Message]) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of a whole chat, and where the assistant's answers lie in them, from where serving lets the model begin
        up to and with the token that ends the turn.

        Raises:
            ArrieroError: the model carries no chat template, or its template refuses the messages, leaves out an answer
                or ends none with a stop token.
        """
        template, turns = self._check_chat(messages)
        return self._chat_encoder.encode_answers(template, turns, self.stop_ids)

    def use_chat_template(self, source: str) -> None:
        """Replace the chat template: Jinja text, or the name of a built-in one (`chatml`, `llama2`)."""
        self.chat_template = ChatTemplate.named(source, self.special_tokens)

    def with_filler(self) -> "Tokenizer":
        """The same tokenizer, its pad token one that ends no answer: a reader may then take it for nothing but filling.

        Where pad and end of sequence are one token, as in SmolLM2, the end of an answer looks like padding.
        """
        other = copy(self)
        if self.pad_id is None or self.pad_id in self.stop_ids:
            other.pad_id = min(self._special - self.stop_ids - {self.bos_id}, default=self.unk_id)
        return other

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` as `transformers` reads them."""
        folder.mkdir(parents=True, exist_ok=True)
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        backend.post_processor = self._post_processor()
        config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        config |= {"add_bos_token": self.add_bos, "add_eos_token": self.add_eos} | self.special_tokens
        files = {"tokenizer.json": backend.to_str(pretty=True), "tokenizer_config.json": json.dumps(config, indent=2)}
        if self.chat_template is not None:
            files["chat_template.jinja"] = self.chat_template.source
        for name, text in files.items():
            with atomic_file(folder / name) as aside:
                aside.write_bytes(text.encode())

    def _check_chat(self, messages: Sequence[Message]) -> tuple[ChatTemplate, list[Message]]:
        if self.chat_template is None:
            raise ArrieroError(
                "this model carries no chat template: give one (built in: 'chatml', 'llama2'), or prompt it as text"
            )
        turns = check_messages(messages)
        for message in turns:
            _check_unicode(message["content"])
        return self.chat_template, turns

    @cached_property
    def _texts(self) -> dict[int, str | bytes]:
        return read_texts(self.backend, self._spelling, range(self.vocab_size))

    @cached_property
    def _chat_encoder(self) -> ChatEncoder:
        inner = _ignore_special(self.backend, self._added, _without_prefix(self.backend.pre_tokenizer))
        texts = {True: self._plain, False: inner}

        def encode_plain(text: str, begins: bool) -> list[int]:
            return self._spell_out(encode_text(texts[begins], text).ids)

        return ChatEncoder(self.backend, self._added, encode_plain)

    def _token(self, token_id: int) -> str:
        return self.backend.id_to_token(token_id) or ""

    def _edges(self, bos: bool | None, eos: bool | None) -> tuple[list[int], list[int]]:
        """What goes before and after the ids of a text."""
        edges = []
        for wanted, token_id, name in (
            (self.add_bos if bos is None else bos, self.bos_id, "beginning-of-sequence"),
            (self.add_eos if eos is None else eos, self.eos_id, "end-of-sequence"),
        ):
            if wanted and token_id is None:
                raise ArrieroError(f"this vocabulary has no {name} token")
            edges.append([token_id] if wanted and token_id is not None else [])
        return edges[0], edges[1]

    def _spell_out(self, ids: list[int]) -> list[int]:
        """Replace control tokens that the merges themselves made out of plain text by their characters' tokens.

        Only vocabularies that look words up before merging (Llama 3's `ignore_merges`) can make one.
        """
        if self._special.isdisjoint(ids):
            return ids
        model = self.backend.model
        spelled = {
            token_id: [part.id for character in self._token(token_id) for part in model.tokenize(character)]
            for token_id in self._special.intersection(ids)
        }
        return [part for token_id in ids for part in spelled.get(token_id, [token_id])]

    def _post_processor(self) -> processors.TemplateProcessing:
        named = self.special_tokens
        head = f"{named['bos_token']}:0 " if self.add_bos else ""
        tail = f" {named['eos_token']}:0" if self.add_eos else ""
        second = f"{head}$B:1{tail}".replace(":0", ":1")
        tokens = [(named["bos_token"], self.bos_id)] if self.add_bos else []
        tokens += [(named["eos_token"], self.eos_id)] if self.add_eos else []
        single = f"{head}$A:0{tail}"
        return processors.TemplateProcessing(single=single, pair=f"{single} {second}", special_tokens=tokens)


def _ignore_special(
    backend: tokenizers.Tokenizer, added: dict[int, Any], words: pre_tokenizers.PreTokenizer | None
) -> tokenizers.Tokenizer:
    """A tokenizer over the same vocabulary (shared, not copied) to which control tokens' names are text."""
    plain = tokenizers.Tokenizer(backend.model)
    if backend.normalizer is not None:
        plain.normalizer = backend.normalizer
    if words is not None:
        plain.pre_tokenizer = words
    plain.add_tokens([added[token_id] for token_id in sorted(added)])
    plain.encode_special_tokens = True
    return plain


def _without_prefix(words: pre_tokenizers.PreTokenizer | None) -> pre_tokenizers.PreTokenizer | None:
    """For text after a control token: a Metaspace that puts its space before the `first` piece only puts none here."""
    if isinstance(words, pre_tokenizers.Metaspace) and words.prepend_scheme == "first":
        return pre_tokenizers.Metaspace(replacement=words.replacement, prepend_scheme="never", split=words.split)
    return words


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = f"the text holds a lone surrogate at character {error.start}: it is no valid Unicode"
        raise ArrieroError(message) from error
