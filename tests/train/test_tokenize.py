"""Shards follow from documents and options: not from the number of processes, nor from how often one was killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from arriero.common.errors import ArrieroError, FormatError
from arriero.tokenizer.load import load_tokenizer
from arriero.train import encode, text_files, tokenize
from arriero.train.shards import ShardReader
from arriero.train.tokenize import VALIDATION, ShardOptions, tokenize_files
from tests.train.shard_folders import BOS, EOS, byte_tokenizer

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).with_name("tokenize_child.py")
TEXTS = [f"document {i}: " + "wool and salt, " * (i % 7) for i in range(60)]


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(3):
        rows = [json.dumps({"text": text}) for text in TEXTS[20 * number : 20 * number + 20]]
        (folder / f"{number}.jsonl").write_text("\n".join([*rows, json.dumps({"text": ""}), ""]))
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def texts_of(folder: Path) -> list[str]:
    reader, tokenizer = ShardReader(folder), load_tokenizer(folder)
    reader.verify()
    return [tokenizer.decode(reader.document(i).tolist()) for i in range(len(reader))]


def run_child(docs: Path, folder: Path, moment: str, workers: int = 1) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CHILD), str(docs), str(folder), str(workers), moment]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def options(**changed: object) -> ShardOptions:
    return ShardOptions(**({"source": "s", "shard_tokens": 400} | changed))


def test_documents_come_back_with_their_edges_and_their_counts(tmp_path: Path, docs: Path) -> None:
    made = tokenize_files([docs], byte_tokenizer(add_bos=True), tmp_path / "out", options())
    reader = ShardReader(tmp_path / "out")
    assert [reader.document(i).tolist() for i in range(len(reader))] == [
        [BOS, *byte_tokenizer().encode(text), EOS] for text in TEXTS
    ]
    assert made.training == reader.manifest
    assert (reader.manifest.bos_id, reader.manifest.eos_id, reader.manifest.dtype) == (BOS, EOS, "uint16")
    assert reader.manifest.bytes == sum(map(len, TEXTS))
    assert reader.tokens == reader.manifest.bytes + 2 * len(TEXTS)
    assert sum(shard.skipped for shard in reader.manifest.shards) == 3
    assert all(shard.tokens <= 400 for shard in reader.manifest.shards)
    assert made.validation is None
    stored = json.loads((tmp_path / "out" / "shards.json").read_text())
    assert (stored["documents"], stored["tokens"]) == (len(reader), reader.tokens)


def test_edges_are_as_asked_for(tmp_path: Path, docs: Path) -> None:
    tokenize_files([docs], byte_tokenizer(add_bos=True), tmp_path / "out", options(bos=False, eos=False))
    reader = ShardReader(tmp_path / "out")
    assert (reader.manifest.bos_id, reader.manifest.eos_id) == (None, None)
    assert reader.tokens == reader.manifest.bytes


def test_a_control_tokens_name_in_a_text_stays_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("<s>hostile</s>")
    tokenize_files([tmp_path / "a.txt"], byte_tokenizer(), tmp_path / "out", options())
    ids = ShardReader(tmp_path / "out").document(0).tolist()
    assert len(ids) == len("<s>hostile</s>") + 1
    assert [id for id in ids if id in (BOS, EOS)] == [EOS]


def test_more_than_65536_tokens_take_four_bytes_each(tmp_path: Path, docs: Path) -> None:
    tokenize_files([docs], byte_tokenizer(words=70_000), tmp_path / "out", options())
    reader = ShardReader(tmp_path / "out")
    assert reader.manifest.dtype == "uint32"
    assert reader.document(0).dtype == np.dtype("<u4")
    assert texts_of(tmp_path / "out") == TEXTS


def test_the_shards_are_the_same_for_any_number_of_processes(
    tmp_path: Path, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = options(validation_share=0.3)
    tokenize_files([docs], byte_tokenizer(), tmp_path / "one", share)
    monkeypatch.setattr(text_files, "BLOCK_DOCUMENTS", 3)
    tokenize_files([docs], byte_tokenizer(), tmp_path / "two", share, workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


@pytest.mark.parametrize("moments", [["1", "2", "3"], ["7", "4"], ["12", "6", "9"], ["26"], ["40", "2"]])
def test_killed_at_any_moment_and_begun_again_it_makes_the_same_bytes(
    tmp_path: Path, docs: Path, moments: list[str]
) -> None:
    folder = tmp_path / "out"
    for moment in moments:
        killed = run_child(docs, folder, moment)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not (folder / "shards.json").exists()
        with pytest.raises(ArrieroError, match="holds no token shards"):
            ShardReader(folder)
    share = options(validation_share=0.2)
    tokenize_files([docs], byte_tokenizer(), folder, share, verify=True)
    tokenize_files([docs], byte_tokenizer(), tmp_path / "whole", share)
    assert content(folder) == content(tmp_path / "whole")


def test_a_killed_runs_processes_end_with_it(tmp_path: Path, docs: Path) -> None:
    folder = tmp_path / "out"
    killed = run_child(docs, folder, "9", workers=2)
    assert killed.returncode == -signal.SIGKILL, killed.stderr  # and both pipes closed, or it would have timed out
    tokenize_files([docs], byte_tokenizer(), folder, options(validation_share=0.2))
    assert sorted(texts_of(folder) + texts_of(folder / VALIDATION)) == sorted(TEXTS)


def test_finished_shards_are_kept_and_not_made_again(
    tmp_path: Path, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, encode_block = tmp_path / "out", encode.encode_block

    def stop_in_the_third_file(task, tokenizer, options):
        if task.block.file == 2:
            raise KeyboardInterrupt
        return encode_block(task, tokenizer, options)

    monkeypatch.setattr(encode, "encode_block", stop_in_the_third_file)
    with pytest.raises(KeyboardInterrupt):
        tokenize_files([docs], byte_tokenizer(), folder, options())
    monkeypatch.undo()
    assert not list(folder.glob(".*"))
    before = {file.name: file.stat().st_ino for file in folder.glob("*.bin")}
    assert len(before) > 4
    seen = []
    monkeypatch.setattr(encode, "encode_block", lambda task, *a, **k: seen.append(task) or encode_block(task, *a, **k))
    made = tokenize_files([docs], byte_tokenizer(), folder, options())
    assert 2 * made.kept == len(before)
    assert seen[0].block.file == 1
    assert seen[0].block.first > 5
    after = {file.name: file.stat().st_ino for file in folder.glob("*.bin")}
    assert before.items() <= after.items()
    assert texts_of(folder) == TEXTS
    again = tokenize_files([docs], byte_tokenizer(), folder, options())
    assert again.kept == len(made.training.shards)


def stopped(docs: Path, folder: Path) -> None:
    """Shards, but no manifest."""
    assert run_child(docs, folder, "12").returncode == -signal.SIGKILL


@pytest.mark.parametrize("finished", [False, True])
def test_going_on_with_other_settings_is_refused_and_they_are_named(tmp_path: Path, docs: Path, finished: bool) -> None:
    folder, same = tmp_path / "out", {"shard_tokens": 400, "validation_share": 0.2}
    stopped(docs, folder)
    if finished:
        tokenize_files([docs], byte_tokenizer(), folder, options(**same))
    before = content(folder)
    with pytest.raises(ArrieroError, match="eos: True there, False now; shard_tokens: 400 there, 500 now"):
        tokenize_files([docs], byte_tokenizer(), folder, options(**(same | {"shard_tokens": 500, "eos": False})))
    with pytest.raises(ArrieroError, match=r"tokenizer: [0-9a-f]{12}… there, [0-9a-f]{12}… now"):
        tokenize_files([docs], byte_tokenizer(words=1), folder, options(**same))
    with (docs / "1.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(ArrieroError, match=r"files: .*1\.jsonl [\d,]+ bytes there, [\d,]+ bytes now"):
        tokenize_files([docs], byte_tokenizer(), folder, options(**same))
    assert content(folder) == before


def test_a_bad_line_may_be_mended_before_the_first_shard_is_finished(tmp_path: Path, docs: Path) -> None:
    good = (docs / "0.jsonl").read_text()
    (docs / "0.jsonl").write_text("{bad\n")
    for workers in (1, 2):
        with pytest.raises(FormatError, match=r"0\.jsonl: line 1: expected a JSON object"):
            tokenize_files([docs], byte_tokenizer(), tmp_path / "out", options(), workers=workers)
    (docs / "0.jsonl").write_text(good)
    tokenize_files([docs], byte_tokenizer(), tmp_path / "out", options())
    assert texts_of(tmp_path / "out") == TEXTS


def test_a_lone_surrogate_is_named_by_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"text": "\\ud800"}\n')
    with pytest.raises(FormatError, match=r"a\.jsonl: line 2: the text holds a lone surrogate"):
        tokenize_files([tmp_path / "a.jsonl"], byte_tokenizer(), tmp_path / "out", options(validation_share=0.5))


def test_a_corrupt_shard_of_an_earlier_run_is_found_if_asked_for(tmp_path: Path, docs: Path) -> None:
    folder = tmp_path / "out"
    stopped(docs, folder)
    file = folder / "tokens-00000.bin"
    file.write_bytes(b"\x01" + file.read_bytes()[1:])
    with pytest.raises(FormatError, match=r"tokens-00000\.bin is missing or corrupt"):
        tokenize_files([docs], byte_tokenizer(), folder, options(validation_share=0.2), verify=True)


def test_a_full_disk_is_one_line_and_leaves_nothing_half(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": "wool " * 400}) + "\n" for _ in range(200)))
    full = run_child(tmp_path / "a.jsonl", tmp_path / "out", "full")
    assert full.returncode == 2, full.stderr
    assert full.stdout.startswith("no space is left on the disk of ")
    assert full.stdout.count("\n") == 1
    assert not list((tmp_path / "out").glob("*.bin"))
    assert not list((tmp_path / "out").glob(".*"))
    tokenize_files([tmp_path / "a.jsonl"], byte_tokenizer(), tmp_path / "out", options(shard_tokens=100_000))
    assert len(ShardReader(tmp_path / "out")) == 200


def test_the_validation_share_goes_by_the_text_alone(tmp_path: Path) -> None:
    texts = [f"text number {i}" for i in range(400)]
    for name, order in (("a", texts), ("b", texts[::-1] + texts[:100])):
        (tmp_path / f"{name}.txt").write_text("\n".join(order))
        tokenize_files(
            [tmp_path / f"{name}.txt"],
            byte_tokenizer(),
            tmp_path / name,
            options(validation_share=0.25),
            text=text_files.TextOptions(split="lines"),
        )
    trained, held_out = texts_of(tmp_path / "a"), texts_of(tmp_path / "a" / VALIDATION)
    assert sorted(trained + held_out) == sorted(texts)
    assert 60 < len(held_out) < 140
    assert set(texts_of(tmp_path / "b")) == set(trained)
    assert set(texts_of(tmp_path / "b" / VALIDATION)) == set(held_out)


def test_an_empty_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n\n')
    (tmp_path / "b.txt").write_text("the only one")
    with pytest.raises(ArrieroError, match="source 's' is empty: every document is empty in"):
        tokenize_files([tmp_path / "a.jsonl"], byte_tokenizer(), tmp_path / "out", options())
    share = options(validation_share=0.999999)
    with pytest.raises(ArrieroError, match="every document fell into the validation share"):
        tokenize_files([tmp_path / "b.txt"], byte_tokenizer(), tmp_path / "out", share)
    tokenize_files([tmp_path / "b.txt"], byte_tokenizer(), tmp_path / "out", options())
    assert texts_of(tmp_path / "out") == ["the only one"]


def test_the_shards_may_lie_among_the_documents(tmp_path: Path, docs: Path) -> None:
    for _ in range(2):
        tokenize_files([docs], byte_tokenizer(), docs / "shards", options(validation_share=0.2))
    assert sorted(texts_of(docs / "shards") + texts_of(docs / "shards" / VALIDATION)) == sorted(TEXTS)
    with pytest.raises(ArrieroError, match="all documents given lie in"):
        tokenize_files([docs], byte_tokenizer(), docs, options())


def test_nothing_of_others_is_overwritten(tmp_path: Path, docs: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("")
    with pytest.raises(ArrieroError, match="is not empty, and holds no token shards"):
        tokenize_files([docs], byte_tokenizer(), tmp_path / "out", options())
    with pytest.raises(ArrieroError, match="is a file: expected a folder"):
        tokenize_files([docs], byte_tokenizer(), tmp_path / "out" / "thesis.txt", options())


def test_two_runs_into_one_folder_exclude_each_other(tmp_path: Path, docs: Path) -> None:
    with (
        tokenize._hold(tmp_path / "out"),
        pytest.raises(ArrieroError, match="another process tokenizes into"),
    ):
        tokenize_files([docs], byte_tokenizer(), tmp_path / "out", options())


def test_progress_goes_from_nothing_to_all_bytes(tmp_path: Path, docs: Path) -> None:
    told: list[tuple[int, int]] = []
    tokenize_files([docs], byte_tokenizer(), tmp_path / "out", options(), tell=lambda *state: told.append(state))
    total = sum(file.stat().st_size for file in docs.iterdir())
    assert told == sorted(told)
    assert told[-1] == (total, total)


@pytest.mark.parametrize("wrong", [{"shard_tokens": 0}, {"validation_share": 1.0}, {"source": ""}])
def test_absurd_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ArrieroError, match="expected"):
        options(**wrong)
