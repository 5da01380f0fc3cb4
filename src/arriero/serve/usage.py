"""How many tokens a request took, as OpenAI counts them: a prompt once, however many answers it got."""

from collections.abc import Iterable

from pydantic import BaseModel

from arriero.generate.request import Completion


class PromptDetails(BaseModel):
    """Of the prompt's tokens."""

    cached_tokens: int


class Usage(BaseModel):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


def make_usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> Usage:
    """The count of tokens."""
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=PromptDetails(cached_tokens=cached_tokens),
    )


def count_usage(completions: Iterable[Completion]) -> Usage:
    """Of all samples of one client's request, those of a prompt one behind the other."""
    listed = list(completions)
    first = [completion for completion in listed if completion.sample == 0]
    return make_usage(
        sum(completion.prompt_tokens for completion in first),
        sum(len(completion.ids) for completion in listed),
        sum(completion.cached_tokens for completion in first),
    )
