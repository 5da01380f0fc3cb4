"""Token shards: the documents of one source as memory-mapped ids, with where each begins.

shards.json          the manifest, written last: a folder without one is not finished
tokens-00000.bin     little-endian ids, uint16 or uint32, documents one after the other, none cut by a shard's end
documents-00000.bin  little-endian uint64: the tokens before each document, and at last all tokens of the shard
tokenizer.json, …    the tokenizer that made the ids
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from arriero.common.errors import ArrieroError, FormatError, NotFoundError
from arriero.common.files import sha256
from arriero.tokenizer.load import load_tokenizer
from arriero.tokenizer.tokenizer import Tokenizer

MANIFEST_NAME, PROGRESS_NAME = "shards.json", "progress.json"
FORMAT, VERSION = "arriero-shards", 1
PADDING = 1024
"""Rows that a model's embedding may have beyond its shards' vocabulary: models round it up."""

Ids = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One pair of files."""

    tokens_file: str
    documents_file: str
    tokens: int
    documents: int
    bytes: int
    """UTF-8 bytes of the text."""
    skipped: int
    """Empty documents that were left out."""
    sha256_tokens: str
    sha256_documents: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder of shards holds."""

    source: str
    dtype: str
    """uint16 or uint32."""
    vocab_size: int
    bos_id: int | None
    """The token before each document, if any."""
    eos_id: int | None
    """The token after each document, if any."""
    tokenizer_sha256: str
    """Of `tokenizer.json` in the folder."""
    shards: tuple[Shard, ...]
    options: dict[str, Any] = field(default_factory=dict)
    """How it was made."""

    @property
    def documents(self) -> int:
        return sum(shard.documents for shard in self.shards)

    @property
    def tokens(self) -> int:
        return sum(shard.tokens for shard in self.shards)

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of all texts."""
        return sum(shard.bytes for shard in self.shards)

    def to_json(self) -> str:
        """The content of `shards.json`."""
        totals = {"documents": self.documents, "tokens": self.tokens, "bytes": self.bytes}
        head = {"format": FORMAT, "version": VERSION, "tokenizer": "tokenizer.json", **totals}
        return json.dumps(head | asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read a folder's manifest.

        Raises:
            NotFoundError: there are no shards, or they are not finished.
            FormatError: the manifest is damaged or of another version.
        """
        file = folder / MANIFEST_NAME
        if not file.is_file():
            begun = (folder / PROGRESS_NAME).is_file()
            why = (
                "its shards are not finished: run the same `arriero tokenize` again"
                if begun
                else "it has no shards.json"
            )
            raise NotFoundError(f"{folder} holds no token shards: {why}")
        try:
            content = json.loads(file.read_bytes())
            if content["format"] != FORMAT or content["version"] != VERSION:
                raise FormatError(f"{file}: expected format {FORMAT}, version {VERSION}")
            shards = tuple(Shard(**shard) for shard in content["shards"])
            names = ("source", "dtype", "vocab_size", "bos_id", "eos_id", "tokenizer_sha256", "options")
            manifest = cls(shards=shards, **{name: content[name] for name in names})
        except FormatError:
            raise
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise FormatError(f"{file} is damaged: {type(error).__name__}: {error}") from error
        if manifest.dtype not in ("uint16", "uint32") or not all(_sound(shard) for shard in shards):
            raise FormatError(f"{file} is damaged: expected ids of uint16 or uint32, and shards with files and sizes")
        return manifest


def id_type(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """The narrowest type that holds every id."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


class Places(NamedTuple):
    """Where some documents lie."""

    shard: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]


class ShardReader:
    """The documents of a folder of shards, by number, out of memory maps."""

    def __init__(self, folder: Path) -> None:
        """Open a folder; the files' sizes are checked, and their content by `verify`.

        Raises:
            NotFoundError: there are no finished shards.
            FormatError: the manifest is damaged, or a file is not as long as it says.
        """
        self.folder = folder
        self.manifest = Manifest.read(folder)
        self._type = np.dtype(self.manifest.dtype).newbyteorder("<")
        for shard in self.manifest.shards:
            _check_size(folder / shard.tokens_file, shard.tokens * self._type.itemsize)
            _check_size(folder / shard.documents_file, (shard.documents + 1) * 8)
        counts = [shard.documents for shard in self.manifest.shards]
        self._bounds: NDArray[np.int64] = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self._maps: dict[int, tuple[Ids, NDArray[np.uint64]]] = {}

    def __len__(self) -> int:
        return int(self._bounds[-1])

    @property
    def tokens(self) -> int:
        """All of them, BOS and EOS included."""
        return self.manifest.tokens

    @property
    def fingerprint(self) -> str:
        """Equal for equal shards: a digest of their checksums."""
        sums = [value for shard in self.manifest.shards for value in (shard.sha256_tokens, shard.sha256_documents)]
        return hashlib.sha256("\n".join(sums).encode()).hexdigest()

    def document(self, number: int) -> Ids:
        """The ids of one document, in a map of the file: read-only, and no copy.

        Raises:
            IndexError: there is no document of that number.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"document {number} of {len(self)}")
        places = self.locate(np.array([number]))
        return self.ids(int(places.shard[0]), int(places.start[0]), int(places.length[0]))

    def locate(self, numbers: NDArray[np.int64]) -> Places:
        """Where documents lie.

        Raises:
            FormatError: the file of their places is damaged.
        """
        shards = np.searchsorted(self._bounds, numbers, side="right") - 1
        starts, ends = np.empty(len(numbers), np.int64), np.empty(len(numbers), np.int64)
        for shard in np.unique(shards).tolist():
            chosen = shards == shard
            local, offsets = numbers[chosen] - self._bounds[shard], self._map(shard)[1]
            starts[chosen], ends[chosen] = offsets[local], offsets[local + 1]
            if (ends[chosen] <= starts[chosen]).any() or (ends[chosen] > self.manifest.shards[shard].tokens).any():
                name = self.manifest.shards[shard].documents_file
                raise FormatError(f"{self.folder / name} is corrupt: a document in it ends before it begins")
        return Places(shards, starts, ends - starts)

    def ids(self, shard: int, start: int, length: int) -> Ids:
        """A run of ids of one shard."""
        return self._map(shard)[0][start : start + length]

    def verify(self) -> None:
        """Read every byte and compare the checksums.

        Raises:
            FormatError: a file is corrupt; the message names it.
        """
        for shard in self.manifest.shards:
            check_sums(self.folder, shard)
        tokenizer = self.folder / "tokenizer.json"
        if not tokenizer.is_file() or sha256(tokenizer) != self.manifest.tokenizer_sha256:
            raise FormatError(f"{tokenizer} is not the tokenizer that made these shards")

    def _map(self, shard: int) -> tuple[Ids, NDArray[np.uint64]]:
        if shard not in self._maps:
            entry = self.manifest.shards[shard]
            self._maps[shard] = (
                np.memmap(self.folder / entry.tokens_file, self._type, "r").view(np.ndarray),
                np.memmap(self.folder / entry.documents_file, np.dtype("<u8"), "r").view(np.ndarray),
            )
        return self._maps[shard]


def check_vocabulary(readers: Sequence[ShardReader], vocab_size: int, tokenizer_sha256: str | None = None) -> None:
    """Check that shards fit each other and a model of `vocab_size` rows of embedding.

    Raises:
        ArrieroError: they were made by different tokenizers, or by another one than the model's, or the model has
            fewer rows than ids, or so many more that it must have been made for another vocabulary.
    """
    for reader in readers:
        made, first = reader.manifest, readers[0]
        expected = first.manifest.tokenizer_sha256 if tokenizer_sha256 is None else tokenizer_sha256
        other = str(first.folder) if tokenizer_sha256 is None else "the model"
        if made.tokenizer_sha256 != expected:
            raise ArrieroError(
                f"{reader.folder} was tokenized with another tokenizer than {other} "
                f"({made.tokenizer_sha256[:12]}… and {expected[:12]}…): tokenize its documents again"
            )
        if not made.vocab_size <= vocab_size < made.vocab_size + PADDING:
            raise ArrieroError(
                f"vocabulary mismatch: the shards in {reader.folder} have {made.vocab_size:,} tokens and the model "
                f"{vocab_size:,}: give the model vocab_size = {made.vocab_size}, or tokenize with the model's tokenizer"
            )


def check_words(model: str, tokenizer: Tokenizer, reader: ShardReader) -> None:
    """Check that shards were made of the tokens that `tokenizer`, of `model`, has: equally many are not yet the same.

    Raises:
        ArrieroError: some differ.
    """
    own, made = tokenizer.backend.get_vocab(), load_tokenizer(reader.folder).backend.get_vocab()
    if differing := [word for word, number in made.items() if own.get(word) != number]:
        raise ArrieroError(
            f"vocabulary mismatch: {reader.folder} was tokenized with another tokenizer than that of {model}: "
            f"{len(differing):,} tokens differ, such as {differing[0]!r}; tokenize with --tokenizer {model}"
        )


def check_sums(folder: Path, shard: Shard) -> None:
    """Raises FormatError when a shard's files are absent or differ from their checksums."""
    for name, expected in ((shard.tokens_file, shard.sha256_tokens), (shard.documents_file, shard.sha256_documents)):
        file = folder / name
        if not file.is_file() or sha256(file) != expected:
            raise FormatError(
                f"{file} is missing or corrupt (its checksum differs): remove {folder} and tokenize again"
            )


def _check_size(file: Path, expected: int) -> None:
    size = file.stat().st_size if file.is_file() else -1
    if size != expected:
        found = "it is missing" if size < 0 else f"it has {size:,} bytes"
        raise FormatError(f"{file} is truncated or corrupt: expected {expected:,} bytes, {found}")


def _sound(shard: Shard) -> bool:
    """Names stay in the folder, and a shard holds a document and no negative number."""
    names = (shard.tokens_file, shard.documents_file)
    numbers = (shard.tokens, shard.documents, shard.bytes, shard.skipped)
    return (
        all(isinstance(name, str) and name == Path(name).name for name in names)
        and all(isinstance(number, int) and number >= 0 for number in numbers)
        and 0 < shard.documents <= shard.tokens
    )
