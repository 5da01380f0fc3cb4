"""Positives answer, hard negatives only look like it, whether the file of questions says so or not."""

import pytest

from arriero.rag.negatives import mine_examples
from arriero.rag.questions import Question


@pytest.fixture
def filled(collection, tmp_path, write_file):
    docs = tmp_path / "towns"
    write_file(docs / "lumo.txt", "The mayor of Lumo is Ada.")
    write_file(docs / "nera.txt", "The mayor of Nera is Bo.")
    write_file(docs / "tiva.txt", "Tiva has no mayor. Ada visited Lumo once, said the mayor.")
    write_file(docs / "rain.txt", "It rains.")
    collection.add(docs)
    return collection


def ask(**more) -> Question:
    return Question(**{"id": "1", "question": "Who is the mayor of Lumo?", "answers": ("Ada",)} | more)


def test_without_a_context_the_best_passage_that_holds_an_answer_is_the_positive(filled):
    [example], lost = mine_examples(filled, [ask()], 5)
    assert lost == 0
    assert example.positive == "The mayor of Lumo is Ada."
    assert example.negatives[0] == "The mayor of Nera is Bo."
    assert not any("Ada" in text for text in example.negatives)


def test_with_a_context_the_positive_is_of_it(filled):
    context = "Tiva has no mayor. Ada visited Lumo once, said the mayor."
    [example], _ = mine_examples(filled, [ask(context=context)], 5)
    assert example.positive == context
    [other], _ = mine_examples(filled, [ask(context="Ada governs another town, of which nothing is here.")], 1)
    assert other.positive == "Ada governs another town, of which nothing is here."


def test_given_negatives_come_first_and_the_count_is_a_limit(filled):
    [example], _ = mine_examples(
        filled, [ask(negatives=("Bo is a mayor.",), positives=("The mayor of Nera is Bo.",))], 2
    )
    assert example.negatives[0] == "Bo is a mayor."
    assert "The mayor of Nera is Bo." not in example.negatives
    assert len(example.negatives) == 2
    assert len(example.passages) == 3
    [bare], _ = mine_examples(filled, [ask()], 0)
    assert bare.negatives == ()


def test_questions_that_nothing_answers_are_counted(filled):
    told: list[int] = []
    examples, lost = mine_examples(filled, [ask(answers=("Zoe",)), ask()], 1, told.append)
    assert (len(examples), lost, sum(told)) == (1, 1, 2)


def test_the_same_questions_give_the_same_examples(filled):
    assert mine_examples(filled, [ask()], 3) == mine_examples(filled, [ask()], 3)
