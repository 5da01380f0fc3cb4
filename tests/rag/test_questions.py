"""Questions come out of SQuAD's, DPR's and JSON-lines files alike, and what is wrong is named by its place."""

import gzip
import json

import pytest

from arriero.common.errors import ArrieroError, FormatError, NotFoundError
from arriero.rag.questions import Question, read_questions, split_questions, write_questions

SQUAD = {
    "data": [
        {
            "title": "Llamas",
            "paragraphs": [
                {
                    "context": "Llamas carry up to 30 kg.",
                    "qas": [
                        {"id": "1", "question": "How much? 你好吗", "answers": [{"text": "30 kg"}, {"text": "30 kg"}]},
                        {"id": "2", "question": "Who rides?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ]
}
DPR = [
    {
        "question": "who carries",
        "answers": ["llamas", "a llama"],
        "positive_ctxs": [{"title": "L", "text": "Llamas carry."}, {"title": "L", "text": "A llama carries."}],
        "hard_negative_ctxs": [{"title": "M", "text": "Mules rest."}],
    }
]


def test_squad_gives_questions_with_their_paragraph_and_unanswerable_ones(tmp_path):
    path = tmp_path / "squad.json"
    path.write_text(json.dumps(SQUAD))
    first, second = read_questions([path])
    assert first == Question(
        id="1", question="How much? 你好吗", answers=("30 kg",), title="Llamas", context="Llamas carry up to 30 kg."
    )
    assert (second.answers, second.context) == ((), None)


def test_dpr_gives_positives_and_hard_negatives(tmp_path):
    path = tmp_path / "dpr.json"
    path.write_text(json.dumps(DPR))
    (found,) = read_questions([path])
    assert found.answers == ("llamas", "a llama")
    assert (found.context, found.positives, found.negatives) == (
        "Llamas carry.",
        ("A llama carries.",),
        ("Mules rest.",),
    )


def test_lines_take_one_answer_or_several_and_compressed_files(tmp_path):
    path = tmp_path / "questions.jsonl.gz"
    rows = [{"question": "a?", "answer": "x"}, {"question": "b?", "answers": ["x", "y"], "title": "t", "id": 7}]
    path.write_bytes(gzip.compress("\n\n".join(map(json.dumps, [*rows, rows[0]])).encode()))
    first, second = read_questions([path])
    assert (first.question, first.answers) == ("a?", ("x",))
    assert (second.id, second.answers, second.title) == ("7", ("x", "y"), "t")


def test_what_is_written_is_read_again(tmp_path):
    (tmp_path / "dpr.json").write_text(json.dumps(DPR))
    found = read_questions([tmp_path / "dpr.json"])
    write_questions(found, tmp_path / "out.jsonl")
    assert read_questions([tmp_path / "out.jsonl"]) == found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no question in"),
        ("{not json", "line 1: not JSON"),
        ('{"question": "a?"}\n{"answers": ["x"]}', "line 2: expected a text 'question', got nothing"),
        ('{"question": "a?", "answers": [3]}', r"expected 'answers' to be a text or a list of texts, got \[3\]"),
        ('["text"]', "question 0: expected a text 'question'"),
        ('{"data": [{"title": "x"}]}', r"data\[0\]: expected a list 'paragraphs'"),
        ("3", "line 1: expected a text 'question'"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(tmp_path, content, message):
    path = tmp_path / "questions.json"
    path.write_text(content)
    with pytest.raises(FormatError, match=message):
        read_questions([path])


def test_files_that_are_none_are_told(tmp_path):
    with pytest.raises(NotFoundError, match="no file of questions"):
        read_questions([tmp_path / "absent"])
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match="is not UTF-8"):
        read_questions([tmp_path / "bytes"])
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"{}" * 1000)[:20])
    with pytest.raises(FormatError, match="cannot be read"):
        read_questions([tmp_path / "cut.gz"])
    with pytest.raises(ArrieroError, match="expected squad, dpr, jsonl"):
        read_questions([], "csv")  # type: ignore[arg-type]


def test_titles_are_held_out_whole_and_by_the_seed():
    questions = [
        Question(id=str(n), question=f"{n}?", answers=("x",), title=f"title {n // 10}" if n < 80 else "")
        for n in range(100)
    ]
    training, held_out = split_questions(questions, 0.3, seed=1)
    assert len(training) + len(held_out) == 100
    assert 25 <= len(held_out) <= 40
    assert not {each.title for each in training if each.title} & {each.title for each in held_out if each.title}
    assert split_questions(questions, 0.3, seed=1) == (training, held_out)
    assert split_questions(questions, 0.3, seed=2) != (training, held_out)
    assert split_questions(questions, 0.0, seed=1) == (questions, [])
    with pytest.raises(ArrieroError, match="eval_share"):
        split_questions(questions, 1.0, seed=1)
