"""`arriero corpus train-lm` and `train-classifier`: the models that judge web pages."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from arriero.cli.options import positional
from arriero.cli.output import note, print_json, printable
from arriero.common.errors import ArrieroError
from arriero.common.progress import progress


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

    The whole text is held in memory, about ten times over: some hundred megabytes of text are plenty.

    Examples:
      arriero corpus train-lm corpus/wikipedia --out models/wikipedia-lm
      arriero corpus train-lm corpus/wikipedia --out models/lm --sample corpus/commoncrawl --arpa wikipedia.arpa.gz
    """
    from arriero.corpus.perplexity import train_language_model

    _check_new(config.out)
    for name, least in (("pieces", 100), ("order", 1)):
        if getattr(config, name) < least:
            raise ArrieroError(f"--{name}: expected {least} or more, got {getattr(config, name)}")
    sample = None if config.sample is None else read_documents([config.sample])
    texts = read_documents(config.paths)
    with progress("Training", total=3, unit="stages") as advance:

        def tell(what: str) -> None:
            note(what)
            advance(1)

        model = train_language_model(texts, pieces=config.pieces, order=config.order, sample=sample, tell=tell)
    model.save(config.out, config.arpa)
    grams = [len(order.keys) for order in model.ngrams.orders]
    if config.json:
        print_json({"model": config.out, "pieces": len(model.words()), "ngrams": grams, "cutoffs": model.cutoffs})
    else:
        low, high = model.cutoffs
        print(f"{len(model.words()):,} pieces; n-grams: {', '.join(f'{n:,}' for n in grams)}")
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
    positive = [text for text in read_documents(config.positive) if len(text) >= config.shortest]
    model = train(positive, list(read_documents(config.negative)), config.seed)
    model.save(config.out)
    if config.json:
        print_json({"model": config.out, "auc": model.auc, "accuracy": model.accuracy})
    else:
        print(f"held-out pages: AUC {model.auc:.3f}, accuracy {model.accuracy:.3f}")
        print(printable(str(config.out)))
    return 0


def read_documents(paths: Iterable[Path]) -> list[str]:
    """The texts of files and folders; broken lines are told, and passed over."""
    from arriero.corpus.books import read_book
    from arriero.corpus.inputs import find_inputs
    from arriero.corpus.jsonl import read_jsonl

    texts: list[str] = []
    dropped = 0
    for entry in find_inputs(paths, whole_folders=False):
        plain = ".json" not in entry.name and entry.path.suffix != ".parquet"
        for document in read_book(entry.path, entry.name) if plain else read_jsonl(entry.path, entry.name):
            dropped += document.dropped is not None
            if not document.dropped:
                texts.append(document.text)
    if dropped:
        note(f"{dropped:,} documents could not be read, or are empty")
    return texts


def _check_new(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ArrieroError(f"{out} exists already: choose another folder")
