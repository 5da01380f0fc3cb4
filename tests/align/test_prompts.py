"""Prompts out of every kind of file; what is no prompt; and which are held out."""

import gzip
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.align.preferences import Preferences, Response
from arriero.align.prompts import Prompt, read_prompts, split_prompts
from arriero.common.errors import ArrieroError, FormatError, NotFoundError

ASKED = ({"role": "user", "content": "¿Qué es una llama? 🦙"},)
ANSWERED = [*ASKED, {"role": "assistant", "content": "Un camélido."}]


def write(path, *rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ASKED[0]["content"]},
        {"prompt": list(ASKED)},
        {"messages": ANSWERED},
        {"messages": list(ASKED)},
        {"instruction": ASKED[0]["content"]},
        {"instruction": ASKED[0]["content"], "input": "", "output": "Un camélido."},
        {"conversations": [{"from": "human", "value": ASKED[0]["content"]}, {"from": "gpt", "value": "x"}]},
        {"prompt": ASKED[0]["content"], "chosen": "a", "rejected": "b"},
        {"prompt": f"\n\nHuman: {ASKED[0]['content']}\n\nAssistant:", "chosen": "a", "rejected": "b"},
        {"chosen": f"\n\nHuman: {ASKED[0]['content']}\n\nAssistant: a", "rejected": "b"},
    ],
    ids=lambda row: "+".join(row),
)
def test_a_row_of_any_format_is_the_chat_up_to_the_answer(tmp_path, row):
    assert read_prompts([write(tmp_path / "rows.jsonl", row)])[0].messages == ASKED


def test_a_text_has_a_prompt_a_line_compressed_or_not(tmp_path):
    (tmp_path / "plain.txt").write_text("\ufeffone\n\n  two  \n", encoding="utf-8")
    (tmp_path / "packed.txt.gz").write_bytes(gzip.compress(b"three\n"))
    found = read_prompts([tmp_path / "plain.txt", tmp_path / "packed.txt.gz"])
    assert [prompt.messages[0]["content"] for prompt in found] == ["one", "two", "three"]
    assert found[1].where.endswith("plain.txt, line 3")


def test_a_file_of_preferences_gives_each_pair_s_prompt_once(tmp_path):
    file = tmp_path / "preferences.sqlite"
    with Preferences(file, create=True) as preferences:
        for text in ("b", "c"):
            preferences.add_pair(ASKED, Response(text="a"), Response(text=text), kind="helpfulness", source="x")
        unsafe = [{"role": "user", "content": "how to break in?"}]
        preferences.add_pair(unsafe, Response(text="a"), Response(text="b"), kind="safety", source="x")
    assert [(prompt.messages[0]["content"], prompt.safety) for prompt in read_prompts([file])] == [
        (ASKED[0]["content"], False),
        ("how to break in?", True),
    ]


def test_one_mention_as_a_safety_prompt_makes_it_one(tmp_path):
    file = write(
        tmp_path / "rows.jsonl", {"prompt": "a"}, {"prompt": "a", "safety": True}, {"prompt": "b", "kind": "safety"}
    )
    assert [prompt.safety for prompt in read_prompts([file])] == [True, True]
    labelled = write(tmp_path / "label.jsonl", {"prompt": "a", "safety": "both safe"})
    assert not read_prompts([labelled])[0].safety, "a label of a comparison is no declaration"
    assert read_prompts([labelled], safety=True)[0].safety


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [{"role": "system", "content": "Be brief."}]}, "ends with a message of the user"),
        ({"messages": [{"role": "assistant", "content": "Hello."}]}, "ends with a message of the user"),
        ({"prompt": "  \n"}, "ends with a message of the user"),
        ({"prompt": 3}, "int instead of text"),
        ({"prompt": "\ud800"}, "surrogate"),
        ({"question": "a"}, "line 2"),
        (["a"], "list"),
    ],
)
def test_what_is_no_prompt_is_told_with_its_line(tmp_path, row, message):
    with pytest.raises(FormatError, match=message) as error:
        read_prompts([write(tmp_path / "rows.jsonl", {"prompt": "fine"}, row)])
    assert "line 2" in str(error.value)


def test_absent_empty_and_broken_files_are_one_clear_line(tmp_path):
    with pytest.raises(NotFoundError, match="no such file of prompts"):
        read_prompts([tmp_path / "absent.jsonl"])
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ArrieroError, match="no prompts"):
        read_prompts([tmp_path / "empty.txt"])
    (tmp_path / "latin.txt").write_bytes("qué".encode("latin-1"))
    with pytest.raises(FormatError, match="UTF-8"):
        read_prompts([tmp_path / "latin.txt"])
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"a prompt of some length")[:-6])
    with pytest.raises(FormatError, match="damaged"):
        read_prompts([tmp_path / "cut.txt.gz"])


def ask(text):
    return Prompt(({"role": "user", "content": text},))


@given(st.lists(st.text(min_size=1), min_size=2, max_size=30, unique=True), st.floats(0.01, 0.99), st.integers(0, 9))
def test_a_split_is_a_partition_that_order_and_newcomers_do_not_move(texts, share, seed):
    prompts = list(map(ask, texts))
    try:
        training, out = split_prompts(prompts, share, seed)
    except ArrieroError:
        return  # they differ by their marks alone
    assert training
    assert out
    assert Counter(map(id, prompts)) == Counter(map(id, training + out))
    backwards = split_prompts(prompts[::-1], share, seed)
    assert {prompt.key for prompt in backwards[1]} == {prompt.key for prompt in out}


def test_prompts_that_differ_by_case_and_marks_are_on_one_side():
    alike = [ask("Name a llama"), ask("name a LLAMA?"), ask(" Name, a  llama! ")]
    for seed in range(20):
        _, out = split_prompts([*alike, *(ask(f"question {n}") for n in range(10))], 0.4, seed)
        assert sum(prompt in out for prompt in alike) in (0, 3)
    with pytest.raises(ArrieroError, match="two different prompts"):
        split_prompts(alike, 0.5)


def test_the_share_is_met_in_the_long_run():
    out = split_prompts([ask(f"question {n}") for n in range(1000)], 0.2)[1]
    assert 150 < len(out) < 250
    assert not split_prompts([ask("one")], 0.0)[1]
