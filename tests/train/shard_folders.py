"""Tiny tokenizers, and folders of shards out of lists of ids, for the tests of training."""

from collections.abc import Sequence
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from arriero.common.files import sha256
from arriero.tokenizer.tokenizer import Tokenizer
from arriero.train.shard_writer import ShardWriter
from arriero.train.shards import Manifest, ShardReader, id_type

BOS, EOS = 256, 257


def byte_tokenizer(*, add_bos: bool = False, words: int = 0) -> Tokenizer:
    """A token a byte, `<s>` and `</s>`, and `words` tokens that no text becomes."""
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<s>", "</s>", *(f"word{i}" for i in range(words))]
    backend = tokenizers.Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in ("<s>", "</s>")])
    return Tokenizer(backend, bos_id=BOS, eos_id=EOS, add_bos=add_bos)


def write_shards(
    folder: Path,
    documents: Sequence[Sequence[int]],
    *,
    vocab_size: int = 1000,
    shard_documents: int = 1 << 30,
    tokenizer: str = "{}",
) -> ShardReader:
    """A folder of shards that holds these documents."""
    dtype = id_type(vocab_size)
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer)
    shards = []
    for number, first in enumerate(range(0, len(documents), shard_documents)):
        writer = ShardWriter(folder, number, dtype)
        for document in documents[first : first + shard_documents]:
            writer.add(list(document), 3 * len(document))
        shards.append(writer.finish())
    manifest = Manifest(
        source=folder.name,
        dtype=dtype.__name__,
        vocab_size=vocab_size,
        bos_id=None,
        eos_id=None,
        tokenizer_sha256=sha256(folder / "tokenizer.json"),
        shards=tuple(shards),
    )
    (folder / "shards.json").write_text(manifest.to_json())
    return ShardReader(folder)
