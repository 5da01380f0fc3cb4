"""Heads of GGUF files: the package's writer and reader are the oracle; truncation and hostile counts are named."""

import struct

import gguf
import numpy as np
import pytest

from arriero.common.errors import FormatError, NotFoundError
from arriero.common.gguf_header import read_header

PAIRS = {
    "a.uint8": ("uint8", 200),
    "a.int8": ("int8", -3),
    "a.uint16": ("uint16", 60000),
    "a.int16": ("int16", -3000),
    "a.uint32": ("uint32", 4_000_000_000),
    "a.int32": ("int32", -7),
    "a.uint64": ("uint64", 1 << 40),
    "a.int64": ("int64", -(1 << 40)),
    "a.float32": ("float32", 0.5),
    "a.float64": ("float64", 0.1),
    "a.bool": ("bool", True),
    "a.string": ("string", "héllo 北京 👍"),
    "a.strings": ("array", ["", "a", "北京"]),
    "a.ints": ("array", [1, -2, 3]),
    "a.floats": ("array", [0.5, -1.0]),
    "a.bools": ("array", [True, False]),
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key, (kind, value) in PAIRS.items():
        getattr(writer, f"add_{kind}")(key, value)
    writer.add_tensor("first", np.zeros((2, 3), np.float32))
    writer.add_tensor("second", np.ones((4, 5, 6), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_every_value_type_reads_as_it_was_written(file):
    metadata = read_header(file).metadata
    assert metadata.pop("general.architecture") == "llama"
    assert metadata == {key: value for key, (_, value) in PAIRS.items()}
    assert metadata["a.bool"] is True


def test_tensors_are_where_the_package_finds_them(file):
    header, reader = read_header(file), gguf.GGUFReader(file)
    assert [header.tensors[tensor.name].start for tensor in reader.tensors] == [t.data_offset for t in reader.tensors]
    assert (header.tensors["first"].shape, header.tensors["second"].shape) == ((2, 3), (4, 5, 6))


@pytest.mark.weights
def test_smollm2_reads_as_the_package_reads_it(smollm2_gguf):
    header, reader = read_header(smollm2_gguf), gguf.GGUFReader(smollm2_gguf)
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert header.metadata == fields
    assert {t.name: (t.data_offset, int(t.tensor_type)) for t in reader.tensors} == {
        t.name: (t.start, t.kind) for t in header.tensors.values()
    }


def test_a_head_cut_anywhere_is_a_format_error(file, tmp_path):
    whole = file.read_bytes()
    end = min(tensor.start for tensor in read_header(file).tensors.values()) - 32
    cut = tmp_path / "cut.gguf"
    for size in range(end):
        cut.write_bytes(whole[:size])
        with pytest.raises(FormatError, match=r"cut\.gguf"):
            read_header(cut)


def test_truncation_names_the_key(file, tmp_path):
    whole = file.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[: whole.index(b"a.strings") + 20])
    with pytest.raises(FormatError, match=r"cut\.gguf: truncated or corrupt: it ends inside metadata key 'a\.strings'"):
        read_header(cut)


def head(version=3, tensors=0, pairs=0, rest=b""):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs) + rest


def text(value):
    return struct.pack("<Q", len(value)) + value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a GGUF file"),
        (b"PK\x03\x04" + bytes(50), "does not begin with 'GGUF'"),
        (head(version=1), "version 1 is not supported"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (head(pairs=1 << 60), "ends inside the file's head"),
        (head(tensors=1 << 63), "ends inside the file's head"),
        (head(pairs=1, rest=text(b"k") + struct.pack("<I", 99)), "'k' has the unknown value type 99"),
        (head(pairs=1, rest=text(b"k") + struct.pack("<IIQ", 9, 9, 1)), "'k' is an array of value type 9"),
        (head(pairs=1, rest=text(b"k") + struct.pack("<IIQ", 9, 8, 1 << 61)), "ends inside metadata key 'k'"),
        (head(pairs=1, rest=text(b"k") + struct.pack("<IIQ", 9, 5, 1 << 62)), "ends inside metadata key 'k'"),
        (head(pairs=1, rest=text(b"k") + struct.pack("<I", 8) + text(b"\xff\xfe")), "'k' is not UTF-8"),
        (head(tensors=1, rest=text(b"t") + struct.pack("<I", 5) + bytes(60)), "'t' has 5 dimensions"),
        (head(tensors=2, rest=2 * (text(b"t") + struct.pack("<IQIQ", 1, 4, 0, 0))), "'t' occurs twice"),
        (
            head(pairs=1, rest=text(b"general.alignment") + struct.pack("<II", 4, 24)),
            "general.alignment is 24: expected a power of two",
        ),
    ],
)
def test_hostile_heads_are_named(tmp_path, content, message):
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message) as error:
        read_header(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(NotFoundError, match="no such file"):
        read_header(tmp_path / "none.gguf")
