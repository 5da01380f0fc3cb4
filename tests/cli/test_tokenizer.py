"""`arriero tokenizer`: training and measuring, told in tables or as JSON; bad input in one line; Ctrl-C."""

import gzip
import json
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from arriero.tokenizer.load import load_tokenizer

ENGLISH = "The llamas carry wool over the mountain, and salt back: 12 bales, 7 sacks.\n"
CHINESE = "山上的羊驼驮着羊毛，山下的人换回盐。\n"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder with two languages, in three kinds of file."""
    zstandard = pytest.importorskip("zstandard")
    rows = "".join(json.dumps({"id": i, "text": ENGLISH * (1 + i % 3)}) + "\n" for i in range(60))
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "a.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    (tmp_path / "en" / "b.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(rows.encode()))
    (tmp_path / "zh.txt").write_text(CHINESE * 40, encoding="utf-8")
    return tmp_path


def test_training_tells_sources_and_fit(run, texts: Path) -> None:
    out = texts / "out"
    command = ["tokenizer", "train", f"en={texts / 'en'}", f"zh={texts / 'zh.txt'}", "--vocab-size", "340"]
    outcome = run(*command, "--out", out, "--reference", "none")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["source", "bytes", "trained", "on", "share", "held", "out"]
    assert [line.split()[0] for line in lines[1:3]] == ["en", "zh"]
    assert lines[-1] == f"{out}: a vocabulary of 340 tokens"
    assert "measured on the training text, for want of more: en, zh" in outcome.err
    assert load_tokenizer(out).vocab_size == 340
    assert sorted(file.name for file in out.iterdir()) == [
        "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "tokenizer_report.json"
    ]  # fmt: skip


def test_json_has_the_same_as_the_report_in_the_folder(run, texts: Path) -> None:
    command = ["tokenizer", "train", f"en={texts / 'en'}", f"zh={texts / 'zh.txt'}", "--vocab-size", "340", "--json"]
    outcome = run(*command, "--share", "en=1", "--share", "zh=3", "--max-bytes", "8000", "--out", texts / "out")
    assert outcome.code == 0, outcome.err
    facts = json.loads(outcome.out)
    report = json.loads((texts / "out" / "tokenizer_report.json").read_text())
    assert facts["sources"] == report["sources"]
    assert facts["measurements"] == report["measurements"]
    assert report["options"]["vocab_size"] == 340
    assert report["sample"]["share"] == {"en": 1.0, "zh": 3.0}
    rows = [row for row in facts["measurements"] if row["tokenizer"] == "trained"]
    assert [row["source"] for row in rows] == ["en", "zh"]
    assert all(row["bytes_per_token"] == row["bytes"] / row["tokens"] for row in rows)
    assert all(row["altered"] == 0 for row in rows)


def test_the_same_input_gives_the_same_bytes(run, texts: Path) -> None:
    for name in ("one", "two"):
        command = ["tokenizer", "train", texts / "en", texts / "zh.txt", "--vocab-size", "340", "--max-bytes", "9000"]
        assert run(*command, "--out", texts / name).code == 0
    for file in (texts / "one").iterdir():
        assert file.read_bytes() == (texts / "two" / file.name).read_bytes()


def test_measuring_compares_with_a_reference(run, texts: Path) -> None:
    for size in ("310", "330"):
        outcome = run("tokenizer", "train", texts / "en", "--vocab-size", size, "--out", texts / size)
        assert outcome.code == 0, outcome.err
    command = ["tokenizer", "measure", f"en={texts / 'en'}", "--tokenizer", texts / "310"]
    table = run(*command, "--reference", texts / "330")
    assert table.code == 0, table.err
    assert "bytes/token" in table.out
    rows = json.loads(run(*command, "--reference", texts / "330", "--json").out)["measurements"]
    assert [row["tokenizer"] for row in rows] == [str(texts / "330"), str(texts / "310")]
    assert rows[0]["tokens"] < rows[1]["tokens"]
    assert rows[0]["bytes"] == rows[1]["bytes"] > 0
    alone = json.loads(run(*command, "--reference", "none", "--json").out)["measurements"]
    assert alone == rows[1:]


def test_what_does_not_come_back_is_told(run, texts: Path) -> None:
    assert run("tokenizer", "train", texts / "en", "--vocab-size", "330", "--out", texts / "t").code == 0
    (texts / "odd.txt").write_text("a\u2581b", encoding="utf-8")
    outcome = run("tokenizer", "measure", texts / "odd.txt", "--tokenizer", texts / "t", "--reference", "none")
    assert "does not give back 1 parts of 'text' as they were" in outcome.err


def test_bad_input_is_one_line_and_leaves_nothing(run, texts: Path) -> None:
    (texts / "rows.jsonl").write_text('{"text": "a"}\n{"txt": "b", "id": 1}\n')
    (texts / "latin.txt").write_bytes(b"first\nna\xefve\n")
    (texts / "empty.txt").write_text("")
    out = texts / "new" / "out"
    english = str(texts / "en")
    for words, message in (
        ([texts / "rows.jsonl"], "rows.jsonl: line 2: expected the field 'text', found txt, id"),
        ([texts / "latin.txt"], "latin.txt: line 2 is no UTF-8 text"),
        ([texts / "empty.txt"], "source 'text' holds no text"),
        ([texts / "absent.txt"], "no such file or folder"),
        ([f"en={texts / 'absent.txt'}"], "no such file or folder"),
        (
            [texts / "zh.txt", "--vocab-size", "262"],
            "too small for this text: 3 control tokens, 256 bytes and an alpha",
        ),
        ([texts / "zh.txt"], "it has only"),
        ([english, "--share", "en=1"], "there is no source 'en' to have a share: there are text"),
        ([english, "--share", "text=x"], "option --share expects"),
        ([english, "--vocab-size", "10"], "at least 260 tokens, got 10"),
        ([english, "--reference", "no-such-model"], "unknown model 'no-such-model'"),
    ):
        reference = [] if "--reference" in words else ["--reference", "none"]
        outcome = run("tokenizer", "train", *words, "--out", out, *reference)
        assert outcome.code == 2, words
        assert message in outcome.err, outcome.err
        assert "Traceback" not in outcome.err
    assert not out.parent.exists()


def test_an_output_folder_with_something_in_it_is_left_alone(run, texts: Path) -> None:
    outcome = run("tokenizer", "train", texts / "zh.txt", "--vocab-size", "300", "--out", texts)
    assert outcome.code == 2
    assert "exists already: choose another folder" in outcome.err
    assert not (texts / "tokenizer.json").exists()


def test_ctrl_c_ends_the_training_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    letters = bytes(32 if byte < 24 else 97 + byte % 26 for byte in range(256))
    (tmp_path / "big.txt").write_bytes(random.Random(0).randbytes(15_000_000).translate(letters))
    command = ["tokenizer", "train", str(tmp_path / "big.txt"), "--out", str(tmp_path / "out"), "--reference", "none"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with subprocess.Popen([sys.executable, "-m", "arriero", *command], stderr=subprocess.PIPE, text=True) as program:
        assert program.stderr is not None
        while "Reading" not in program.stderr.readline():  # it is told when reading is done
            assert program.poll() is None
        time.sleep(0.5)
        program.send_signal(signal.SIGINT)
        rest = program.stderr.read()
        assert program.wait() == 130
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 15  # CPU seconds; all of it takes 30
    assert "Traceback" not in rest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.txt"]


@pytest.mark.weights
def test_real_text_against_a_real_tokenizer(run, smollm2_gguf: Path, data_folder: Path, tmp_path: Path) -> None:
    articles = json.loads((data_folder / "xquad.zh.json").read_text("utf-8"))["data"]
    with (tmp_path / "zh.jsonl").open("w", encoding="utf-8") as file:
        for paragraph in (paragraph for article in articles for paragraph in article["paragraphs"]):
            print(json.dumps({"text": paragraph["context"]}), file=file)
    with (tmp_path / "docs.jsonl").open("w", encoding="utf-8") as file:
        for text in topics.values():
            print(json.dumps({"text": text}), file=file)
    plays = data_folder / "tinyshakespeare.txt"
    command = ["tokenizer", "train", f"plays={plays}", f"zh={tmp_path / 'zh.jsonl'}", f"docs={tmp_path / 'docs.jsonl'}"]
    outcome = run(*command, "--vocab-size", "12000", "--out", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.err
    found = {(row["source"], row["tokenizer"]): row for row in json.loads(outcome.out)["measurements"]}
    assert {tokenizer for _, tokenizer in found} == {"trained", "smollm2-135m-instruct"}
    assert found["zh", "trained"]["fertility"] < found["zh", "smollm2-135m-instruct"]["fertility"] / 1.5
    assert found["plays", "trained"]["bytes_per_token"] > 3.2
    assert all(row["altered"] == 0 for row in found.values())
    text = plays.read_text()
    tokenizer = load_tokenizer(tmp_path / "out")
    assert tokenizer.decode(tokenizer.encode(text)) == text
