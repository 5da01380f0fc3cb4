"""Blocks of documents to ids, in this process or in several; what comes out keeps the order of what went in."""

import functools
import hashlib
import multiprocessing
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from arriero.common.errors import ArrieroError, FormatError
from arriero.common.workers import begin_work
from arriero.tokenizer.load import load_tokenizer
from arriero.tokenizer.tokenizer import Tokenizer
from arriero.train.shards import Ids, id_type
from arriero.train.text_files import Block, decode

QUEUED = 3
"""Blocks that wait for each process: the memory of a run is bounded by them."""


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """What becomes of a document."""

    field: str
    bos: bool
    eos: bool
    validation_share: float


class Task(NamedTuple):
    """A block, and which of its documents are still wanted."""

    block: Block
    training_from: int
    """Index in the block of the first document that is wanted for training."""
    validation_from: int
    """The same, for those held out."""


class Encoded(NamedTuple):
    """The documents of a block that were wanted."""

    file: int
    read: int
    """Bytes of the file that are read so far."""
    numbers: list[int]
    """Each document's number in its file."""
    sizes: list[int]
    """UTF-8 bytes of each; 0 marks one that is empty and left out."""
    lengths: list[int]
    """Tokens of each."""
    held_out: list[bool]
    ids: Ids
    """Of all, one after the other."""


def is_held_out(text: str, share: float) -> bool:
    """Whether a document belongs to the validation set: by its text alone, so that copies never fall on both sides."""
    if not share:
        return False
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2.0**64


def encode_block(task: Task, tokenizer: Tokenizer, options: EncodeOptions) -> Encoded:
    """Decode and tokenize the wanted documents of a block; text never becomes a control token.

    Raises:
        FormatError: a document cannot be read; the message names file and line.
    """
    block, dtype = task.block, id_type(tokenizer.vocab_size)
    encoded = Encoded(block.file, block.read, [], [], [], [], np.empty(0, dtype))
    pieces: list[list[int]] = []
    for index, text in decode(block, options.field, min(task.training_from, task.validation_from)):
        held_out = bool(text) and is_held_out(text, options.validation_share)
        if index < (task.validation_from if held_out else task.training_from):
            continue
        ids: list[int] = []
        if text:
            try:
                ids = tokenizer.encode_batch([text], bos=options.bos, eos=options.eos)[
                    0
                ]  # faster than encode: no offsets
            except ArrieroError as error:
                raise FormatError(f"{block.path}: line {block.lines[index]}: {error}") from error
        pieces.append(ids)
        encoded.numbers.append(block.first + index)
        encoded.sizes.append(len(text.encode()) if ids else 0)
        encoded.lengths.append(len(ids))
        encoded.held_out.append(held_out)
    return encoded._replace(ids=np.concatenate([np.array(ids, dtype) for ids in pieces])) if pieces else encoded


def encode_blocks(
    tasks: Iterable[Task], folder: Path, options: EncodeOptions, workers: int
) -> Generator[Encoded, None, None]:
    """`encode_block` of each task with the tokenizer in `folder`, by `workers` processes, results in order.

    Raises:
        FormatError: a document cannot be read.
        ArrieroError: a process died.
    """
    if workers == 1:
        encode = functools.partial(encode_block, tokenizer=load_tokenizer(folder), options=options)
        yield from map(encode, tasks)
        return
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(folder, options)
    )
    waiting: deque[Future[Encoded]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(_encode, task))
            if len(waiting) >= QUEUED * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise ArrieroError(
            "a tokenizing process died, as for want of memory: run the same command again with fewer --workers; "
            "the finished shards are kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_encode_here: Callable[[Task], Encoded]
"""What this process encodes with, if it is a worker."""


def _start_worker(folder: Path, options: EncodeOptions) -> None:
    global _encode_here
    begin_work()
    _encode_here = functools.partial(encode_block, tokenizer=load_tokenizer(folder), options=options)


def _encode(task: Task) -> Encoded:
    return _encode_here(task)
