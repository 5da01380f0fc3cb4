"""The settings of a vocabulary that is to be learnt, and what is in every such vocabulary.

`train.py` learns it; this file needs no NumPy, so that help comes at once.
"""

from dataclasses import dataclass

from arriero.common.errors import ArrieroError
from arriero.tokenizer.pieces import SPACE

UNK, BOS, EOS = "<unk>", "<s>", "</s>"
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))


@dataclass(frozen=True, kw_only=True)
class BpeOptions:
    """What vocabulary to make."""

    vocab_size: int = 32_000
    """Number of tokens: 3 control tokens, 256 bytes, and the pieces."""
    control: tuple[str, ...] = ()
    """Further control tokens, with ids from 3 on, such as <|im_start|>."""
    character_coverage: float = 0.99995
    """Share of the text's characters that the alphabet covers, commonest first; the others are spelled as bytes."""
    max_piece_length: int = 16
    """Most characters of a piece."""
    min_count: int = 2
    """How often a piece must occur in the text."""

    def __post_init__(self) -> None:
        if not 0 < self.character_coverage <= 1:
            raise ArrieroError(f"expected a character coverage above 0 and at most 1, got {self.character_coverage}")
        if self.max_piece_length < 2:
            raise ArrieroError(f"expected pieces of at least 2 characters, got {self.max_piece_length}")
        if self.min_count < 1:
            raise ArrieroError(f"expected a count of at least 1, got {self.min_count}")
        names = (UNK, BOS, EOS, *self.control)
        for index, name in enumerate(names):
            if not name.strip() or name in names[:index] or name in BYTES or SPACE in name:
                raise ArrieroError(f"control token '{name}' is empty, holds {SPACE}, or is a token already")
        if self.vocab_size < (least := len(names) + 256 + 1):
            raise ArrieroError(f"expected a vocabulary of at least {least} tokens, got {self.vocab_size}")
