"""Questions and answers from docstrings."""

import pytest

from arriero.cli.road.examples import first_sentence, make_examples
from arriero.cli.road.texts import Docstring


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Return the\n    dedented text of it.  More follows.\n\nAnd more.", "Return the dedented text of it."),
        ("Return what (e.g.) is left over here!", "Return what (e.g.) is left over here!"),
        ("Too short.", None),
        ("no full stop at the end of this", None),
        ("dedent(text) -> the text without its margin.", None),
        ("Größe of the object that is measured.", None),
    ],
)
def test_the_first_sentence_is_the_answer_where_it_says_something_alone(text, answer):
    assert first_sentence(Docstring("m.f", "function", text)) == answer


def test_examples_are_many_different_and_always_in_the_same_order():
    rows = make_examples()
    assert rows == make_examples()
    assert len(rows) > 1000
    assert len({row["completion"] for row in rows}) == len({row["prompt"] for row in rows}) == len(rows)
    assert {"prompt", "completion"} == set(rows[0])
