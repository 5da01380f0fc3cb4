"""`arriero tokenize`: from files to shards, told in a table or as JSON, and bad input in one line."""

import json
from pathlib import Path

import numpy as np

from arriero.tokenizer.load import load_tokenizer
from arriero.train.shards import ShardReader


def test_shards_come_with_their_counts(run, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("wool\n\nsalt and tin\n")
    command = ("tokenize", tmp_path / "a.txt", "--split", "paragraphs", "--tokenizer", tiny_model)
    outcome = run(*command, "--out", tmp_path / "out", "--workers", "1")
    assert outcome.code == 0, outcome.err
    header, row, last = outcome.out.splitlines()
    assert header.split() == ["part", "documents", "empty", "tokens", "bytes", "bytes/token", "shards"]
    assert row.split() == ["training", "2", "0", "18", "16", "0.889", "1"]
    assert "source 'out'" in last
    assert len(ShardReader(tmp_path / "out")) == 2


def test_json_is_for_scripts(run, tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"body": f"text {i}"} for i in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["tokenize", tmp_path / "a.jsonl", "--tokenizer", tiny_model, "--out", tmp_path / "out", "--json"]
    command += ["--field", "body", "--validation-share", "0.3", "--no-eos", "--bos", "--source", "texts"]
    outcome = run(*command, "--workers", "1")
    assert outcome.code == 0, outcome.err
    facts = json.loads(outcome.out)
    assert (facts["source"], facts["kept_shards"]) == ("texts", 0)
    assert facts["training"]["documents"] + facts["validation"]["documents"] == 40
    assert facts["training"]["bytes_per_token"] == facts["training"]["bytes"] / facts["training"]["tokens"]
    reader = ShardReader(tmp_path / "out" / "validation")
    assert (reader.manifest.bos_id, reader.manifest.eos_id) == (258, None)
    again = run(*command, "--workers", "1", "--verify")
    assert json.loads(again.out)["kept_shards"] == 2


def test_bad_input_is_one_line_and_code_2(run, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\n')
    for words, message in (
        (["a.jsonl"], "a.jsonl: line 2: expected the field 'text', found txt"),
        (["b.jsonl"], "no such file or folder"),
        (["a.jsonl", "--validation-share", "1"], "expected a validation share"),
        (["a.jsonl", "--workers", "0"], "expected at least 1 worker"),
        (["a.jsonl", "--separator", " "], "--separator expects a line that is not blank"),
    ):
        command = ["tokenize", tmp_path / words[0], *words[1:], "--tokenizer", tiny_model, "--out", tmp_path / "out"]
        outcome = run(*(command if "--workers" in words else [*command, "--workers", "1"]))
        assert outcome.code == 2
        assert outcome.err.startswith("arriero: error: ") or "\narriero: error: " in outcome.err
        assert message in outcome.err
        assert "Traceback" not in outcome.err
    assert not (tmp_path / "out" / "shards.json").exists()


def test_real_text_through_a_real_tokenizer(run, smollm2_gguf: Path, data_folder: Path, tmp_path: Path) -> None:
    file, out = data_folder / "tinyshakespeare.txt", tmp_path / "out"
    outcome = run("tokenize", file, "--tokenizer", smollm2_gguf, "--out", out, "--workers", "2", "--json")
    assert outcome.code == 0, outcome.err
    reader, tokenizer = ShardReader(out), load_tokenizer(out)
    reader.verify()
    ids = reader.document(0)
    assert ids[-1] == tokenizer.eos_id
    assert tokenizer.decode(ids[:-1].tolist()).encode() == file.read_bytes()
    assert json.loads(outcome.out)["training"]["tokens"] == len(ids)
    assert np.isin(ids[:-1], list(tokenizer.special_ids)).sum() == 0
