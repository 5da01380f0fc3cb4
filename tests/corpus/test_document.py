"""Steps: one document in, one out; a refused one is left alone, and a failure is nobody else's."""

import pytest

from arriero.corpus.document import Document, Each, chain


def document(text: str) -> Document:
    return Document(id=text, text=text, origin="here")


def test_later_steps_leave_dropped_documents_alone() -> None:
    first = Each("first", lambda d: d.drop("first: no") if d.text == "a" else d)
    second = Each("second", lambda d: d.with_text(d.text * 2))
    assert [(d.text, d.dropped) for d in chain([first, second], map(document, "ab"))] == [
        ("a", "first: no"),
        ("bb", None),
    ]


def test_a_step_that_fails_on_a_document_drops_it_by_name() -> None:
    step = Each("length", lambda d: d.with_metadata(inverse=1 / (len(d.text) - 1)))
    made = list(step(map(document, ["a", "bc"])))
    assert made[0].dropped == "length: failed (ZeroDivisionError)"
    assert made[1].metadata == {"inverse": 1.0}


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, OSError])
def test_what_is_no_documents_fault_ends_the_work(error: type[BaseException]) -> None:
    def fail(document: Document) -> Document:
        raise error

    with pytest.raises(error):
        list(Each("fail", fail)([document("a")]))


def test_no_steps_change_nothing() -> None:
    assert list(chain([], [document("a")])) == [document("a")]
