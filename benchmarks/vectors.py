"""Embeddings of real text for `index.py`.

Passages of up to 40 words: XQuAD's paragraphs, then docstrings of what is installed here, speeches of Shakespeare and
answers to prompts, text by text in an order drawn by a seed. Queries: XQuAD's questions, and passages that are not in
the index.

    python benchmarks/vectors.py vectors.npz [--data ../shared/data] [--passages 15000] [--dtype bfloat16]
"""

import argparse
import ast
import gzip
import json
import os
import sysconfig
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import torch

from arriero.model.source import DEFAULT_ENCODER
from arriero.rag.encoder import load_encoder

ANSWERS = "demonstrations.jsonl.gz"
WORDS, FEWEST = 40, 12
HELD_OUT = 500


def main() -> None:
    """Encode and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("ARRIERO_DATA") or Path(__file__).parents[2] / "shared" / "data"
    parser.add_argument("out", type=Path, help="file to write (.npz)")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder of texts (default: %(default)s)")
    parser.add_argument("--passages", type=int, default=15_000, help="most passages (default: %(default)s)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the encoder's layers")
    options = parser.parse_args()
    encoder = load_encoder(DEFAULT_ENCODER, device="cpu")
    encoder.passage.network.transformer.to({"float32": torch.float32, "bfloat16": torch.bfloat16}[options.dtype])
    questions, paragraphs = read_xquad(options.data / "xquad.en.json")
    passages = dict.fromkeys(cut(paragraphs))
    for passage in cut(read_texts(options.data)):
        if len(passages) == options.passages + HELD_OUT:
            break
        passages[passage] = None
    chance = np.random.default_rng(0)
    listed = list(passages)
    texts = [listed[i] for i in chance.permutation(len(listed))]
    print(f"{len(texts)} passages, {sum(len(text.split()) for text in texts) / len(texts):.0f} words on average")
    start = time.perf_counter()
    vectors = encoder.encode_passages(texts)
    print(f"encoded in {time.perf_counter() - start:.0f} s ({options.dtype})")
    asked = encoder.encode_queries(questions)
    np.savez(options.out, base=vectors[:-HELD_OUT], held_out=vectors[-HELD_OUT:], questions=asked)


def read_xquad(path: Path) -> tuple[list[str], Iterator[str]]:
    """Questions and paragraphs."""
    paragraphs = [each for article in json.loads(path.read_text("utf-8"))["data"] for each in article["paragraphs"]]
    return [asked["question"] for each in paragraphs for asked in each["qas"]], (each["context"] for each in paragraphs)


def read_texts(data: Path) -> Iterator[str]:
    """Answers, a play's speeches, and docstrings of the standard library and of what is installed, in a drawn order."""
    answers = [json.loads(line) for line in gzip.decompress((data / ANSWERS).read_bytes()).decode().splitlines()]
    texts = [turn["content"] for row in answers for turn in row["messages"]]
    texts += (data / "tinyshakespeare.txt").read_text("utf-8").split("\n\n")
    roots = dict.fromkeys(sysconfig.get_paths()[key] for key in ("stdlib", "purelib"))
    places = [path for root in roots for path in sorted(Path(root).rglob("*.py"))]
    chance = Random(0)
    for item in chance.sample([*texts, *places], len(texts) + len(places)):
        if isinstance(item, str):
            yield item
        else:
            yield from docstrings(item)


def docstrings(path: Path) -> Iterator[str]:
    """Of a module, its classes and functions; none where it is no Python of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def cut(texts: Iterator[str]) -> Iterator[str]:
    """Passages of `WORDS` words, disjoint; a text's rest is one if it has `FEWEST`."""
    for text in texts:
        words = text.split()
        for start in range(0, len(words), WORDS):
            if len(part := words[start : start + WORDS]) >= FEWEST:
                yield " ".join(part)


if __name__ == "__main__":
    main()
