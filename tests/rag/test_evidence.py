"""Evidence: what supports a sentence, and what only looks like it."""

import pytest

from arriero.rag.evidence import Evidence, content_words, is_negated, rigid_terms, sentence_spans, stem, stretches

PASSAGE = (
    "The Summer Theatre stood in the Saxon Garden. It was in operation from 1870 to 1939. "
    "Its first director was Leon Schiller, who did not stay long. It seated 1,200 people."
)


@pytest.fixture
def encoder(encoder):
    encoder.dim = 512  # in few dimensions the directions of unrelated words are not far enough from right angles
    return encoder


@pytest.fixture
def evidence(encoder) -> Evidence:
    return Evidence(
        ["Llamas carry loads.", PASSAGE], ["animals.txt", "warsaw.txt Theatres"], "When was it open?", encoder
    )


@pytest.mark.parametrize(
    "sentence",
    [
        "The Summer Theatre stood in the Saxon Garden.",
        "The Summer Theatre was in operation from 1870 to 1939.",
        "It seated 1,200 people.",
        "The first director was Leon Schiller.",
        "Leon Schiller did not stay long.",
        "1870 to 1939.",
    ],
)
def test_what_the_passage_says_is_supported(evidence, sentence):
    support = evidence.support(sentence)
    assert support is not None
    assert support.passage == 1


@pytest.mark.parametrize(
    "sentence",
    [
        "The Summer Theatre was in operation from 1870 to 1949.",  # another number
        "It seated 12,00 people.",
        "Its first director was Leon Momus.",  # another name
        "The Summer Theatre did not stand in the Saxon Garden.",  # denied
        "The Summer Theatre burned down after the war.",  # not said
        "The `summer_theatre` stood in the Saxon Garden.",  # a code word
        "1871.",
        "The answer is: 1,200.",  # to another question
        "It is so.",
        "...",
        "",
    ],
)
def test_what_the_passage_does_not_say_is_not_supported(evidence, sentence):
    assert evidence.support(sentence) is None


def test_a_word_of_the_question_said_back_is_no_answer(encoder):
    evidence = Evidence([PASSAGE], [""], "Was it in operation from 1870 to 1939?", encoder)
    assert evidence.support("The answer is: 1870.") is None
    assert evidence.support("It was in operation from 1870 to 1939.") is not None


def test_the_support_is_the_stretch_that_says_it(evidence):
    support = evidence.support("It was in operation from 1870 to 1939.")
    assert PASSAGE[support.start : support.end] == "It was in operation from 1870 to 1939."


def test_a_sentence_may_rest_on_neighbouring_sentences(evidence):
    support = evidence.support("The Summer Theatre in the Saxon Garden was in operation from 1870.")
    assert PASSAGE[support.start : support.end].startswith("The Summer Theatre stood")
    assert "1870" in PASSAGE[support.start : support.end]


def test_without_passages_nothing_is_supported(encoder):
    assert Evidence([], [], "q", encoder).support("Llamas carry loads.") is None


def test_sentences_of_other_scripts(encoder):
    evidence = Evidence(["羊驼生活在秘鲁。它们吃草。"], [""], "羊驼在哪里？", encoder)
    assert evidence.support("羊驼生活在秘鲁。") is not None
    assert evidence.support("羊驼生活在智利。") is None


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("See e.g. Dr. Smith at 3.5 m. Then go.", ["See e.g. Dr. Smith at 3.5 m.", "Then go."]),
        ("It wraps\nhere. And ends", ["It wraps\nhere.", "And ends"]),
        ("Oil of grade 68. The filter", ["Oil of grade 68.", "The filter"]),
        ("It weighs 12.\nThe filter", ["It weighs 12.", "The filter"]),
        ("1. Install it. Am 3. Oktober", ["1. Install it.", "Am 3. Oktober"]),
        ("你好。再见。", ["你好。", "再见。"]),
        (" \n ", []),
        ("", []),
    ],
)
def test_sentences(text, sentences):
    assert [text[start:end] for start, end in sentence_spans(text)] == sentences


def test_lines_end_sentences_where_asked():
    assert len(sentence_spans("- one\n- two\nthree", line_breaks=True)) == 3


def test_stretches_are_runs_of_up_to_three():
    assert stretches([(0, 1), (2, 3), (4, 5), (6, 7)])[-2:] == [(0, 5), (2, 7)]
    assert len(stretches([(0, 1), (2, 3)])) == 3


def test_words():
    assert content_words("The llamas are carrying it") == {"llama", "carry"}
    assert stem("returns") == stem("returned") == stem("returning") == stem("return")
    assert rigid_terms("The year 1,870 saw Leon's __init__ in ABC") == {"1,870", "leon", "__init__", "abc"}
    assert is_negated(["doesn't"])
    assert not is_negated(["nothing", "knot"])


def test_what_the_question_names_need_not_stand_in_every_sentence(encoder):
    passage = "The observatory at Quillmoor opened in 1911. The director is Dr. Ferran Okoye."
    question = "Who is the director of the Quillmoor observatory?"
    support = Evidence([passage], ["report.pdf"], question, encoder).support
    assert support("The director of the Quillmoor observatory is Dr. Ferran Okoye.") is not None
    assert support("The director of the Quillmoor observatory is Dr. Ada Okoye.") is None
