"""The page of an evaluation: texts stay texts, one script runs, and every question says what became of it."""

import base64
import hashlib
import re

import pytest

from arriero.rag.evaluation_records import SILENT, Given, Read, Record
from arriero.rag.evaluation_summary import summarise
from arriero.report.rag_evaluation import KINDS, became_rows, mark_answers, render_evaluation, system_rows

BAD = "<script>alert('llama')</script>"
SYSTEMS = ("closed-book", "rag-token")


def record(name, *, answers=("wool",), said=("hay", "it is Wool!"), read=("Llamas carry wool.",), dense=0.5):
    documents = tuple(
        Read(place=f"{number}.txt", text=text, prior=1 / len(read), answers="wool" in text)
        for number, text in enumerate(read)
    )
    given = {
        system: Given(text=text, em=0.0, f1=0.25, logprob=-1.0, posterior=tuple(1 / len(read) for _ in read))
        for system, text in zip(SYSTEMS, said, strict=True)
        if answers
    }
    return Record(id=name, question=name, answers=answers, rank=None, dense=dense, documents=documents, given=given)


@pytest.fixture
def records():
    return [
        record("right?"),
        record(f"misread {BAD}?", said=(BAD, "hay"), read=(f"wool {BAD}", "other")),
        record("lost?", read=("nothing",), said=("", ""), dense=0.1),
        record("unanswerable?", answers=()),
    ]


def page_of(records):
    return render_evaluation(summarise(records, SYSTEMS, k=2, threshold=0.3), records, name="q.json")


def test_each_question_says_what_became_of_it(records):
    page = page_of(records)
    found = re.findall(r'data-state="(\w+)" data-refused="(\d)" data-dense="([\d.-]+)" data-right="([01 ]+)"', page)
    assert found == [
        ("found", "0", "0.5000", "0 1"),
        ("found", "0", "0.5000", "0 0"),
        ("lost", "1", "0.1000", "0 0"),
        ("unanswerable", "0", "0.5000", "0 0"),
    ]


def test_texts_are_texts_and_the_script_is_the_one_that_the_policy_names(records):
    page = page_of(records)
    assert BAD not in page
    assert "&lt;script&gt;alert" in page
    [script] = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "unsafe-inline'; script-src" in page
    for kind in KINDS:
        assert re.search(rf"^  {kind}: \(", script, flags=re.MULTILINE), f"browse.js does not know {kind}"


def test_what_was_said_is_counted_apart_from_exact_matches(records):
    summary = summarise(records, SYSTEMS, k=2, threshold=0.3)
    assert became_rows(summary, records) == [["closed-book", "0", "2", "1"], ["rag-token", "1", "1", "1"]]
    assert summary.systems[1].em.mean == 0
    assert summary.systems[1].said.mean == pytest.approx(1 / 3)
    assert system_rows(summary)[1][3].startswith("33.3 (")


def test_a_question_without_documents_is_shown(records):
    bare = Record(id="1", question="?", answers=("x",), rank=None, dense=-1, documents=(), given={"rag-token": SILENT})
    summary = summarise([bare], ("rag-token",), k=2, threshold=0.3)
    assert "(empty)" in render_evaluation(summary, [bare], name="q.json")


@pytest.mark.parametrize(
    ("text", "answers", "pieces"),
    [
        ("Wool and wool", ("wool",), [(True, "Wool"), (False, " and "), (True, "wool")]),
        ("a.b axb", ("a.b",), [(True, "a.b"), (False, " axb")]),
        ("in 1927 here", ("1927", "in 1927"), [(True, "in 1927"), (False, " here")]),
        ("nothing", ("x",), [(False, "nothing")]),
        ("nothing", ("", " "), [(False, "nothing")]),
        ("nothing", (), [(False, "nothing")]),
    ],
)
def test_answers_are_marked_where_they_stand(text, answers, pieces):
    assert list(mark_answers(text, answers)) == pieces
