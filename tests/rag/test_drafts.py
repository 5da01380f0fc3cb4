"""What a model writes is a question only in the form that was asked for, and with an answer from the passage."""

import pytest

from arriero.common.errors import ArrieroError
from arriero.rag.drafts import read_draft, write_prompt

PASSAGE = "The bridge over the Sarn was built in 1927 by Ida Moor. 桥长三百米。"


@pytest.mark.parametrize(
    ("written", "question", "answer", "fault"),
    [
        (" 1927\nQuestion: When was the bridge built?", "When was the bridge built?", "1927", None),
        (' "Ida Moor".\n\nquestion: Who built it? ', "Who built it?", "Ida Moor", None),
        (" the IDA MOOR\nQuestion: Who built it?", "Who built it?", "the IDA MOOR", None),
        (" 三百米。\nQuestion: 桥有多长？", "桥有多长？", "三百米", None),
        (" 1927", "1927", "", "form"),
        (" 1927\nQuestion: It was built.", "1927\nQuestion: It was built.", "", "form"),
        (" 1927\nQuestion: When?\nAnswer: 1928", "1927\nQuestion: When?\nAnswer: 1928", "", "form"),
        ("", "", "", "form"),
        (" 1928\nQuestion: When?", "When?", "1928", "absent"),
        (" the\nQuestion: What?", "What?", "the", "absent"),
        (" 192\nQuestion: When?", "When?", "192", "absent"),
        (f"{' so' * 13}\nQuestion: How?", "How?", " ".join(["so"] * 13), "long"),
        (" 1927\nQuestion: What was built in 1927?", "What was built in 1927?", "1927", "given away"),
        (" 1927\nQuestion: Which year does the text name?", "Which year does the text name?", "1927", "pointing"),
    ],
)
def test_what_was_written_is_read_with_its_fault(written, question, answer, fault):
    draft = read_draft(written, PASSAGE)
    assert (draft.question, draft.answer, draft.fault) == (question, answer, fault)


def test_the_prompt_ends_with_the_passage_and_the_beginning_of_an_answer(byte_tokenizer):
    prompt = byte_tokenizer.decode(write_prompt(byte_tokenizer, "A  passage\nof two lines.", room=4000))
    assert prompt.rstrip().endswith("Answer:")
    assert "A passage of two lines." in prompt[prompt.rindex("carbon dioxide") :]


def test_a_long_passage_loses_its_end_and_never_an_example(byte_tokenizer):
    whole = len(write_prompt(byte_tokenizer, "word " * 100, room=9999))
    ids = write_prompt(byte_tokenizer, "word " * 100, room=whole - 50)
    assert whole - 60 < len(ids) <= whole - 50
    assert "lighthouse" in byte_tokenizer.decode(ids)
    with pytest.raises(ArrieroError, match="too few"):
        write_prompt(byte_tokenizer, "word " * 100, room=200)
