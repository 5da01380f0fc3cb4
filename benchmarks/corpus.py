"""The corpus: MB/s per core of each kind of source and of each step; web rules beside datatrove's own; MinHash.

The sources are real dumps of `$ARRIERO_DATA/corpus`, and what every machine has: the standard library as code and as
pages. Web rules (language, C4's rules, repeated lines) run in one process on the same documents, datatrove's steps with
the same language model, and with a light splitter of sentences in the place of spaCy's, which takes ten times as long.

    pip install "xxhash<4" datasketch    # datatrove's own hash, and one more peer; it works without them
    python benchmarks/corpus.py [--megabytes 8] [--repeats 3] [--json]
"""

import argparse
import html
import inspect
import json
import os
import pydoc_data.topics
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from figures import Figure, as_json, beside, exit_if_missed
from loguru import logger

from arriero.common.machine import machine_facts, machine_line
from arriero.corpus.books import clean_book, read_book
from arriero.corpus.c4 import c4_rules
from arriero.corpus.classifier import area_under_curve, train_classifier
from arriero.corpus.dedup import CorpusStep
from arriero.corpus.document import Document, Step
from arriero.corpus.inputs import find_inputs
from arriero.corpus.language import Language
from arriero.corpus.near_duplicates import NearDuplicates
from arriero.corpus.paragraphs import RepeatedParagraphs
from arriero.corpus.recipes import WHOLE_FOLDERS, build_recipe
from arriero.corpus.sentences import count_sentences
from arriero.corpus.source import SourceConfig
from arriero.corpus.train_lm import train_language_model
from arriero.model.source import LANGUAGES, resolve

DATA = Path(os.environ.get("ARRIERO_DATA") or Path(__file__).parents[2] / "shared" / "data") / "corpus"
TARGET = 2.0
"""Our web rules over datatrove's."""


def main() -> None:
    """Measure, print tables or JSON; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=8, help="text of the web rules (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    logger.disable("datatrove")
    with tempfile.TemporaryDirectory() as folder:
        results = {
            "sources": measure_sources(Path(folder)),
            "web_rules": measure_web_rules(web_documents(int(options.megabytes * 1e6)), options.repeats, Path(folder)),
            "minhash": measure_minhash(options.repeats),
            "auc": measure_quality(),
        }
    figures = judge(results)
    if options.json:
        facts = {"machine": machine_facts(torch.device("cpu")), **results, "targets": as_json(figures)}
        print(json.dumps(facts, indent=2))
    else:
        print_tables(results, figures)
    exit_if_missed(figures)


def judge(results: dict[str, Any]) -> list[Figure]:
    """Our rates beside the peers'."""
    rules, hashes = results["web_rules"], results["minhash"]
    peers = [name for name in hashes if name != "arriero"]
    return [
        beside("web rules ÷ datatrove's", rules["arriero"], rules["datatrove"], "datatrove", "MB/s", least=TARGET),
        *(beside(f"MinHash ÷ {peer}'s", hashes["arriero"], hashes[peer], peer, "MB/s") for peer in peers),
    ]


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and seconds of the processor."""
    started = time.process_time()
    made = work()
    return made, time.process_time() - started


def measure_sources(folder: Path) -> dict[str, dict[str, Any]]:
    """By kind: MB of raw input, MB/s of all, and seconds of each step."""
    pages = folder / "pages"
    pages.mkdir()
    for name, text in pydoc_data.topics.topics.items():
        (pages / f"{name}.html").write_text(as_page(name, text), encoding="utf-8")
    kinds: dict[str, Path] = {
        "commoncrawl": write_warc(folder / "pages.warc", pydoc_data.topics.topics),
        "c4": pages,
        "github": Path(sysconfig.get_path("stdlib")) / "asyncio",
        "wikipedia": DATA / "wikipedia",
        "books": DATA / "books",
        "arxiv": DATA / "arxiv" / "hott",
        "stackexchange": DATA / "stackexchange",
    }
    results = {}
    for kind, path in kinds.items():
        licences = () if kind == "github" else SourceConfig.licences
        source = SourceConfig(kind=kind, paths=(path,), licences=licences)  # type: ignore[arg-type]
        measure_source(source, folder)  # the first time tables are made and models opened
        results[kind] = measure_source(source, folder)
    return results


def measure_source(source: SourceConfig, folder: Path) -> dict[str, Any]:
    """One source, step by step, in this process."""
    recipe = build_recipe(source)
    inputs = find_inputs(source.paths, whole_folders=source.kind in WHOLE_FOLDERS)
    size = sum(entry.bytes for entry in inputs)
    documents, seconds = timed(lambda: [d for entry in inputs for d in recipe.read(entry.path, entry.name)])
    shares = {"reading": seconds}
    for step in recipe.steps:
        documents, seconds = timed(lambda step=step, documents=documents: apply(step, documents, folder))
        shares[step.name] = seconds
    total = sum(shares.values())
    kept = sum(not document.dropped for document in documents)
    return {"megabytes": size / 1e6, "rate": size / 1e6 / total, "documents": kept, "seconds": shares}


def apply(step: Step | CorpusStep, documents: Sequence[Document], folder: Path) -> list[Document]:
    """The documents after a step, corpus-wide or not."""
    if not isinstance(step, CorpusStep):
        return list(step(documents))
    collector = step.collector()
    for document in documents:
        if not document.dropped:
            collector.add(document)
    collector.save(folder / "keys")
    step.resolve([folder / "keys"], folder / "verdict")
    return list(step.step(folder / "verdict")(documents))


def as_page(title: str, text: str) -> str:
    paragraphs = "".join(f"<p>{html.escape(part)}</p>\n" for part in text.split("\n\n"))
    menu = "".join(f'<li><a href="/{name}">{name}</a></li>' for name in ("home", "index", "modules", "about"))
    head = f"<head><title>{html.escape(title)}</title></head>"
    return f"<html>{head}<body><ul>{menu}</ul><main><h1>{html.escape(title)}</h1>{paragraphs}</main></body></html>"


def write_warc(path: Path, topics: dict[str, str]) -> Path:
    with path.open("wb") as file:
        for name, text in topics.items():
            http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + as_page(name, text).encode()
            head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://x/{name}\r\n"
            head += f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
            file.write(head.encode() + http + b"\r\n\r\n")
    return path


def web_documents(size: int) -> list[Document]:
    """Pages of English text: docstrings and topics of the standard library, each with a menu that repeats."""
    texts: list[str] = list(pydoc_data.topics.topics.values())
    for name in sorted(sys.stdlib_module_names):
        module = sys.modules.get(name)
        if module is not None:
            members = inspect.getmembers(module)
            texts += [doc for _, member in members if (doc := inspect.getdoc(member)) and len(doc) > 500]
    documents, total, number = [], 0, 0
    while total < size:
        lines = " ".join(texts[number % len(texts)].split()).replace(". ", f" {number}.\n").split("\n")
        text = "\n".join([f"Page {number}", "Home | About | Contact", *lines, "All rights are reserved by the owners."])
        documents.append(Document(id=f"x#{number}", text=text, origin="o"))
        total += len(text)
        number += 1
    return documents


def measure_web_rules(documents: list[Document], repeats: int, folder: Path) -> dict[str, float]:
    """MB/s of language, C4's rules and repeated lines, by each side in turn."""
    size = sum(len(document.text) for document in documents) / 1e6
    steps: list[Step | CorpusStep] = [Language(("en",)), c4_rules("paper"), RepeatedParagraphs("c4-code")]
    seconds: dict[str, list[float]] = {"arriero": [], "datatrove": []}
    for step in steps:
        seconds[f"arriero: {step.name}"] = []
    for repeat in range(repeats):
        made: Iterable[Document] = documents
        spent = 0.0
        for step in steps:
            made, took = timed(lambda step=step, made=made: apply(step, list(made), folder))
            seconds[f"arriero: {step.name}"].append(took)
            spent += took
        seconds["arriero"].append(spent)
        for name, took in by_datatrove(documents, folder / f"theirs-{repeat}").items():
            seconds.setdefault(name, []).append(took)
    return {name: size / statistics.median(values) for name, values in seconds.items()}


def by_datatrove(documents: Sequence[Document], folder: Path) -> dict[str, float]:
    """Seconds of datatrove's own steps, the same ones."""
    from datatrove.data import Document as Theirs
    from datatrove.pipeline.dedup.sentence_dedup import (
        SentDedupConfig,
        SentenceDedupFilter,
        SentenceDedupSignature,
        SentenceFindDedups,
    )
    from datatrove.pipeline.filters import c4_filters
    from datatrove.utils import lid, word_tokenizers
    from datatrove.utils.hashing import HashConfig

    class Light(word_tokenizers.WordTokenizer):  # type: ignore[misc]
        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

        def sent_tokenize(self, text: str) -> list[str]:
            return [text] * count_sentences(text)

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return [(0, len(text))]

    from datatrove.pipeline.dedup import sentence_dedup

    sentence_dedup.load_word_tokenizer = lambda language: Light()
    c4_filters.split_into_sentences = lambda text, language: Light().sent_tokenize(text)
    lid.cached_asset_path_or_download = lambda *given, **more: str(resolve(LANGUAGES))
    theirs = [Theirs(text=document.text, id=document.id) for document in documents]
    lid.check_required_dependencies = lambda *given: None  # it asks for another package of the same module
    identify = lid.FT176LID(["en"])
    identify.predict(theirs[0])
    seconds = {}

    def languages() -> list[Theirs]:
        kept = []
        for document in theirs:
            (language, score), _ = identify.predict(document)
            if language == "en" and score > 0.5:
                kept.append(document)
        return kept

    made, seconds["datatrove: language"] = timed(languages)
    rules = c4_filters.C4QualityFilter()
    made, seconds["datatrove: c4"] = timed(lambda: list(rules.run(iter(made))))
    hashed = HashConfig(hash_fc="xxhash" if find_spec("xxhash") else "sha1")
    config = SentDedupConfig(n_sentences=1, split_sentences=False, only_dedup_in_index=False, hash_config=hashed)
    config.min_doc_words = config.min_num_sentences = 0
    keys, found = str(folder / "keys"), str(folder / "found")

    def repeated() -> list[Theirs]:
        list(SentenceDedupSignature(keys, config=config).run(iter(made)) or ())
        list(SentenceFindDedups(keys, found, config=config).run() or ())
        return list(SentenceDedupFilter(found, config=config).run(iter(made)))

    _, seconds["datatrove: repeated lines"] = timed(repeated)
    return {"datatrove": sum(seconds.values()), **seconds}


def measure_minhash(repeats: int) -> dict[str, float]:
    """MB/s of signatures of books: ours from text to keys, rensa's and datasketch's of the same 5-grams made before."""
    import rensa

    text = (DATA / "books" / "1342.txt").read_text(encoding="ascii")
    size = len(text) / 1e6
    words = text.lower().split()
    grams = [" ".join(words[start : start + 5]) for start in range(len(words) - 4)]

    def ours() -> None:
        collector = NearDuplicates().collector()
        collector.add(Document(id="x", text=text, origin="o"))
        with tempfile.TemporaryDirectory() as folder:
            collector.save(Path(folder) / "keys")

    def rensas() -> None:
        made = [" ".join(words[start : start + 5]) for start in range(len(words) - 4)]
        signature = rensa.RMinHash(num_perm=128, seed=1)
        signature.update(made)
        signature.digest()

    sides = {"arriero": ours, "rensa": rensas}
    try:
        import datasketch
    except ModuleNotFoundError:
        pass
    else:

        def datasketchs() -> None:
            signature = datasketch.MinHash(num_perm=128)
            signature.update_batch([gram.encode() for gram in grams])

        sides["datasketch"] = datasketchs
    return {name: size / min(timed(work)[1] for _ in range(3 * repeats)) for name, work in sides.items()}


def measure_quality() -> dict[str, float]:
    """How well perplexity and classifier tell paragraphs of a novel from what three accidents make of them: ROC AUC.

    They are trained on the first half, and judge the second. A third each: the same words in disorder, a menu, and
    markup that is left over.
    """
    (book,) = clean_book()(read_book(DATA / "books" / "1342.txt", "x"))
    words = book.text.split()
    good = [" ".join(words[start : start + 120]) for start in range(0, len(words) - 120, 120)]
    random = Random(0)
    bad = []
    for number, text in enumerate(good):
        own = text.split()
        menu = ["Home", "Login", "Cart (0)", "Share", "Next »", "Terms", "Privacy", "Top 10", "$9.99", "Subscribe"]
        debris = " ".join(f"</{word[:3]}> {{{word}: {random.randrange(999)}px}};" for word in own)
        bad.append(
            (" ".join(random.sample(own, len(own))), " | ".join(random.choices(menu, k=100)), debris)[number % 3]
        )
    half = len(good) // 2
    model = train_language_model(good[:half], pieces=2000)
    classifier = train_classifier(good[:half], bad[:half])
    sides: dict[str, Callable[[str], float]] = {
        "perplexity": lambda text: -(model.perplexity(text) or 0.0),
        "classifier": classifier.probability,
    }
    return {
        name: area_under_curve(*(np.array([score(text) for text in texts[half:]]) for texts in (good, bad)))
        for name, score in sides.items()
    }


def print_tables(results: dict[str, Any], figures: Sequence[Figure]) -> None:
    """The results as Markdown."""
    print(f"{machine_line(torch.device('cpu'))}, one process, seconds of the processor\n")
    print("| source | MB | MB/s | documents | share of the time |\n|---|---|---|---|---|")
    for kind, row in results["sources"].items():
        total = sum(row["seconds"].values())
        long = {name: took / total for name, took in row["seconds"].items() if took >= 0.005 * total}
        shares = ", ".join(f"{name} {share:.0%}" for name, share in long.items())
        print(f"| {kind} | {row['megabytes']:.1f} | {row['rate']:.1f} | {row['documents']:,} | {shares} |")
    for title in ("web_rules", "minhash"):
        print(f"\n| {title.replace('_', ' ')} | MB/s |\n|---|---|")
        for name, rate in results[title].items():
            print(f"| {name} | {rate:.1f} |")
    print("\n| good text before bad | ROC AUC |\n|---|---|")
    for name, auc in results["auc"].items():
        print(f"| {name} | {auc:.3f} |")
    print("\n| ratio | |\n|---|---|")
    for figure in figures:
        print(f"| {figure.what} | {figure.value:.2f} |")


if __name__ == "__main__":
    main()
