"""Citations: only passages that were in the prompt, only where they support the sentence, with quotes to the letter."""

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arriero.rag.citations import Citation, Grounder, without_markers
from arriero.rag.passage import Passage, describe_place
from arriero.rag.prompt import Source
from arriero.rag.search import Hit

TEXTS = [
    "Llamas carry wool and loads. They live in Peru.",
    "The ship left port in 1912. It carried 2,000 people.",
]
OFFSET = 500  # where each passage begins in its document


@pytest.fixture
def encoder(encoder):
    encoder.dim = 512  # in few dimensions the directions of unrelated words are not far enough from right angles
    return encoder


def sources(texts: list[str] = TEXTS) -> list[Source]:
    return [
        Source(
            Hit(
                passage=Passage(text, f"doc{number}.pdf", OFFSET, OFFSET + len(text), 3, 4, "Animals", 0),
                passage_id=10 + number,
                score=1.0,
                dense=0.9,
                bm25=None,
                metadata={},
            ),
            ((0, len(text)),),
        )
        for number, text in enumerate(texts, 1)
    ]


def ground(encoder, answer: str, shown: list[Source] | None = None) -> tuple[str, Grounder]:
    grounder = Grounder(sources() if shown is None else shown, "What do llamas do?", encoder)
    return grounder.push(answer) + grounder.flush(), grounder


def test_markers_can_be_taken_off_again(encoder):
    says = "The ship left port in 1912. x[1] stays. Llamas carry wool."
    assert without_markers(ground(encoder, says)[0]) == says


def test_a_supported_sentence_gets_a_marker_and_a_quote(encoder):
    text, grounder = ground(encoder, "The ship left port in 1912.")
    assert text == "The ship left port in 1912. [1]"
    assert grounder.grounded == "full"
    (citation,) = grounder.citations
    assert citation == Citation(
        number=1,
        document="doc2.pdf",
        page=3,
        page_end=4,
        section="Animals",
        quote="The ship left port in 1912.",
        start=OFFSET,
        end=OFFSET + 27,
        passage_id=12,
    )
    assert citation.place == "doc2.pdf, pages 3-4, Animals"


def test_quotes_lie_where_their_offsets_say(encoder):
    _, grounder = ground(encoder, "It carried 2,000 people. Llamas live in Peru.")
    for citation in grounder.citations:
        text = next(text for text in TEXTS if citation.quote in text)
        assert text[citation.start - OFFSET : citation.end - OFFSET] == citation.quote


def test_numbers_follow_the_answer_and_a_passage_has_one(encoder):
    text, grounder = ground(encoder, "The ship left port in 1912. Llamas carry wool. The ship carried 2,000 people.")
    assert text == "The ship left port in 1912. [1] Llamas carry wool. [2] The ship carried 2,000 people. [1]"
    assert [citation.number for citation in grounder.citations] == [1, 2]


def test_an_unsupported_sentence_has_no_marker(encoder):
    text, grounder = ground(encoder, "Llamas carry wool. They fly to Chile in 1955.")
    assert text == "Llamas carry wool. [1] They fly to Chile in 1955."
    assert grounder.grounded == "partial"


def test_an_answer_without_support_is_not_grounded(encoder):
    text, grounder = ground(encoder, "Llamas fly to Chile. [1]")
    assert (text, grounder.grounded, grounder.citations) == ("Llamas fly to Chile.", "none", [])


@pytest.mark.parametrize("marker", ["[1]", "[7]", "[1, 2]", "[99]"])
def test_the_models_own_markers_are_worth_nothing(encoder, marker):
    text, grounder = ground(encoder, f"Llamas fly {marker}. The ship left port in 1912 {marker}.")
    assert text == "Llamas fly. The ship left port in 1912. [1]"
    assert grounder.citations[0].document == "doc2.pdf"


def test_only_what_was_shown_can_be_cited(encoder):
    shown = sources()
    shown[1] = Source(shown[1].hit, ((28, len(TEXTS[1])),))  # '… It carried 2,000 people.'
    text, _ = ground(encoder, "The ship left port in 1912.", shown)
    assert text == "The ship left port in 1912."
    text, grounder = ground(encoder, "It carried 2,000 people.", shown)
    assert text.endswith("[1]")
    assert grounder.citations[0].start == OFFSET + 28


def test_no_passages_no_citations(encoder):
    assert ground(encoder, "Llamas carry wool.", [])[0] == "Llamas carry wool."


def test_lists_and_code_keep_their_form(encoder):
    text, _ = ground(encoder, "- Llamas carry wool.\n- x[1] = [1, 2]\n\n    code()")
    assert text == "- Llamas carry wool. [1]\n- x[1] = [1, 2]\n\n    code()"


def test_what_is_said_twice_is_shown_once_and_ends_the_answer(encoder):
    text, grounder = ground(encoder, "Llamas carry wool and loads. It is so. " * 5)
    assert text == "Llamas carry wool and loads. [1] It is so."
    assert grounder.repeating
    assert grounder.push("More.") == ""


def test_lines_of_code_may_come_twice(encoder):
    text, grounder = ground(encoder, "a {\n}\nb {\n}")
    assert text == "a {\n}\nb {\n}"
    assert not grounder.repeating


ANSWER = "Llamas carry wool [2]. The ship left port in 1912. [1]\n\n- They fly, e.g. to 3.5 places.\n你好。x[1]"


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, len(ANSWER)), max_size=12))
def test_a_stream_in_any_pieces_joins_to_the_same_answer(encoder, cuts):
    edges = [0, *sorted(cuts), len(ANSWER)]
    grounder = Grounder(sources(), "q", encoder)
    pieces = [grounder.push(ANSWER[start:end]) for start, end in itertools.pairwise(edges)]
    assert "".join(pieces) + grounder.flush() == (
        "Llamas carry wool. [1] The ship left port in 1912. [2]\n\n- They fly, e.g. to 3.5 places.\n你好。x[1]"
    )


def test_a_place_names_one_page_or_the_range():
    assert describe_place("a.pdf", 3, 3, "Results") == "a.pdf, page 3, Results"
    assert describe_place("a.pdf", 3, 4, None) == "a.pdf, pages 3-4"
    assert describe_place("a.txt", None, None, None) == "a.txt"
