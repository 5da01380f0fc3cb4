"""How much of a text fits: the question is kept whole, and a document loses its end."""

from collections.abc import Callable


def longest_fit(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number from 0 to `most` that fits, where smaller ones fit too."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def end_at_blank(text: str, end: int, *, near: int = 24) -> int:
    """A cut at `end`, moved back to a blank that lies near, so that no word is cut in two."""
    blank = max(text.rfind(mark, max(0, end - near), end) for mark in " \n\t")
    return blank if blank > 0 and end < len(text) else end


def cut_to_fit(text: str, fits: Callable[[str], bool]) -> str:
    """The longest beginning of a text that fits, ended at a blank where one is near."""
    return text[: end_at_blank(text, longest_fit(len(text), lambda end: fits(text[:end])))].rstrip()
