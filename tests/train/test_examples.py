"""Every format and every kind of file give the same chats; a bad row is named by file and line, keys and schema."""

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arriero.common.errors import ArrieroError, FormatError, NotFoundError
from arriero.train import examples as module
from arriero.train.examples import SCHEMA, Example, read_examples, read_row, split_dialogue

USER, ASSISTANT = {"role": "user", "content": "What carries wool?"}, {"role": "assistant", "content": "A llama."}
CHAT = (USER, ASSISTANT)
DIALOGUE = "\n\nHuman: What carries wool?\n\nAssistant: A llama."
ROWS: dict[str, list[dict[str, Any]]] = {
    "messages": [
        {"messages": list(CHAT)},
        {"messages": [USER, ASSISTANT | {"tool_calls": None, "name": "x"}], "text": "another", "score": 0.5},
        {"messages": [USER | {"content": [{"type": "text", "text": word} for word in ("What carries ", "wool?")]},
                      ASSISTANT]},
    ],
    "completion": [
        {"prompt": "What carries wool?", "completion": "A llama."},
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"prompt": [USER], "completion": "A llama."},
    ],
    "preference": [
        {"prompt": "What carries wool?", "chosen": "A llama.", "rejected": "A goat."},
        {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [ASSISTANT]},
        {"chosen": [USER, ASSISTANT], "rejected": [USER, ASSISTANT]},
        {"prompt": "What carries wool?", "chosen": [USER, ASSISTANT], "rejected": []},
    ],
    "dialogue": [
        {"chosen": DIALOGUE, "rejected": "\n\nHuman: What carries wool?\n\nAssistant: A goat."},
        {"prompt": "\n\nHuman: What carries wool?\n\nAssistant:", "chosen": " A llama.", "rejected": " A goat."},
        {"prompt": "\n\nHuman: What carries wool?", "chosen": "\n\nAssistant: A llama.", "rejected": "x"},
        {"prompt": "\n\nHuman: What carries wool?\n\nAssistant:", "chosen": DIALOGUE, "rejected": DIALOGUE},
    ],
    "alpaca": [
        {"instruction": "What carries wool?", "output": "A llama."},
        {"instruction": "What carries wool?", "input": "", "output": "A llama.", "system": ""},
        {"instruction": "What carries wool?", "input": None, "output": "A llama.", "system": None},
        {"instruction": "What carries wool?", "input": " \n", "output": "A llama."},
    ],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": "What carries wool?"}, {"from": "gpt", "value": "A llama."}]},
        {"conversations": [{"from": "user", "value": "What carries wool?"}, {"from": "bard", "value": "A llama."}]},
        {"conversations": [USER, ASSISTANT]},
    ],
}  # fmt: skip
EACH_ROW = [pytest.param(format, row, id=f"{format}-{i}") for format in ROWS for i, row in enumerate(ROWS[format])]


def write_lines(file: Path, *rows: Any) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.mark.parametrize(("format", "row"), EACH_ROW)
def test_every_format_is_told_by_its_keys_and_makes_the_same_chat(format: str, row: Any, tmp_path: Path) -> None:
    examples, found = read_examples([write_lines(tmp_path / "a.jsonl", row)])
    assert found == format
    assert examples == [Example(CHAT, "", f"{tmp_path / 'a.jsonl'}, line 1")]


def test_the_first_row_says_the_format_and_others_are_read_by_it(tmp_path: Path) -> None:
    rows = [{"prompt": "What carries wool?", "completion": "A llama.", "text": "x"}, {"messages": list(CHAT)}]
    with pytest.raises(FormatError, match=r"a\.jsonl, line 2: found the keys 'messages', without 'prompt'; expected "):
        read_examples([write_lines(tmp_path / "a.jsonl", *rows)])
    rows[1] = {"text": None, "messages": None, "prompt": "What carries wool?", "completion": "A llama."}
    examples, found = read_examples([write_lines(tmp_path / "a.jsonl", *rows[::-1])])
    assert (found, [example.messages for example in examples]) == ("completion", [CHAT, CHAT])


def test_a_format_that_is_said_is_not_guessed(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", {"messages": list(CHAT), "text": "wool"})
    examples, found = read_examples([file], "text")
    assert (found, examples[0].messages, examples[0].text) == ("text", (), "wool")
    with pytest.raises(ArrieroError, match=r"format: expected auto, messages, .*got 'csv'"):
        read_examples([file], "csv")


def test_system_messages_and_further_turns_are_kept() -> None:
    head = {"role": "system", "content": "Be brief."}
    turns = [{"from": "system", "value": "Be brief."}, {"from": "gpt", "value": "Hi"}, {"from": "human", "value": "?"}]
    turns += [{"from": "bing", "value": "A llama."}, {"from": "observation", "value": "x"}]
    roles = [message["role"] for message in read_row({"conversations": turns}, "sharegpt", "here").messages]
    assert roles == ["system", "assistant", "user", "assistant", "tool"]
    rows = {
        "sharegpt": ROWS["sharegpt"][0] | {"system": "Be brief."},
        "alpaca": ROWS["alpaca"][0] | {"system": "Be brief."},
        "completion": {"prompt": [head, USER], "completion": "A llama."},
    }
    for format, row in rows.items():
        assert read_row(row, format, "here").messages == (head, *CHAT)


def test_alpaca_s_input_stands_below_its_instruction() -> None:
    row = {"instruction": "Translate.", "input": "llama", "output": "Lama"}
    assert read_row(row, "alpaca", "here").messages[0]["content"] == "Translate.\n\nllama"


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d", ["u a", "a b", "u c", "a d"]),
        ("\n\nHuman:  a \n\nAssistant:  b  ", ["u a", "a b"]),
        ("\n\nHuman: a\n\n\nAssistant: b\n\n", ["u a", "a b"]),
        ("Human: a\n\nAssistant: b", ["u a", "a b"]),
        (" \n\nHuman: a\n\nAssistant:\nb\n\nc", ["u a", "a b\n\nc"]),
        ("\n\nHuman: a\n\nAssistant: \n\nHuman: c\n\nAssistant: d", ["u a", "a ", "u c", "a d"]),
        ("\n\nHuman: a\n\nAssistant: A \n\nHuman:kind\nHuman: b", ["u a", "a A \n\nHuman:kind\nHuman: b"]),
        ("\n\nHuman: a\n\nHuman: b\n\nAssistant: c", ["u a", "u b", "a c"]),
    ],
)  # fmt: skip
def test_dialogues_are_split_at_their_turns_whatever_the_spaces(text: str, turns: list[str]) -> None:
    assert [f"{message['role'][0]} {message['content']}" for message in split_dialogue(text)] == turns
    assert [
        f"{m['role'][0]} {m['content']}" for m in read_row({"chosen": text, "rejected": ""}, "dialogue", "").messages
    ] == turns


def test_odd_spaces_before_a_dialogue_do_not_hide_it(tmp_path: Path) -> None:
    for text in (DIALOGUE.strip(), " " + DIALOGUE, "\n" + DIALOGUE):
        examples, found = read_examples([write_lines(tmp_path / "a.jsonl", {"chosen": text, "rejected": text})])
        assert (found, examples[0].messages) == ("dialogue", CHAT)


BAD_ROWS = {
    "list": ([1], "messages", "found a list"),
    "null": (None, "messages", "found a NoneType"),
    "no key": ({"prompt": "a", "answer": "b"}, "completion", "found the keys 'prompt', 'answer', without 'completion'"),
    "null value": ({"prompt": "a", "completion": None}, "completion", "found null as 'completion'"),
    "nothing": ({}, "completion", "found the keys none, without 'prompt'"),
    "NaN": ({"prompt": "a", "completion": float("nan")}, "completion", "found 'completion' as float instead of text"),
    "number": ({"instruction": "a", "output": 3}, "alpaca", "found 'output' as int instead of text"),
    "nested": ({"instruction": "a", "input": {"b": []}, "output": "c"}, "alpaca", "found 'input' as dict"),
    "empty nested": ({"instruction": "a", "input": [{}], "output": "c"}, "alpaca", "found 'input' as list"),
    "text of lists": ({"messages": "[]"}, "messages", "found 'messages' that is no list, or empty"),
    "no messages": ({"messages": []}, "messages", "found 'messages' that is no list, or empty"),
    "message of a list": ({"messages": [[USER]]}, "messages", "found a message that is a list"),
    "no role": ({"messages": [{"content": "a"}]}, "messages", "found the role None in a message"),
    "strange role": ({"messages": [{"role": "bot", "content": "a"}]}, "messages", "found the role 'bot' in a message"),
    "role of lists": ({"messages": [{"role": ["user"] * 999, "content": "a"}]}, "messages", r"the role \['user', .*\]"),
    "no content": ({"messages": [{"role": "user"}]}, "messages", "found 'content' as NoneType instead of text"),
    "picture": ({"messages": [USER | {"content": [{"type": "image_url"}]}]}, "messages", "found 'content' as list"),
    "part of NaN": ({"messages": [USER | {"content": [{"type": "text", "text": float("nan")}]}]}, "messages",
                    "found 'content' as float instead of text"),
    "part without text": ({"messages": [USER | {"content": [{"type": "text"}]}]}, "messages", "'content' as NoneType"),
    "tool calls": ({"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}]}, "messages",
                   "found a message with tool_calls, which are not supported"),
    "nobody answers": ({"messages": [USER, USER]}, "messages", "no message of the assistant, so nothing to learn"),
    "lone surrogate": ({"prompt": "a", "completion": "ab\ud800"}, "completion",
                       "found a lone surrogate in 'completion', at character 2"),
    "from and role": ({"conversations": [{"from": "human", "value": "a"}, ASSISTANT]}, "sharegpt", "the from None"),
    "strange from": ({"conversations": [{"from": "narrator", "value": "a"}]}, "sharegpt", "found the from 'narrator'"),
    "no dialogue": ({"chosen": "Hello", "rejected": "x"}, "dialogue", "found a text that does not begin with"),
    "half a dialogue": ({"chosen": "x\n\nHuman: a\n\nAssistant: b", "rejected": "x"}, "dialogue", "does not begin"),
    "answer to nothing": ({"chosen": "A llama.", "rejected": "x"}, "preference", "'chosen' without a 'prompt'"),
    "empty content": ({"messages": [USER | {"content": []}]}, "messages", "found 'content' as list instead of text"),
}  # fmt: skip


@pytest.mark.parametrize(("row", "format", "message"), BAD_ROWS.values(), ids=list(BAD_ROWS))
def test_a_bad_row_is_named_with_what_it_holds_and_what_was_expected(row: Any, format: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message) as raised:
        read_row(row, format, "a.jsonl, line 7")
    assert str(raised.value).startswith("a.jsonl, line 7: found ")
    assert str(raised.value).endswith(f"; expected {SCHEMA[format]}")
    assert len(str(raised.value)) < 500


def test_unknown_keys_are_told_and_every_schema_shown(tmp_path: Path) -> None:
    row = {"question": "a", "answer": "b", "\x1b[2J": 1, "k" * 10_000: 2} | {str(i): i for i in range(10_000)}
    with pytest.raises(FormatError, match=r"line 1: found the keys 'question', 'answer', '\\x1b\[2J', 'kkk") as raised:
        read_examples([write_lines(tmp_path / "a.jsonl", row)])
    assert all(schema in str(raised.value) for schema in SCHEMA.values())
    assert len(str(raised.value)) < 1500
    for row in (3, [], None, "text"):
        with pytest.raises(FormatError, match=f"line 1: found a {type(row).__name__}; expected the keys of one of"):
            read_examples([write_lines(tmp_path / "a.jsonl", row)])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.sampled_from(["user", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "from"]), inner),
    max_leaves=8,
)
all_keys = ("messages", "conversations", "prompt", "completion", "chosen", "rejected", "instruction", "input", "output")


@settings(max_examples=400, deadline=None)
@given(
    row=st.dictionaries(st.sampled_from([*all_keys, "system", "text"]), json_values), format=st.sampled_from(list(ROWS))
)
def test_whatever_a_row_holds_it_is_an_example_or_a_message(row: Any, format: Any) -> None:
    try:
        example = read_row(row, format, "here")
    except FormatError as error:
        assert str(error).startswith("here: found ")  # noqa: PT017
    else:
        assert any(message["role"] == "assistant" for message in example.messages)


LINES = "".join(json.dumps({"prompt": f"{i} é 中", "completion": str(i)}, ensure_ascii=False) + "\n" for i in range(50))
LIST = f"[{','.join(LINES.splitlines())}]"


def zst(content: bytes) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor().compress(content)


def parquet(content: bytes) -> bytes:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    stream = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([json.loads(line) for line in content.splitlines()]), stream, row_group_size=7)
    return stream.getvalue().to_pybytes()


FILES = {
    "a.jsonl": LINES.encode(),
    "a.ndjson": LINES.encode(),
    "a.JSONL": LINES.encode(),
    "a.json": LIST.encode(),
    "lines.json": LINES.encode(),
    "indented.json": json.dumps(json.loads(LIST), indent=2).encode(),
    "bom.jsonl": b"\xef\xbb\xbf" + LINES.encode(),
    "bom-blank.jsonl": b"\xef\xbb\xbf\n" + LINES.encode(),
    "bom.json": b"\xef\xbb\xbf " + LIST.encode(),
    "crlf.jsonl": LINES.replace("\n", "\r\n").encode(),
    "blank.jsonl": b"\n \n" + LINES.replace("\n", "\n\n\t\n").encode(),
    "no-end.jsonl": LINES.rstrip().encode(),
    "a.jsonl.gz": gzip.compress(LINES.encode()),
    "two-members.jsonl.gz": gzip.compress(LINES[:400].encode()) + gzip.compress(LINES[400:].encode()),
    "a.json.gz": gzip.compress(LIST.encode()),
    "a.jsonl.bz2": bz2.compress(LINES.encode()),
    "a.jsonl.xz": lzma.compress(LINES.encode()),
    "a.json.zst": lambda: zst(LIST.encode()),
    "a.jsonl.zst": lambda: zst(LINES.encode()),
    "a.parquet": lambda: parquet(LINES.encode()),
}


def content_of(name: str) -> bytes:
    content = FILES[name]
    return content() if callable(content) else content


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_holds_the_same_examples(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content_of(name))
    examples, format = read_examples([tmp_path / name])
    assert format == "completion"
    assert [example.messages[0]["content"] for example in examples] == [f"{i} é 中" for i in range(50)]
    assert all(example.where.startswith(f"{tmp_path / name}, ") for example in examples)
    place = {"json": "entry", "parquet": "row"}.get(name.partition(".")[2].partition(".")[0], "line")
    if name not in ("blank.jsonl", "bom-blank.jsonl", "lines.json"):
        assert examples[-1].where == f"{tmp_path / name}, {place} 50"


def test_chats_in_parquet_are_as_those_in_json(tmp_path: Path) -> None:
    rows = [ROWS["messages"][0], {"messages": [*CHAT, USER, ASSISTANT | {"name": None}]}]
    (tmp_path / "a.parquet").write_bytes(parquet("\n".join(map(json.dumps, rows)).encode()))
    assert [example.messages for example in read_examples([tmp_path / "a.parquet"])[0]] == [CHAT, CHAT * 2]


def test_a_folder_is_its_files_by_name(tmp_path: Path) -> None:
    for name, word in (("b.jsonl", "2"), ("a.jsonl.gz", "1"), ("c.json", "3")):
        line = json.dumps({"text": word}).encode()
        (tmp_path / name).write_bytes(gzip.compress(line) if name.endswith(".gz") else line)
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / "._a.jsonl").write_bytes(b"\0\5\x16\7")
    (tmp_path / "inside.jsonl").mkdir()
    texts = [example.text for example in read_examples([tmp_path, tmp_path / "c.json"])[0]]
    assert texts == ["1", "2", "3", "3"]


def test_paths_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no such file or folder: .*nowhere"):
        read_examples([tmp_path / "nowhere.jsonl"])
    with pytest.raises(NotFoundError, match=r"no \.jsonl, .*file in it"):
        read_examples([tmp_path])
    (tmp_path / "a.csv").write_text("prompt,completion\n")
    with pytest.raises(FormatError, match=r"a\.csv: expected a \.jsonl, .*file, compressed or not"):
        read_examples([tmp_path / "a.csv"])
    with pytest.raises(ArrieroError, match="no data given"):
        read_examples([])


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.xz", "a.jsonl.zst", "a.parquet"])
@pytest.mark.parametrize("damage", ["cut", "zeros", "other", "tail"])
def test_damaged_files_are_named(name: str, damage: str, tmp_path: Path) -> None:
    whole = content_of(name)
    middle = len(whole) // 2
    pieces = {"cut": whole[:middle], "zeros": bytes(len(whole)), "other": LINES.encode(), "tail": whole[:-3]}
    (tmp_path / name).write_bytes(pieces[damage])
    with pytest.raises(FormatError, match=f"{name}: (damaged or cut short|no whole Parquet file)"):
        read_examples([tmp_path / name])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "a.jsonl: no row in it: expected lines such as"),
        ("a.jsonl", b"\n \r\n\n", "a.jsonl: no row in it"),
        ("a.json", b"", "a.json: no row in it"),
        ("a.json", b"[]", "a.json: no row in it"),
        ("a.jsonl.gz", b"", "a.jsonl.gz: no row in it"),
        ("a.parquet", b"", "a.parquet: no whole Parquet file"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b', "line 2: no valid JSON"),
        ("a.jsonl", b'{"text": "a"}\n\n\xff\xfe{"text"}', "line 3: no valid JSON"),
        ("a.jsonl", b'{"text": "a"} {"text": "b"}', "line 1: no valid JSON .*Extra data"),
        ("a.jsonl", b"[" * 100_000, "line 1: no valid JSON"),
        ("a.jsonl", b'{"text": ' + b"9" * 5000 + b"}", "line 1: no valid JSON"),
        ("a.jsonl", b'{"text": "\xed\xa0\x80"}', "line 1: found a lone surrogate in 'text', at character 0"),
        ("a.jsonl", b'{"text": "a\\ud83d"}', "line 1: found a lone surrogate in 'text', at character 1"),
        ("a.json", b'[{"text": "a"}, {"txt": "b"}]', "entry 2: found the keys 'txt', without 'text'"),
        ("a.json", b'[{"text": "a"},', r"a\.json: no valid JSON"),
        ("a.json", b'{\n"text": "a"\n}', "line 1: no valid JSON .*expected one JSON object a line, or a list"),
    ],
)
def test_what_is_empty_or_no_json_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=message) as raised:
        read_examples([tmp_path / name])
    assert str(tmp_path / name) in str(raised.value)
    assert len(str(raised.value)) < 500


def test_a_line_of_64_mib_is_read_and_a_longer_one_refused(tmp_path: Path) -> None:
    file, frame = tmp_path / "a.jsonl", '{"text": ""}'
    file.write_text(frame[:-2] + "a" * ((1 << 26) - len(frame)) + frame[-2:])
    assert len(read_examples([file])[0][0].text) == (1 << 26) - len(frame)
    with file.open("a") as end:
        end.write(" ")
    with pytest.raises(FormatError, match="line 1: longer than 64 MiB"):
        read_examples([file])


def test_an_endless_line_in_a_small_file_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONGEST_LINE", 1 << 16)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"a" * (1 << 22)))
    with pytest.raises(FormatError, match="line 1: longer than"):
        read_examples([tmp_path / "a.jsonl.gz"])


def test_hh_rlhf_s_own_dialogues_become_chats(data_folder: Path) -> None:
    examples, format = read_examples([data_folder / "hh_harmless_dev.jsonl.gz"])
    assert format == "dialogue"
    assert len(examples) > 400
    for example in examples:
        assert example.messages[0]["role"] == "user"
        assert not any("\n\nHuman: " in message["content"] for message in example.messages)
