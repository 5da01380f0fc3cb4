"""Shards are read as they were written, and damage is found: at opening by size, by `verify` in every byte."""

import json
from pathlib import Path

import pytest

from arriero.common.errors import ArrieroError, FormatError, NotFoundError
from arriero.train.shards import ShardReader, check_vocabulary
from tests.train.shard_folders import write_shards

DOCUMENTS = [[1, 2, 3], [4], [5, 6], [7, 8, 9, 10], [11]]


@pytest.mark.parametrize("vocab_size", [65_536, 65_537])
@pytest.mark.parametrize("shard_documents", [1, 2, 5])
def test_documents_are_read_by_number_through_all_shards(tmp_path: Path, vocab_size: int, shard_documents: int) -> None:
    reader = write_shards(tmp_path, DOCUMENTS, vocab_size=vocab_size, shard_documents=shard_documents)
    assert [reader.document(i).tolist() for i in range(len(reader))] == DOCUMENTS
    assert reader.tokens == 11
    assert reader.manifest.dtype == ("uint16" if vocab_size == 65_536 else "uint32")
    assert not reader.document(0).flags.writeable
    reader.verify()
    with pytest.raises(IndexError):
        reader.document(5)


def test_the_files_are_little_endian_ids_and_offsets(tmp_path: Path) -> None:
    write_shards(tmp_path, [[1, 258], [3]])
    assert (tmp_path / "tokens-00000.bin").read_bytes() == b"\1\0\2\1\3\0"
    assert (tmp_path / "documents-00000.bin").read_bytes() == b"".join(n.to_bytes(8, "little") for n in (0, 2, 3))


@pytest.mark.parametrize("name", ["tokens-00001.bin", "documents-00001.bin"])
@pytest.mark.parametrize("size", [0, 3, 100])
def test_a_file_of_another_size_is_refused_at_opening(tmp_path: Path, name: str, size: int) -> None:
    write_shards(tmp_path, DOCUMENTS, shard_documents=2)
    (tmp_path / name).write_bytes(bytes(size))
    with pytest.raises(FormatError, match=rf"{name} is truncated or corrupt: expected \d+ bytes, it has {size} bytes"):
        ShardReader(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FormatError, match="it is missing"):
        ShardReader(tmp_path)


@pytest.mark.parametrize("name", ["tokens-00001.bin", "documents-00001.bin"])
def test_verify_finds_a_changed_byte(tmp_path: Path, name: str) -> None:
    reader = write_shards(tmp_path, DOCUMENTS, shard_documents=2)
    content = bytearray((tmp_path / name).read_bytes())
    content[-8] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=rf"{name} is missing or corrupt \(its checksum differs\)"):
        reader.verify()


def test_verify_finds_another_tokenizer(tmp_path: Path) -> None:
    reader = write_shards(tmp_path, DOCUMENTS)
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(FormatError, match=r"tokenizer\.json is not the tokenizer that made these shards"):
        reader.verify()


def test_documents_that_end_before_they_begin_are_refused(tmp_path: Path) -> None:
    reader = write_shards(tmp_path, DOCUMENTS)
    offsets = [0, 9, 4, 6, 99, 11]
    (tmp_path / "documents-00000.bin").write_bytes(b"".join(n.to_bytes(8, "little") for n in offsets))
    for number in (1, 3):
        with pytest.raises(FormatError, match=r"documents-00000\.bin is corrupt"):
            reader.document(number)


def test_a_folder_without_manifest_is_told_from_an_unfinished_one(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"it has no shards\.json"):
        ShardReader(tmp_path)
    (tmp_path / "progress.json").write_text("{}")
    with pytest.raises(NotFoundError, match="not finished: run the same `arriero tokenize` again"):
        ShardReader(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"}, {"version": 2}, {"dtype": "float64"}, {"shards": 5}, {"shards": [{"tokens": 1}]},
        {"tokens_file": "../../etc/passwd"}, {"documents": 0}, {"tokens": -1}, {"documents": "5"},
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    write_shards(tmp_path, DOCUMENTS)
    manifest = json.loads((tmp_path / "shards.json").read_text())
    top = change.keys() & {"format", "version", "dtype", "shards"}
    (manifest if top else manifest["shards"][0]).update(change)
    (tmp_path / "shards.json").write_text(json.dumps(manifest))
    with pytest.raises(FormatError, match=r"shards\.json"):
        ShardReader(tmp_path)
    for content in ("", "[]", "[" * 100_000):
        (tmp_path / "shards.json").write_text(content)
        with pytest.raises(FormatError, match="is damaged"):
            ShardReader(tmp_path)


def test_a_vocabulary_that_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    a = write_shards(tmp_path / "a", DOCUMENTS, vocab_size=1000)
    b = write_shards(tmp_path / "b", DOCUMENTS, vocab_size=1000, tokenizer="[]")
    check_vocabulary([a], 1000)
    check_vocabulary([a], 1024, a.manifest.tokenizer_sha256)
    for size in (999, 32_000):
        with pytest.raises(
            ArrieroError, match=r"vocabulary mismatch: the shards in .*a have 1,000 tokens and the model"
        ):
            check_vocabulary([a], size)
    with pytest.raises(ArrieroError, match=r"b was tokenized with another tokenizer than .*a "):
        check_vocabulary([a, b], 1000)
    with pytest.raises(ArrieroError, match="a was tokenized with another tokenizer than the model"):
        check_vocabulary([a], 1000, "1" * 64)


def test_equal_shards_have_equal_fingerprints(tmp_path: Path) -> None:
    a, b = (write_shards(tmp_path / name, DOCUMENTS) for name in "ab")
    c = write_shards(tmp_path / "c", [*DOCUMENTS[:-1], [12]])
    assert a.fingerprint == b.fingerprint != c.fingerprint
