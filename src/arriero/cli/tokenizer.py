"""`arriero tokenizer train|measure`."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.table import Table

from arriero.cli.bar import reading_bar
from arriero.cli.options import positional
from arriero.cli.output import console, note, print_json, printable, warn
from arriero.common.errors import NotFoundError
from arriero.tokenizer.bpe_options import BpeOptions
from arriero.tokenizer.sample import SampleOptions

if TYPE_CHECKING:
    from arriero.tokenizer.measure import Measurement
    from arriero.tokenizer.tokenizer import Tokenizer
    from arriero.train.text_files import TextOptions

_UNNAMED = "text"


@dataclass(frozen=True, kw_only=True)
class ReadConfig:
    """What to read, and how."""

    paths: tuple[str, ...] = positional("[NAME=]PATH")
    """Files, folders with all that is in them, and patterns: .jsonl, .parquet, .txt, and their .gz, .zst, .bz2, .xz.
    NAME is the source, e.g. a language, that reports and shares speak of; paths without one are the source 'text'."""
    reference: str = "auto"
    """A tokenizer to compare with: a known model's name, a folder, a .json, .model or .gguf file, or none; auto is the
    default model's, where it is here."""
    format: Literal["auto", "jsonl", "parquet", "text"] = "auto"
    """Read every file as this; auto goes by the suffix, and passes over files of other kinds in folders."""
    field: str = "text"
    """The field of JSON objects, or the column of Parquet files, that holds the text."""
    split: Literal["none", "paragraphs", "lines"] = "none"
    """What is a document in a plain text file: all of it, each run of lines between blank ones, or each line."""
    separator: str | None = None
    """A line of plain text files that stands between documents, such as <|endoftext|>; instead of --split."""
    json: bool = False
    """Print JSON for scripts."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ReadConfig):
    """What to train on, and what vocabulary to make."""

    out: Path
    """The folder to write; it must be new or empty."""
    bpe: BpeOptions = field(default_factory=BpeOptions)
    """What vocabulary to make."""
    sample: SampleOptions = field(default_factory=SampleOptions)
    """How much of which source."""


def train(config: TrainConfig) -> int:
    """Train a tokenizer of LLaMA's kind: SentencePiece BPE, single digits, byte fallback, white space kept.

    The same input and options give the same bytes. transformers, `arriero tokenize --tokenizer` and
    `arriero model export` read the folder. The report measures on text that was held out of the training: bytes per
    token, and fertility, which is tokens per word, or per character in Chinese, Japanese, Thai, Lao, Khmer, Burmese.

    Examples:
      arriero tokenizer train books/ --out tokenizer
      arriero tokenizer train en=wiki/en.jsonl.zst zh=wiki/zh.jsonl.zst --share en=2 --share zh=1 --out tokenizer
    """
    from arriero.train.tokenizer_run import train_to_folder

    references = _references(config.reference)
    report = train_to_folder(
        _sources(config.paths),
        config.out,
        config.bpe,
        sample=config.sample,
        text=_text_options(config),
        references=references,
        bar=reading_bar,
        show_progress=sys.stderr.isatty(),
    )
    if config.json:
        print_json({"folder": config.out, "vocab_size": config.bpe.vocab_size} | report.facts())
        return 0
    table = _table("source", "bytes", "trained on", "share", "held out")
    for row in report.sources:
        sizes = (row["bytes_read"], row["training_bytes"])
        table.add_row(printable(row["source"]), *(f"{size:,}" for size in sizes), f"{row['training_share']:.1%}",
                      f"{row['held_out_bytes']:,}")  # fmt: skip
    console().print(table, markup=False)
    print()
    _show(report.measurements)
    if short := [row["source"] for row in report.sources if not row["held_out_bytes"]]:
        note(f"measured on the training text, for want of more: {printable(', '.join(short))}")
    print(f"{printable(str(config.out))}: a vocabulary of {config.bpe.vocab_size:,} tokens")
    return 0


@dataclass(frozen=True, kw_only=True)
class MeasureConfig(ReadConfig):
    """What to measure, and on what."""

    tokenizer: str
    """A known model's name, a folder, or a tokenizer's .json, .model or .gguf file."""
    sample: SampleOptions = field(default_factory=lambda: SampleOptions(max_bytes=20_000_000))
    """How much of which source."""


def measure(config: MeasureConfig) -> int:
    """Measure how well a tokenizer fits your text: bytes per token, tokens per word, share of the vocabulary used.

    Examples:
      arriero tokenizer measure en=english.txt zh=chinese.txt --tokenizer tokenizer
      arriero tokenizer measure notes/ --tokenizer smollm2-135m-instruct --reference none
    """
    from arriero.train.tokenizer_run import measure_sources

    tokenizers = {config.tokenizer: _load(config.tokenizer)}
    rows = measure_sources(
        _sources(config.paths),
        _references(config.reference) | tokenizers,
        sample=config.sample,
        text=_text_options(config),
        bar=reading_bar,
    )
    if config.json:
        print_json({"measurements": [row.facts() for row in rows]})
    else:
        _show(rows)
    return 0


def _sources(paths: Sequence[str]) -> dict[str, list[Path]]:
    """Paths by source."""
    sources: dict[str, list[Path]] = {}
    for given in paths:
        named = None if Path(given).exists() else re.fullmatch(r"([\w.-]+)=(.+)", given)
        name, path = (named[1], named[2]) if named else (_UNNAMED, given)
        sources.setdefault(name, []).append(Path(path).expanduser())
    return sources


def _text_options(config: ReadConfig) -> "TextOptions":
    from arriero.train.text_files import TextOptions

    return TextOptions(format=config.format, field=config.field, split=config.split, separator=config.separator)


def _load(source: str) -> "Tokenizer":
    from arriero.model.source import resolve
    from arriero.tokenizer.load import load_tokenizer

    return load_tokenizer(resolve(source))


def _references(source: str) -> dict[str, "Tokenizer"]:
    """The reference by its name; nothing for `none`, and for `auto` where the default model is not here."""
    from arriero.model.choices import DEFAULT_MODEL

    if source == "none":
        return {}
    if source != "auto":
        return {source: _load(source)}
    try:
        return {DEFAULT_MODEL: _load(DEFAULT_MODEL)}
    except NotFoundError:
        return {}


def _show(rows: Sequence["Measurement"]) -> None:
    table = _table("source", "bytes", "words", "tokens", "bytes/token", "tokens/word", "vocabulary used", first=2)
    for row in rows:
        table.add_row(
            printable(row.source),
            printable(row.tokenizer),
            *(f"{count:,}" for count in (row.bytes, row.words, row.tokens)),
            f"{row.bytes_per_token:.3f}",
            f"{row.fertility:.3f}",
            f"{row.vocabulary_used:.1%} of {row.vocab_size:,}",
        )
    console().print(table, markup=False)
    for row in rows:
        if row.altered:
            warn(f"{row.tokenizer} does not give back {row.altered:,} parts of '{row.source}' as they were")


def _table(*columns: str, first: int = 1) -> Table:
    """A table with one column of text, or two: the second is the tokenizer."""
    table = Table(box=None, pad_edge=False)
    table.add_column(columns[0], overflow="fold")
    if first == 2:
        table.add_column("tokenizer", overflow="fold")
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table
