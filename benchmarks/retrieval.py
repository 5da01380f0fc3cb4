"""Retrieval measured: recall and MRR on XQuAD, against peers; encoding speed; how top scores tell what is answerable.

Every paragraph is one passage and every question looks for its own among all. Peers, where installed, get the same
texts: sentence-transformers with a bare FAISS index for dense search, rank-bm25 for BM25. The encoder by default knows
English only; the Chinese file shows what that means.

    python benchmarks/retrieval.py [--data ../shared/data] [--encoder FOLDER] [--repeats 3] [--threads 2] [--json]
"""

import argparse
import importlib.util
import json
import os
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from figures import Figure, as_json, beside
from numpy.typing import NDArray

from arriero.model.source import DEFAULT_ENCODER, resolve
from arriero.rag.answer_config import Mode
from arriero.rag.encoder import Encoder, load_encoder
from arriero.rag.live_index import LiveIndex
from arriero.rag.passage import Passage
from arriero.rag.search import MODES, find
from arriero.rag.store import FILE_NAME, DocumentRow, Store

CUTS = (1, 5, 20)
DEPTH = 100  # how deep a gold passage is looked for; below, its reciprocal rank counts as 0
SPEED_PASSAGES = 256
PEERS = {"dense": "sentence-transformers + faiss", "bm25": "rank-bm25"}
THRESHOLDS = (0.25, 0.30, 0.35, 0.40, 0.45)


@dataclass(frozen=True)
class Questions:
    """An XQuAD file: passages, and questions with the number of their passage and of their article."""

    passages: list[str]
    articles: list[int]
    """Article of each passage."""
    questions: list[str]
    gold: list[int]
    """Passage of each question."""


def main() -> None:
    """Measure and print tables, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("ARRIERO_DATA") or Path(__file__).parents[2] / "shared" / "data"
    parser.add_argument(
        "--data", type=Path, default=Path(default), help="folder of xquad.*.json (default: %(default)s)"
    )
    parser.add_argument("--encoder", default=DEFAULT_ENCODER, help="encoder's name or folder (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of speed (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = Path(options.encoder) if Path(options.encoder).is_dir() else resolve(options.encoder)
    encoder = load_encoder(folder, device="cpu")
    result: dict[str, Any] = {"machine": describe_machine(), "encoder": folder.name}
    for language in ("en", "zh"):
        asked = read_xquad(options.data / f"xquad.{language}.json")
        result[language] = measure_quality(encoder, folder, asked)
    result["scores"] = measure_scores(encoder, read_xquad(options.data / "xquad.en.json"))
    result["speed"] = measure_speed(encoder, folder, options.repeats)
    told = {**result, "targets": as_json(judge(result))}
    print(json.dumps(told, indent=2) if options.json else render(result))


def judge(result: dict[str, Any]) -> list[Figure]:
    """Ranks and speed beside the peers', where they are installed."""
    made = []
    for language, title in (("en", "English"), ("zh", "Chinese")):
        table = result[language]["table"]
        for ours, peer in PEERS.items():
            if peer in table and table[peer]["mrr"]:
                what = f"{title}, {ours}: MRR ÷ {peer}"
                made.append(beside(what, table[ours]["mrr"], table[peer]["mrr"], peer, ""))
    rates = result["speed"]["passages_per_s"]
    for peer in (name for name in rates if name != "arriero"):
        made.append(beside(f"encoding ÷ {peer}", rates["arriero"], rates[peer], peer, "passages/s"))
    return made


def read_xquad(path: Path) -> Questions:
    """Paragraphs and questions of a SQuAD-format file."""
    read = Questions([], [], [], [])
    for number, article in enumerate(json.loads(path.read_text(encoding="utf-8"))["data"]):
        for paragraph in article["paragraphs"]:
            read.passages.append(paragraph["context"])
            read.articles.append(number)
            for question in paragraph["qas"]:
                read.questions.append(question["question"])
                read.gold.append(len(read.passages) - 1)
    return read


def measure_quality(encoder: Encoder, folder: Path, asked: Questions) -> dict[str, Any]:
    """Recall and MRR of each mode and each peer; for dense ones also what share of the words the encoder knows."""
    passages, queries = encoder.encode_passages(asked.passages), encoder.encode_queries(asked.questions)
    table: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary, closing(Store.create(Path(temporary) / FILE_NAME)) as store:
        fill(store, asked.passages, passages)
        live = LiveIndex(store, Path(temporary) / "index.faiss", dim=encoder.dim)
        number_of = {id_: row for row, id_ in enumerate(store.passage_ids().tolist())}
        for mode in MODES:
            ranked, took = time_each(
                asked.questions, lambda row, mode=mode: rank(store, live, asked.questions[row], queries[row], mode)
            )
            table[mode] = {**score([[number_of[id_] for id_ in ids] for ids in ranked], asked.gold), "ms": took}
    for name, peer in (("sentence-transformers + faiss", peer_dense), ("rank-bm25", peer_bm25)):
        if (ranked_by_peer := peer(folder, asked)) is not None:
            table[name] = score(ranked_by_peer, asked.gold)
    unknown = unknown_share(folder, asked.questions)
    sizes = {"passages": len(asked.passages), "questions": len(asked.questions), "unknown_tokens": unknown}
    return {**sizes, "table": table}


def fill(store: Store, passages: Sequence[str], vectors: NDArray[np.float32]) -> None:
    """Each paragraph is a document of one passage."""
    with store.write():
        for number, text in enumerate(passages):
            name = f"paragraph {number}"
            cut = Passage(text, name, 0, len(text), None, None, None, 0)
            row = DocumentRow(
                name=name, location=None, content_hash="", chunking="", characters=len(text), metadata={}, given={}
            )
            store.replace(row, [cut], vectors[number : number + 1])


def rank(store: Store, live: LiveIndex, question: str, vector: NDArray[np.float32], mode: Mode) -> list[int]:
    """Passage ids, best first."""
    with store.read():
        hits = find(store, live.get(), question, vector, k=DEPTH, mode=mode)
    return [hit.passage_id for hit in hits]


def time_each(items: Sequence[object], work: Callable[[int], list[int]]) -> tuple[list[list[int]], float]:
    """The work of each item, and the median milliseconds it took."""
    results, times = [], []
    for row in range(len(items)):
        start = time.perf_counter()
        results.append(work(row))
        times.append(1000 * (time.perf_counter() - start))
    return results, statistics.median(times)


def score(ranked: Iterable[Sequence[int]], gold: Sequence[int]) -> dict[str, float]:
    """Recall at the cuts, and the mean reciprocal rank."""
    ranks = [
        list(order).index(right) + 1 if right in order else None for order, right in zip(ranked, gold, strict=True)
    ]
    recall = {f"recall@{cut}": sum(rank is not None and rank <= cut for rank in ranks) / len(ranks) for cut in CUTS}
    return {**recall, "mrr": sum(1 / rank for rank in ranks if rank is not None) / len(ranks)}


def peer_dense(folder: Path, asked: Questions) -> list[list[int]] | None:
    """sentence-transformers' vectors in a bare FAISS index."""
    if not has("sentence_transformers"):
        return None
    import faiss
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    index = faiss.IndexFlatIP(model.get_embedding_dimension())
    index.add(model.encode(asked.passages, show_progress_bar=False))
    _, found = index.search(model.encode(asked.questions, show_progress_bar=False), DEPTH)
    ranked: list[list[int]] = found.tolist()
    return ranked


def peer_bm25(_folder: Path, asked: Questions) -> list[list[int]] | None:
    """rank-bm25 over words, as its documentation shows it (lower case added)."""
    if not has("rank_bm25"):
        return None
    from rank_bm25 import BM25Okapi

    def words(text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())

    index = BM25Okapi([words(text) for text in asked.passages])
    orders = [np.argsort(-index.get_scores(words(question)), kind="stable") for question in asked.questions]
    return [order[:DEPTH].tolist() for order in orders]


def unknown_share(folder: Path, texts: Sequence[str]) -> float:
    """Share of the tokens that the encoder's vocabulary lacks ([UNK])."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = [token for row in tokenizer.encode_batch(list(texts), add_special_tokens=False) for token in row.tokens]
    return tokens.count("[UNK]") / len(tokens)


def measure_scores(encoder: Encoder, asked: Questions) -> dict[str, Any]:
    """Inner product of the best passage: the question's own article there, that article taken away, other subject."""
    passages, queries = encoder.encode_passages(asked.passages), encoder.encode_queries(asked.questions)
    reference = encoder.encode_passages(cut_words("".join(topics.values()))[:SPEED_PASSAGES])
    products = queries @ passages.T  # (Q, N)
    articles = np.array(asked.articles)
    foreign = articles[None, :] != articles[np.array(asked.gold)][:, None]  # (Q, N)
    best = {
        "answerable": products.max(axis=1),
        "own article absent": np.where(foreign, products, -1.0).max(axis=1),
        "unrelated (Python reference)": (queries @ reference.T).max(axis=1),
    }
    percentiles = {
        name: {str(p): float(np.percentile(values, p)) for p in (1, 5, 25, 50, 75, 95, 99)}
        for name, values in best.items()
    }
    below = {
        name: {f"{threshold:.2f}": float((values < threshold).mean()) for threshold in THRESHOLDS}
        for name, values in best.items()
    }
    return {"percentiles": percentiles, "share_below": below}


def measure_speed(encoder: Encoder, folder: Path, repeats: int) -> dict[str, Any]:
    """Passages a second on 100-word passages of the Python reference, in turns with sentence-transformers."""
    texts = cut_words("".join(topics.values()))[:SPEED_PASSAGES]
    sides: dict[str, Callable[[list[str]], Any]] = {"arriero": encoder.encode_passages}
    if has("sentence_transformers"):
        from sentence_transformers import SentenceTransformer

        peer = SentenceTransformer(str(folder), device="cpu")
        sides["sentence-transformers"] = lambda batch: peer.encode(batch, show_progress_bar=False)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for repeat in range(repeats + 1):
        for name, encode in sides.items():
            start = clock()
            encode(texts)
            if repeat:  # the first round warms up
                rates[name].append(len(texts) / (clock() - start))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    peer_rate = medians.get("sentence-transformers")
    return {
        "passages": len(texts),
        "passages_per_s": medians,
        "ratio": medians["arriero"] / peer_rate if peer_rate else None,
    }


def cut_words(text: str) -> list[str]:
    """Passages of 100 words, disjoint."""
    words = text.split()
    return [" ".join(words[start : start + 100]) for start in range(0, len(words), 100)]


def has(module: str) -> bool:
    """Whether a peer is installed."""
    return importlib.util.find_spec(module) is not None


def describe_machine() -> str:
    """What the figures depend on."""
    return f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def render(result: dict[str, Any]) -> str:
    """The tables."""
    lines = [f"{result['encoder']} on {result['machine']}"]
    columns = [f"recall@{cut}" for cut in CUTS] + ["mrr"]
    for language, note in (("en", "English"), ("zh", "Chinese, with an encoder that knows English only")):
        part = result[language]
        lines += [
            "",
            f"XQuAD {note}: {part['questions']} questions, {part['passages']} passages, "
            f"{part['unknown_tokens']:.1%} of the questions' tokens unknown to the encoder",
            f"{'':32}" + "".join(f"{column:>11}" for column in columns) + f"{'ms/query':>11}",
        ]
        for name, row in part["table"].items():
            took = f"{row['ms']:>11.2f}" if "ms" in row else ""
            lines.append(f"{name:32}" + "".join(f"{row[column]:>11.3f}" for column in columns) + took)
        for ours, peer in PEERS.items():
            if peer in part["table"] and part["table"][peer]["mrr"]:
                ratio = part["table"][ours]["mrr"] / part["table"][peer]["mrr"]
                lines.append(f"{f'{ours} / {peer}':32}{'':33}{ratio:>10.3f}×")
    lines += ["", "Inner product of the best passage, by percentile"]
    scores = result["scores"]
    heads = list(next(iter(scores["percentiles"].values())))
    lines.append(f"{'':32}" + "".join(f"{head:>8}" for head in heads))
    for name, values in scores["percentiles"].items():
        lines.append(f"{name:32}" + "".join(f"{value:>8.3f}" for value in values.values()))
    lines.append(f"{'share below':32}" + "".join(f"{threshold:>8.2f}" for threshold in THRESHOLDS))
    for name, values in scores["share_below"].items():
        lines.append(f"{name:32}" + "".join(f"{value:>8.1%}" for value in values.values()))
    speed = result["speed"]
    lines += ["", f"Encoding {speed['passages']} passages of 100 words"]
    lines += [f"{name:32}{rate:>8.1f} passages/s" for name, rate in speed["passages_per_s"].items()]
    lines += [f"{'ratio':32}{speed['ratio']:>8.2f}×"] if speed["ratio"] else []
    return "\n".join(lines)


if __name__ == "__main__":
    main()
