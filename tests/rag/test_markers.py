"""Markers that a model writes are taken out; lists and subscripts stay."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.rag.markers import MarkerFilter, strip_markers


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("It is so [1].", "It is so."),
        ("It is so. [1] And so [2, 3] on [4-6].", "It is so. And so on."),
        ("[1] It is so.", " It is so."),
        ("It is so.\n[1]", "It is so.\n"),
        ("The element a[1] of [1, 2] is f([3]).", "The element a[1] of [1, 2] is f([3])."),
        ("A list `[1]` or '[2]'.", "A list `[1]` or '[2]'."),
        ("See [x] and [1a].", "See [x] and [1a]."),
        ("Nothing here", "Nothing here"),
    ],
)
def test_markers_go_and_code_stays(text, clean):
    assert strip_markers(text, "sum([1, 2]) of [1, 2]") == clean


_PIECES = st.lists(st.sampled_from(["a", " ", "[", "]", "1", ", ", ".", "[1]", " [2]", "x[3]", "\n", "é"]), max_size=30)


@given(_PIECES)
def test_a_stream_gives_what_the_whole_text_gives(pieces):
    markers = MarkerFilter("")
    streamed = "".join(map(markers.push, pieces)) + markers.flush()
    assert streamed == strip_markers("".join(pieces), "")


def test_text_without_brackets_is_not_held_back():
    assert MarkerFilter("").push("plain words.") == "plain words."
