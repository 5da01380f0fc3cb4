"""`arriero corpus run` and `stats`: from raw dumps to documents, and what became of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from rich.table import Table

from arriero.cli.options import positional
from arriero.cli.output import console, print_json, printable
from arriero.common.errors import ArrieroError, did_you_mean
from arriero.common.progress import byte_progress, progress
from arriero.corpus.executor_config import ExecutorConfig
from arriero.corpus.rows import RowFormat, read_texts
from arriero.corpus.source import Kind, SourceConfig

if TYPE_CHECKING:
    from arriero.corpus.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A corpus."""

    out: Path = positional("OUT")  # noqa: RUF009
    """The corpus's folder: new, or one to continue. It gets a folder for each source."""
    raw: dict[str, str] = field(default_factory=dict)
    """KIND=PATH: a source of this kind, by LLaMA's recipe; repeat the option. Kinds: commoncrawl, c4, github,
    wikipedia, books, arxiv, stackexchange, and files, for any folder of your own."""
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """Tables [sources.NAME] of the --config file: kind, paths, and the settings in docs/corpus.md."""
    format: RowFormat = "jsonl.zst"
    """Of the documents' files."""
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    json: bool = False
    """Print JSON for scripts."""


def run(config: RunConfig) -> int:
    """Turn raw dumps into clean, deduplicated documents with their provenance, ready for `arriero tokenize`.

    The same command goes on after a stop, even a kill, and the bytes do not depend on it, nor on the number of workers.

    Examples:
      arriero corpus run corpus --raw wikipedia=dumps/lvwiki-pages-articles.xml.bz2 --raw books=gutenberg
      arriero corpus run corpus --config corpus.toml --workers 8
    """
    from arriero.corpus.run import make_corpus

    ledgers = make_corpus(config.out, _sources(config), config.format, config.executor, _bar)
    if config.json:
        print_json({name: figures(ledger) for name, ledger in ledgers.items()})
    elif ledgers:
        show(ledgers)
        print(f"{printable(str(config.out))}: `arriero corpus stats` shows what was dropped, and why")
    else:
        print("the jobs are handed over; the same command with --executor local tells what came of them")
    return 0


def _sources(config: RunConfig) -> dict[str, SourceConfig]:
    sources = dict(config.sources)
    for kind, path in config.raw.items():
        if kind not in get_args(Kind):
            kinds = ", ".join(get_args(Kind))
            raise ArrieroError(f"--raw: expected one of {kinds}, got '{kind}'{did_you_mean(kind, get_args(Kind))}")
        if kind in sources:
            raise ArrieroError(f"--raw: the configuration has a source '{kind}' already")
        sources[kind] = SourceConfig(kind=kind, paths=(Path(path),))  # type: ignore[arg-type]
    return sources


@contextmanager
def _bar(source: str, stage: str, progress: Callable[[], tuple[int, int]]) -> Iterator[Callable[[], None]]:
    """A bar of bytes while files are read, of pieces later."""
    with byte_progress(f"{source}: {stage}", progress, of_bytes=stage == "read") as look:
        yield look


@dataclass(frozen=True, kw_only=True)
class StatsConfig:
    """Which corpus, and where the page goes."""

    out: Path = positional("OUT")  # noqa: RUF009
    """The corpus's folder."""
    tokenizer: str | None = None
    """Count tokens too, by this tokenizer: a known model's name, a folder, or a tokenizer's file."""
    page: Path | None = None
    """The HTML file; default: corpus.html in the corpus's folder."""
    json: bool = False
    """Print JSON for scripts."""


def stats(config: StatsConfig) -> int:
    """Show documents, bytes, words, tokens, languages and drops by source, and write them as one HTML page.

    The page shows documents before and after cleaning, and some of those that were dropped, by reason.

    Examples:
      arriero corpus stats corpus
      arriero corpus stats corpus --tokenizer smollm2-135m-instruct --page corpus.html
    """
    from arriero.common.files import atomic_file
    from arriero.corpus.run import read_ledgers
    from arriero.report.corpus import render_corpus

    ledgers = read_ledgers(config.out)
    target = config.page or config.out / "corpus.html"
    if target.is_dir():
        raise ArrieroError(f"--page: expected the name of a file, got the folder {target}")
    tokens = _count_tokens(config.out, ledgers, config.tokenizer) if config.tokenizer else {}
    page = render_corpus(config.out.resolve().name, ledgers, tokens, config.tokenizer)
    with atomic_file(target) as aside:
        aside.write_text(page, encoding="utf-8")
    if config.json:
        counted = {name: {"tokens": tokens[name]} if tokens else {} for name in ledgers}
        print_json({"page": target, "sources": {name: figures(x) | counted[name] for name, x in ledgers.items()}})
        return 0
    show(ledgers, tokens)
    show_drops(ledgers)
    print(printable(str(target)))
    return 0


def _count_tokens(out: Path, ledgers: "dict[str, Ledger]", name: str) -> dict[str, int]:
    from arriero.model.source import resolve
    from arriero.tokenizer.load import load_tokenizer

    tokenizer = load_tokenizer(resolve(name))
    counts = {}
    with progress("Counting tokens", sum(ledger.kept.documents for ledger in ledgers.values()), "documents") as tell:
        for source, ledger in ledgers.items():
            counts[source] = 0
            texts = read_texts(out / source) if ledger.kept.documents else iter(())
            while batch := list(islice(texts, 64)):
                counts[source] += sum(map(len, tokenizer.encode_batch(batch, bos=False, eos=False)))
                tell(len(batch))
    return counts


def figures(ledger: "Ledger") -> dict[str, object]:
    """An account in numbers, without the samples."""
    dropped = {reason: [amount.documents, amount.bytes] for reason, amount in sorted(ledger.dropped.items())}
    return {
        "read": {"documents": ledger.read.documents, "bytes": ledger.read.bytes},
        "kept": {"documents": ledger.kept.documents, "bytes": ledger.kept.bytes, "words": ledger.words},
        "dropped": dropped,
        "languages": ledger.languages,
        "licences": ledger.licences,
    }


def show(ledgers: "dict[str, Ledger]", tokens: dict[str, int] | None = None) -> None:
    """A line for each source."""
    table = Table(box=None, pad_edge=False)
    table.add_column("source")
    for column in ("read", "kept", "MB read", "MB kept", "words", *(["tokens"] if tokens else ())):
        table.add_column(column, justify="right")
    for name, ledger in ledgers.items():
        megabytes = [f"{amount.bytes / 1e6:,.1f}" for amount in (ledger.read, ledger.kept)]
        counts = [f"{ledger.words:,}", *([f"{tokens[name]:,}"] if tokens else ())]
        table.add_row(name, f"{ledger.read.documents:,}", f"{ledger.kept.documents:,}", *megabytes, *counts)
    console().print(table, markup=False)


def show_drops(ledgers: "dict[str, Ledger]") -> None:
    """A line for each reason of each source, the most frequent first; and the languages."""
    table = Table(box=None, pad_edge=False)
    table.add_column("source")
    table.add_column("dropped: why")
    for column in ("documents", "MB"):
        table.add_column(column, justify="right")
    for name, ledger in ledgers.items():
        for reason, amount in sorted(ledger.dropped.items(), key=lambda item: (-item[1].documents, item[0])):
            table.add_row(name, reason, f"{amount.documents:,}", f"{amount.bytes / 1e6:,.1f}")
    if table.row_count:
        print()
        console().print(table, markup=False)
    for name, ledger in ledgers.items():
        if ledger.languages:
            order = sorted(ledger.languages.items(), key=lambda item: (-item[1], item[0]))
            print(f"\n{name}: " + ", ".join(f"{printable(language)} {number:,}" for language, number in order))
