"""What all pages share: Jinja with everything escaped, one style sheet, and who made it when."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import jinja2
from markupsafe import Markup

from arriero import __version__


def render_page(template: str, filters: Mapping[str, Callable[..., str]], **values: Any) -> str:
    """A page that asks nothing of any server; whatever its values say is text.

    Args:
        template: its file in `templates`.
        filters: how values are written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("arriero.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= filters
    style, _, _ = environment.loader.get_source(environment, "report.css")  # type: ignore[union-attr]
    return environment.get_template(template).render(
        style=Markup(style),  # noqa: S704 - ours
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        **values,
    )
