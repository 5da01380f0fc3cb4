"""How well a model predicts text it was not trained on: loss, perplexity and bits per byte, source by source.

Every token of a document is predicted from those before it in the same document; the first has none before it, so it is
predicted only if the document begins with a beginning-of-sequence token. Loss and perplexity are per token, and depend
on the vocabulary; bits per byte compare models of different ones. An end-of-sequence token counts as a token of no
bytes.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from arriero.common.errors import ArrieroError, FormatError
from arriero.model.transformer import Llama
from arriero.tokenizer.load import load_tokenizer
from arriero.tokenizer.tokenizer import Tokenizer
from arriero.train.shards import ShardReader
from arriero.train.text_files import TextOptions, decode, find_files, read_blocks
from arriero.train.windows import Window, document_windows, score_windows

Tell = Callable[[int, int], None]
"""Is told how much is done, and how much there is."""


class Document(NamedTuple):
    """One document, ready to be predicted."""

    ids: Sequence[int]
    bytes: int
    """UTF-8 bytes of the text that is predicted: all of it, or all but the first token's."""
    done: int
    """How much of the source ends with it."""


@dataclass(frozen=True, kw_only=True)
class DocumentSource:
    """The documents of one source, in order."""

    name: str
    documents: Iterable[Document]
    size: int
    """What `Document.done` comes to: tokens of shards, bytes of text files."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a model makes of a source, or of several together."""

    source: str
    documents: int
    tokens: int
    """Those predicted."""
    bytes: int
    """UTF-8 bytes of them."""
    nats: float
    """Σ −log p over the tokens."""

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(loss); infinity beyond what a float holds."""
        return math.exp(self.loss) if self.loss < 709 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Bits that an ideal coder would take for a byte of the text; infinity for tokens of no bytes."""
        return self.nats / math.log(2) / self.bytes if self.bytes else math.inf

    def facts(self) -> dict[str, Any]:
        """Counts and measures; those that are infinite are None, as JSON has no other word for them."""
        measures = {"loss": self.loss, "perplexity": self.perplexity, "bits_per_byte": self.bits_per_byte}
        return asdict(self) | {name: value if math.isfinite(value) else None for name, value in measures.items()}


class Reading:
    """A source's documents as windows of tokens, counted as they are read."""

    def __init__(
        self,
        source: DocumentSource,
        most: int,
        *,
        context: int | None = None,
        stride: int | None = None,
        tell: Tell | None = None,
    ) -> None:
        """Begin.

        Args:
            source: is read once.
            most: tokens of the model's context.
            context: as of `evaluate`.
            stride: as of `evaluate`.
            tell: as of `evaluate`.
        """
        self.source, self.tell = source, tell or _ignore
        self.context = most if context is None else context
        if not 1 <= self.context <= most:
            raise ArrieroError(f"context: expected 1 to the model's {most} tokens, got {context}")
        self.stride = max(1, self.context // 2) if stride is None else stride
        self.documents = self.tokens = self.bytes = 0

    def windows(self) -> Iterator[Window]:
        """All windows, in order."""
        for document in self.source.documents:
            self.documents += 1
            self.bytes += document.bytes
            self.tokens += max(0, len(document.ids) - 1)
            yield from document_windows(document.ids, self.context, self.stride)
            self.tell(document.done, self.source.size)

    def evaluation(self, nats: float) -> Evaluation:
        """What came of it, once all windows are read.

        Raises:
            ArrieroError: there was nothing to predict.
        """
        if not self.tokens:
            raise ArrieroError(
                f"source '{self.source.name}' is empty: expected documents of 2 tokens or more, got {self.documents}"
            )
        self.tell(self.source.size, self.source.size)
        return Evaluation(
            source=self.source.name, documents=self.documents, tokens=self.tokens, bytes=self.bytes, nats=nats
        )


def evaluate(
    model: Llama,
    source: DocumentSource,
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_tokens: int = 4096,
    tell: Tell | None = None,
) -> Evaluation:
    """Predict a source's documents.

    Args:
        context: most tokens read at a time; default: the model's.
        stride: tokens by which the windows of longer documents advance; default: half the context.
        batch_tokens: tokens read together.
        tell: is told the progress.

    Raises:
        ArrieroError: there is nothing to predict, context or stride do not fit, or the model's numbers are not finite.
        FormatError: a document cannot be read.
    """
    reading = Reading(source, model.config.max_seq_len, context=context, stride=stride, tell=tell)
    scores = score_windows(model, reading.windows(), batch_tokens=batch_tokens)
    return reading.evaluation(-math.fsum(score.logprob for score in scores))


def add_up(evaluations: Sequence[Evaluation]) -> Evaluation:
    """All sources as one: every token counts the same."""
    return Evaluation(
        source="total",
        documents=sum(each.documents for each in evaluations),
        tokens=sum(each.tokens for each in evaluations),
        bytes=sum(each.bytes for each in evaluations),
        nats=math.fsum(each.nats for each in evaluations),
    )


def shard_source(reader: ShardReader, *, name: str | None = None, limit: int | None = None) -> DocumentSource:
    """The documents of a folder of shards, as they were tokenized.

    Args:
        name: default: what the shards call their source.
        limit: only so many of the first.
    """
    count = len(reader) if limit is None else min(limit, len(reader))
    return DocumentSource(
        name=reader.manifest.source if name is None else name, documents=_of_shards(reader, count), size=reader.tokens
    )


def text_source(
    name: str,
    paths: Sequence[Path],
    tokenizer: Tokenizer,
    *,
    text: TextOptions | None = None,
    bos: bool | None = None,
    eos: bool | None = None,
    limit: int | None = None,
) -> DocumentSource:
    """The documents of text files, tokenized as `arriero tokenize` does: text never becomes a control token.

    Args:
        text: how documents are found in the files.
        bos: begin each with the beginning-of-sequence token; default: as the tokenizer itself does.
        eos: end each with the end-of-sequence token; default: if the vocabulary has one.
        limit: only so many of the first documents.

    Raises:
        NotFoundError: a path does not exist.
        FormatError: a file of a kind that is not known.
    """
    text = text or TextOptions()
    files = find_files(paths, text)
    bos = tokenizer.add_bos if bos is None else bos
    eos = tokenizer.eos_id is not None if eos is None else eos
    documents = islice(_of_texts(files, tokenizer, text, bos=bos, eos=eos), limit)
    return DocumentSource(name=name, documents=documents, size=sum(file.stat().st_size for file in files))


def memory_source(
    name: str, texts: Sequence[str], tokenizer: Tokenizer, *, bos: bool | None = None, eos: bool | None = None
) -> DocumentSource:
    """Texts at hand as documents, tokenized as `text_source` does."""
    bos = tokenizer.add_bos if bos is None else bos
    eos = tokenizer.eos_id is not None if eos is None else eos
    documents = (_document(text, tokenizer, done, bos=bos, eos=eos) for done, text in enumerate(texts, 1))
    return DocumentSource(name=name, documents=documents, size=len(texts))


def check_tokenizer(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Raises ArrieroError when a tokenizer has more tokens than the `vocab_size` rows of a model's embedding."""
    if tokenizer.vocab_size > vocab_size:
        raise ArrieroError(
            f"vocabulary mismatch: the tokenizer has {tokenizer.vocab_size:,} tokens and the model {vocab_size:,} rows "
            "of embedding: put the model's own tokenizer beside it"
        )


def _of_shards(reader: ShardReader, count: int) -> Iterator[Document]:
    tokenizer, made, done = load_tokenizer(reader.folder), reader.manifest, 0
    for number in range(count):
        ids = reader.document(number).tolist()
        if (largest := max(ids)) >= made.vocab_size:
            raise FormatError(
                f"a shard of {reader.folder} is corrupt: it holds the id {largest}, and its vocabulary ends at "
                f"{made.vocab_size - 1}"
            )
        done += len(ids)
        size = len(tokenizer.decode(ids).encode())
        yield Document(ids, size - _unpredicted(ids, tokenizer), done)


def _of_texts(
    files: Sequence[Path], tokenizer: Tokenizer, text: TextOptions, *, bos: bool, eos: bool
) -> Iterator[Document]:
    before = [0]
    for file in files:
        before.append(before[-1] + file.stat().st_size)
    for block in read_blocks(files, text):
        for _, content in decode(block, text.field):
            if content:
                yield _document(content, tokenizer, before[block.file] + block.read, bos=bos, eos=eos)


def _document(text: str, tokenizer: Tokenizer, done: int, *, bos: bool, eos: bool) -> Document:
    ids = tokenizer.encode_batch([text], bos=bos, eos=eos)[0]
    return Document(ids, len(text.encode()) - _unpredicted(ids, tokenizer), done)


def _unpredicted(ids: Sequence[int], tokenizer: Tokenizer) -> int:
    """Bytes of text that the first token stands for."""
    return 0 if not ids or ids[0] in tokenizer.special_ids else len(tokenizer.token_bytes(ids[0]))


def _ignore(done: int, total: int) -> None:
    """Nobody watches."""
