"""A vocabulary as files carry it, and the two `tokenizers` pipelines that LLaMA-architecture models use over it.

Byte-level BPE (Radford et al. 2019, GPT-2) is given by its merges in order and by the pattern that splits text into
words first. SentencePiece BPE (Kudo and Richardson 2018, arXiv 1808.06226) is given by scored pieces: it always joins
the adjacent pair whose union has the best score, which is a merge list sorted by score.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from arriero.common.errors import FormatError
from arriero.tokenizer.pieces import SPACE

LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

PRE_TOKENIZERS = {
    "smollm": "smollm",
    "llama-bpe": "llama-bpe",
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "gpt-2": "gpt-2",
    "gpt2": "gpt-2",
    "default": "gpt-2",
}
"""Names that GGUF files give to ways of splitting text into words (`tokenizer.ggml.pre`), and the ways we know."""


class Kind(IntEnum):
    """What a piece is; the numbers are those of SentencePiece and of GGUF's `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Tokens in the order of their ids."""

    tokens: Sequence[str]
    """The token of each id."""
    kinds: Sequence[int]
    """The `Kind` of each id."""
    controls: frozenset[int]
    """Ids that are control tokens whatever their kind says: those named as begin, end, …"""

    def __post_init__(self) -> None:
        if not self.tokens:
            raise FormatError("the vocabulary is empty")
        if len(self.kinds) != len(self.tokens):
            raise FormatError(f"{len(self.kinds)} token types for {len(self.tokens)} tokens")
        if len(set(self.tokens)) != len(self.tokens):
            twice = next(token for index, token in enumerate(self.tokens) if token in self.tokens[:index])
            raise FormatError(f"token {twice!r} occurs twice in the vocabulary")
        for token_id in self.controls:
            if not 0 <= token_id < len(self.tokens):
                raise FormatError(f"special token id {token_id} is outside the vocabulary of {len(self.tokens)}")

    @property
    def ids(self) -> dict[str, int]:
        """Id of each token."""
        return {token: token_id for token_id, token in enumerate(self.tokens)}

    def added_tokens(self) -> list[AddedToken]:
        """Control tokens (special) and user-defined ones (always matched whole, as text)."""
        added = []
        for token_id, (token, kind) in enumerate(zip(self.tokens, self.kinds, strict=True)):
            special = kind in (Kind.CONTROL, Kind.UNKNOWN) or token_id in self.controls
            if special or kind == Kind.USER:
                added.append(AddedToken(token, special=special, normalized=False))
        return added


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """What SentencePiece does to text before it looks for pieces."""

    dummy_prefix: bool = True
    """Put a space before the text."""
    merge_spaces: bool = False
    """Drop spaces at both ends, and all but one of several in a row."""
    character_map: bytes = b""
    """A compiled table of character replacements (NFKC and the like); empty for none, as in LLaMA's own models.

    `tokenizers` applies it by grapheme where SentencePiece takes the longest match, so characters under several
    combining marks can come out otherwise.
    """


def build_byte_level(vocabulary: Vocabulary, merges: Sequence[tuple[str, str]], pre: str) -> tokenizers.Tokenizer:
    """Byte-level BPE whose text is split into words as `pre` says.

    Raises:
        FormatError: an unknown `pre`, or merges that do not fit the vocabulary.
    """
    if pre not in PRE_TOKENIZERS:
        raise FormatError(f"pre-tokenizer '{pre}' is not supported: expected {', '.join(PRE_TOKENIZERS)}")
    way = PRE_TOKENIZERS[pre]
    backend = tokenizers.Tokenizer(_merge_model(vocabulary, merges, ignore_merges=way == "llama-bpe"))
    backend.pre_tokenizer = split_words(way)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(vocabulary.added_tokens())
    return backend


def split_words(way: str) -> pre_tokenizers.PreTokenizer:
    """The splitting of text into words before byte-level merges: `smollm`, `llama-bpe` or `gpt-2`."""
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=way != "llama-bpe")
    if way == "llama-bpe":
        return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3_WORDS), "isolated"), words])
    if way == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    return words


def build_sentencepiece(
    vocabulary: Vocabulary,
    merges: Sequence[tuple[str, str]],
    normalization: Normalization,
    *,
    user_pieces_in_text: bool = False,
) -> tokenizers.Tokenizer:
    """SentencePiece BPE, with byte fallback where the vocabulary has the 256 byte tokens.

    User-defined pieces are matched whole. As `sentencepiece` does it (`user_pieces_in_text`) they stay a part of the
    text around them; elsewhere (added tokens of a fine-tuned model) the text after one begins anew, with its dummy
    prefix.
    """
    has_bytes = sum(kind == Kind.BYTE for kind in vocabulary.kinds) == 256
    unknown = [token for token, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True) if kind == Kind.UNKNOWN]
    user = [token for token, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True) if kind == Kind.USER]
    isolated = user if user_pieces_in_text else []
    model = _merge_model(
        vocabulary,
        merges,
        fuse_unk=True,
        byte_fallback=has_bytes,
        unk_token=unknown[0] if unknown else None,
        ignore_merges=bool(isolated),
    )
    backend = tokenizers.Tokenizer(model)
    if isolated:
        pattern = "|".join(map(re.escape, sorted(isolated, key=len, reverse=True)))
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    steps: list[normalizers.Normalizer] = []
    if normalization.character_map:
        steps.append(normalizers.Precompiled(normalization.character_map))
    if normalization.merge_spaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if normalization.dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    reading: list[decoders.Decoder] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if normalization.dummy_prefix:
        reading.append(decoders.Strip(" ", 1, 0))
    backend.decoder = decoders.Sequence(reading)
    backend.add_tokens([token for token in vocabulary.added_tokens() if token.special or not isolated])
    return backend


def rank_merges(vocabulary: Vocabulary, scores: Sequence[float]) -> list[tuple[str, str]]:
    """The merges that scored pieces stand for, best first: every split of a normal piece into two normal pieces.

    Raises:
        FormatError: not one score a token.
    """
    if len(scores) != len(vocabulary.tokens):
        raise FormatError(f"{len(scores)} scores for {len(vocabulary.tokens)} tokens")
    normal = {
        token: (-score, token_id)
        for token_id, (token, kind, score) in enumerate(zip(vocabulary.tokens, vocabulary.kinds, scores, strict=True))
        if kind == Kind.NORMAL and token_id not in vocabulary.controls
    }
    ranked = [
        (rank, split, token)
        for token, rank in normal.items()
        for split in range(1, len(token))
        if token[:split] in normal and token[split:] in normal
    ]
    return [(token[:split], token[split:]) for _, split, token in sorted(ranked)]


def _merge_model(vocabulary: Vocabulary, merges: Sequence[tuple[str, str]], **options: object) -> models.BPE:
    try:
        return models.BPE(vocab=vocabulary.ids, merges=list(merges), **options)
    except Exception as error:  # the library raises bare Exceptions, e.g. for a merge outside the vocabulary
        raise FormatError(f"the merges do not fit the vocabulary: {error}") from error
