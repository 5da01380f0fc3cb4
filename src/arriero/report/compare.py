"""Answers of several models to the same prompts, side by side, as a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import jinja2
from markupsafe import Markup

from arriero import __version__
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
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("arriero.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"count": count, "fixed": fixed}
    style, _, _ = environment.loader.get_source(environment, "report.css")  # type: ignore[union-attr]
    return environment.get_template("compare.html").render(
        style=Markup(style),  # noqa: S704 - ours
        prompts=prompts,
        contenders=contenders,
        supervised=supervised,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
    )
