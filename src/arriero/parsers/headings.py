"""The path of headings above the place that a parser has reached."""

MAX_TITLE = 200
"""Characters of one heading that go into a path: a page that marks whole paragraphs as headings must not bloat it."""
SEPARATOR = " > "


class Headings:
    """Enter each heading as it comes; `path` is what a section at this place is titled."""

    def __init__(self) -> None:
        self._open: list[tuple[int, str]] = []

    def enter(self, level: int, title: str) -> None:
        """A heading of `level` (smaller is higher up) closes those of its own level and below."""
        title = " ".join(title.split())
        if len(title) > MAX_TITLE:
            title = title[:MAX_TITLE].rstrip() + "…"
        self._open = [step for step in self._open if step[0] < level]
        if title:
            self._open.append((level, title))

    @property
    def path(self) -> str | None:
        """'Guide > Install > Linux', or None before the first heading."""
        return SEPARATOR.join(title for _, title in self._open) or None
