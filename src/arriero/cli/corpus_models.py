"""`arriero corpus train-lm` and `train-classifier`: the models that judge web pages."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from arriero.cli.bar import reading_bar
from arriero.cli.options import positional
from arriero.cli.output import note, print_json, printable
from arriero.common.errors import ArrieroError

if TYPE_CHECKING:
    from arriero.corpus.inputs import Input


@dataclass(frozen=True, kw_only=True)
class TrainLmConfig:
    """A reference, and where the model goes."""

    paths: tuple[Path, ...] = positional("TEXT")
    """The reference: files and folders of JSON Lines, Parquet or plain text, such as a corpus's folder of Wikipedia."""
    out: Path
    """The model's folder, which is new."""
    pieces: int = 65_536
    """Of the vocabulary; fewer if the text is too small for so many."""
    order: int = 5
    """n of the longest n-grams."""
    sample: Path | None = None
    """Documents such as those that will be judged, whose 30th and 60th percentile are the cutoffs between head, middle
    and tail; by default held-out ones of the reference, which is strict with web pages."""
    arpa: Path | None = None
    """Write the n-grams to this ARPA file too (.arpa or .arpa.gz), for KenLM and others."""
    json: bool = False
    """Print JSON for scripts."""


def train_lm(config: TrainLmConfig) -> int:
    """Train the language model that tells pages like the reference from others (CCNet's).

    The text may be larger than the memory; temporary files (in $TMPDIR) take some thirty times its size meanwhile.

    Examples:
      arriero corpus train-lm corpus/wikipedia --out models/wikipedia-lm
      arriero corpus train-lm corpus/wikipedia --out models/lm --sample corpus/commoncrawl --arpa wikipedia.arpa.gz
    """
    from arriero.corpus.train_lm import train_language_model

    _check_new(config.out)
    for name, least in (("pieces", 100), ("order", 1)):
        if getattr(config, name) < least:
            raise ArrieroError(f"--{name}: expected {least} or more, got {getattr(config, name)}")
    paths = (config.paths, None if config.sample is None else [config.sample])
    texts, sample = (None if given is None else read_documents(given) for given in paths)
    assert texts is not None
    model = train_language_model(texts, pieces=config.pieces, order=config.order, sample=sample, tell=note)
    model.save(config.out, config.arpa)
    size, grams = model.ngrams.vocab_size, [len(order.keys) for order in model.ngrams.orders]
    if config.json:
        print_json({"model": config.out, "pieces": size, "ngrams": grams, "cutoffs": model.cutoffs})
    else:
        low, high = model.cutoffs
        print(f"{size:,} pieces; n-grams: {', '.join(f'{n:,}' for n in grams)}")
        print(f"head below {low:,.0f}, tail from {high:,.0f}")
        print(printable(str(config.out)))
    return 0


@dataclass(frozen=True, kw_only=True)
class TrainClassifierConfig:
    """Examples of both kinds, and where the model goes."""

    positive: tuple[Path, ...]
    """Pages that shall be kept, such as those that Wikipedia refers to: JSON Lines, Parquet, text, or folders."""
    negative: tuple[Path, ...]
    """Random pages."""
    out: Path = positional("OUT")  # noqa: RUF009
    """The model's folder, which is new."""
    shortest: int = 1000
    """Characters under which a positive page is no example."""
    seed: int = 0
    """Of the order of the examples."""
    json: bool = False
    """Print JSON for scripts."""


def train_classifier(config: TrainClassifierConfig) -> int:
    """Train the linear classifier that tells pages like references from random ones (LLaMA, section 2.1).

    Every tenth page of each kind is held out, and tells how well it works.

    Examples:
      arriero corpus train-classifier models/references --positive references.jsonl --negative corpus/commoncrawl
    """
    from arriero.corpus.classifier import train_classifier as train

    _check_new(config.out)
    positive, negative = (read_documents(paths) for paths in (config.positive, config.negative))
    model = train(_long(positive, config.shortest), negative, config.seed)
    model.save(config.out)
    if config.json:
        print_json({"model": config.out, "auc": model.auc, "accuracy": model.accuracy})
    else:
        print(f"held-out pages: AUC {model.auc:.3f}, accuracy {model.accuracy:.3f}")
        print(printable(str(config.out)))
    return 0


def _long(texts: Iterable[str], shortest: int) -> Iterator[str]:
    """The texts of so many characters; how many have fewer is told."""
    short = 0
    for text in texts:
        if len(text) >= shortest:
            yield text
        else:
            short += 1
    if short:
        note(f"positive pages shorter than {shortest:,} characters, which are no examples (--shortest): {short:,}")


def read_documents(paths: Iterable[Path]) -> Iterator[str]:
    """The texts of files and folders, under a bar of bytes; broken lines are told, and passed over.

    Raises:
        NotFoundError: a path does not exist; at once, and not when the first text is asked for.
    """
    from arriero.corpus.inputs import find_inputs

    return _read(find_inputs(paths, whole_folders=False))


def _read(inputs: Sequence["Input"]) -> Iterator[str]:
    from arriero.corpus.books import read_book
    from arriero.corpus.jsonl import read_jsonl

    dropped = 0
    with reading_bar("Reading") as tell:
        done, total = 0, sum(entry.bytes for entry in inputs)
        for entry in inputs:
            plain = ".json" not in entry.name and entry.path.suffix != ".parquet"
            for document in read_book(entry.path, entry.name) if plain else read_jsonl(entry.path, entry.name):
                dropped += document.dropped is not None
                if not document.dropped:
                    yield document.text
            done += entry.bytes
            tell(done, total)
    if dropped:
        note(f"{dropped:,} documents could not be read, or are empty")


def _check_new(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ArrieroError(f"{out} exists already: choose another folder")
