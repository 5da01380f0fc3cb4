"""What a prompt must satisfy before a model may read it."""

from collections.abc import Sequence

from arriero.common.errors import ArrieroError


def check_prompt(prompt: Sequence[int], max_tokens: int, *, vocab: int, context: int) -> None:
    """Refuse a prompt that is empty, has ids outside the vocabulary, or is too long for the context with its answer.

    Raises:
        ArrieroError: with the figures, and what to do about it.
    """
    if not prompt:
        raise ArrieroError("the prompt is empty: expected at least one token, e.g. the tokenizer's BOS")
    if min(prompt) < 0 or max(prompt) >= vocab:
        bad = next(token for token in prompt if not 0 <= token < vocab)
        raise ArrieroError(f"the prompt has token id {bad}, but the model's vocabulary is 0 to {vocab - 1}")
    room = context - len(prompt)
    if room < 1:
        raise ArrieroError(
            f"the prompt has {len(prompt)} tokens, which leaves no room in the context of {context}: "
            f"shorten it by at least {1 - room}, or take a model with a longer context"
        )
    if max_tokens > room:
        raise ArrieroError(
            f"the prompt's {len(prompt)} tokens and max_tokens {max_tokens} exceed the context of {context}: "
            f"lower max_tokens to {room}, or shorten the prompt by {max_tokens - room} tokens"
        )
