"""Questions about the reference, made from its sentences."""

import pytest

from arriero.cli.road.questions import ask, make_questions
from arriero.cli.road.texts import topics
from arriero.rag.qa_metrics import holds_answer


@pytest.mark.parametrize(
    ("sentence", "question", "answer"),
    [
        ('The optional "else" clause is executed if the control flow leaves the suite, and so on.',
         "When is the optional else clause executed?", "if the control flow leaves the suite"),
        ("An iterator is an object representing a stream of data.",
         "What is an iterator?", "an object representing a stream of data"),
        ('The "raise" statement raises the exception that it is given.',
         "What does the raise statement do?", "raises the exception"),
        ('The "with" statement is used to wrap the execution of a block.',
         "What is the with statement used for?", "to wrap the execution of a block"),
        ("Guards return true for every one of them here.",
         "What do Guards do?", "return true for every one of them here"),
    ],
)  # fmt: skip
def test_what_stands_before_the_verb_is_asked_for(sentence, question, answer):
    assert ask(sentence) == (question, answer)


@pytest.mark.parametrize(
    "sentence",
    [
        "It is an object representing a stream of data.",
        "The following is a list of all the operators.",
        "If so, the clause is executed when it ends.",
        "Eggs, ham and spam, every day of the week.",
        "The block is a block.",
    ],
)
def test_what_nobody_could_ask_without_the_text_before_is_left_out(sentence):
    assert ask(sentence) is None


def test_the_reference_gives_questions_whose_paragraphs_hold_the_answers():
    questions = make_questions(topics())
    assert len(questions) > 100
    assert len({each.question for each in questions}) == len(questions)
    assert all(each.synthetic and each.title in topics() for each in questions)
    assert all(holds_answer(each.context, each.answers) for each in questions)
