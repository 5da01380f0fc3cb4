"""`arriero tokenize`: documents to token shards."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.table import Table

from arriero.cli.bar import reading_bar
from arriero.cli.options import positional
from arriero.cli.output import console, print_json, printable

if TYPE_CHECKING:
    from arriero.train.tokenize import Tokenized


@dataclass(frozen=True, kw_only=True)
class TokenizeConfig:
    """What to tokenize, and how."""

    paths: tuple[Path, ...] = positional("PATH")
    """Files, folders with all that is in them, and patterns: .jsonl, .parquet, .txt, and their .gz, .zst, .bz2, .xz."""
    tokenizer: str
    """A known model's name, a folder, or a tokenizer's .json, .model or .gguf file."""
    out: Path
    """The folder for the shards: new, empty, or one that the same command began."""
    source: str | None = None
    """Name of the source in mixtures and reports; default: the folder's name."""
    format: Literal["auto", "jsonl", "parquet", "text"] = "auto"
    """Read every file as this; auto goes by the suffix, and passes over files of other kinds in folders."""
    field: str = "text"
    """The field of JSON objects, or the column of Parquet files, that holds the text."""
    split: Literal["none", "paragraphs", "lines"] = "none"
    """What is a document in a plain text file: all of it, each run of lines between blank ones, or each line."""
    separator: str | None = None
    """A line of plain text files that stands between documents, such as <|endoftext|>; instead of --split."""
    bos: bool | None = None
    """Begin each document with the beginning-of-sequence token, or not; default: as the tokenizer itself does."""
    eos: bool | None = None
    """End each document with the end-of-sequence token, or not; default: if the vocabulary has one."""
    validation_share: float = 0.0
    """Hold out this share of the documents in the folder `validation` beside the shards, chosen by a hash of each."""
    shard_tokens: int = 100_000_000
    """Most tokens of a shard; what a killed run loses is less than one."""
    workers: int | None = None
    """Processes; default: one for each core. The shards are the same for any number."""
    verify: bool = False
    """Check the shards that are finished against their checksums first."""
    json: bool = False
    """Print JSON for scripts."""


def tokenize(config: TokenizeConfig) -> int:
    """Turn documents into memory-mapped token shards, in parallel.

    A run that was stopped, even killed, goes on where its last finished shard ends when the same command is given
    again, and makes the same bytes as one that was not. A text never becomes a control token.

    Examples:
      arriero tokenize pages/*.jsonl.zst --tokenizer smollm2-135m-instruct --out shards/pages
      arriero tokenize books --tokenizer tokenizer.json --out shards/books --validation-share 0.01
    """
    from arriero.model.source import resolve
    from arriero.tokenizer.load import load_tokenizer
    from arriero.train.text_files import TextOptions
    from arriero.train.tokenize import ShardOptions, tokenize_files

    text = TextOptions(format=config.format, field=config.field, split=config.split, separator=config.separator)
    options = ShardOptions(
        source=config.source or config.out.resolve().name,
        bos=config.bos,
        eos=config.eos,
        shard_tokens=config.shard_tokens,
        validation_share=config.validation_share,
    )
    tokenizer = load_tokenizer(resolve(config.tokenizer))
    workers = _cores() if config.workers is None else config.workers
    with reading_bar("Tokenizing") as tell:
        made = tokenize_files(
            config.paths, tokenizer, config.out, options, text=text, workers=workers, verify=config.verify, tell=tell
        )
    _show(made, json=config.json)
    return 0


def _cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no such function
        return os.cpu_count() or 1


def _show(made: "Tokenized", *, json: bool) -> None:
    rows = []
    for name, manifest in (("training", made.training), ("validation", made.validation)):
        if manifest is None:
            continue
        rows.append(
            {
                "part": name,
                "documents": manifest.documents,
                "skipped": sum(shard.skipped for shard in manifest.shards),
                "tokens": manifest.tokens,
                "bytes": manifest.bytes,
                "bytes_per_token": manifest.bytes / manifest.tokens,
                "shards": len(manifest.shards),
            }
        )
    if json:
        parts = {row.pop("part"): row for row in rows}
        facts = {"folder": made.folder, "source": made.training.source, "kept_shards": made.kept}
        print_json(facts | {"seconds": made.seconds} | parts)
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("part")
    for column in ("documents", "empty", "tokens", "bytes", "bytes/token", "shards"):
        table.add_column(column, justify="right")
    for row in rows:
        cells = [f"{value:.3f}" if isinstance(value, float) else f"{value:,}" for value in list(row.values())[1:]]
        table.add_row(str(row["part"]), *cells)
    console().print(table, markup=False)
    kept = f", {made.kept} of the shards by an earlier run" if made.kept else ""
    print(f"{printable(str(made.folder))}: source '{printable(made.training.source)}', {made.seconds:.1f} s{kept}")
