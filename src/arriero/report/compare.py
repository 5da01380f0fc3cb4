"""Answers of several models to the same prompts, side by side, as a page."""

from collections.abc import Sequence
from dataclasses import dataclass

from arriero.report.html import render_page
from arriero.report.page import count, fixed


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One of the models."""

    name: str
    answers: list[str]
    """To the prompts, in their order."""
    tokens: list[int]
    """Of each answer."""
    loss: float | None
    """Mean loss of the examples' answers, in nats a token, where there are examples."""


def render_comparison(prompts: Sequence[str], contenders: Sequence[Contender], supervised: int | None) -> str:
    """The page; whatever a model says is text: Jinja escapes it.

    Args:
        supervised: tokens that the losses are a mean of.
    """
    filters = {"count": count, "fixed": fixed}
    return render_page("compare.html", filters, prompts=prompts, contenders=contenders, supervised=supervised)
