"""Weights in 8 and 4 bits beside full precision, and beside llama.cpp's files: perplexity, divergence, memory.

Two models: SmolLM2, whose file holds 4 and 8 bits (Q4_1, Q8_0) already, so that int4 should change nothing but how
products are rounded; and one of 13 million parameters whose weights were never rounded, trained here for `--steps` on
the first 90% of tinyshakespeare.txt as `tinyshakespeare.py` does. They predict the contexts of xquad.en.json and the
rest of Shakespeare, in windows of `--tokens` without overlap. "compiled" products round their inputs to 15 bits
(llama.cpp: to 8), PyTorch's do not. With `--peer-python`, an interpreter that has llama-cpp-python, llama.cpp scores
the same windows; of the second model it makes its files itself.

    python benchmarks/packed.py --data FOLDER [--keep FOLDER] [--steps 300] [--peer-python PYTHON] [--json]
"""

import argparse
import json
import math
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from figures import Figure, as_json, beside
from tinyshakespeare import TRAINING_SHARE, documents, settings

from arriero.common.machine import machine_line
from arriero.kernels.native.build import why_not_native
from arriero.model.choices import DEFAULT_MODEL
from arriero.model.formats.gguf_export import save_gguf
from arriero.model.packed import model_bytes
from arriero.model.source import LoadedModel, load_model, resolve
from arriero.model.transformer import Llama
from arriero.tokenizer.bpe_options import BpeOptions
from arriero.tokenizer.load import load_tokenizer
from arriero.train.drift import compare
from arriero.train.evaluate import Document, DocumentSource
from arriero.train.pretrain import pretrain
from arriero.train.run_folder import RunFolder
from arriero.train.tokenize import ShardOptions, tokenize_files
from arriero.train.tokenizer_run import train_to_folder
from arriero.train.windows import document_windows

SHAKESPEARE = "13M, Shakespeare"
PEER_TYPES = {"Q8_0": 7, "Q4_1": 3}
"""llama.cpp's `llama_ftype`s."""
QUANTISE = """
import sys, llama_cpp
source, target, kind = sys.argv[1:]
settings = llama_cpp.llama_model_quantize_default_params()
settings.ftype = int(kind)
sys.exit(llama_cpp.llama_model_quantize(source.encode(), target.encode(), settings))
"""


def main() -> None:
    """Measure, print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with tinyshakespeare.txt and xquad.en.json")
    parser.add_argument("--keep", type=Path, help="keep the trained model here, and take the one that is there")
    parser.add_argument("--steps", type=int, default=300, help="of training (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=256, help="of a window (default: %(default)s)")
    parser.add_argument("--windows", type=int, default=40, help="of each text (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--peer-python", help="an interpreter with llama-cpp-python")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        rows = list(measure(options, Path(folder)))
    machine = f"{machine_line(torch.device('cpu'))}, {options.threads} threads, float32"
    if options.json:
        print(json.dumps({"machine": machine, "rows": rows, "targets": as_json(judge(rows))}, indent=2))
    else:
        print(f"{machine}; {options.windows} windows of {options.tokens} tokens\n")
        print_table(rows)


def judge(rows: Sequence[dict[str, Any]]) -> list[Figure]:
    """Perplexities of compiled products beside full precision, and beside llama.cpp's four bits of the same model."""
    made = []
    peers = {row["model"]: row["perplexity"][0] for row in rows if row["weights"] == "llama.cpp, Q4_1"}
    for row in (row for row in rows if row["weights"].endswith("compiled")):
        full, packed = row["perplexity"]
        name = f"{row['model']}, {row['weights'].partition(',')[0]}: perplexity ÷"
        made.append(beside(f"{name} full precision", packed, full, "full precision", ""))
        if row["model"] in peers and "int4" in row["weights"]:
            made.append(beside(f"{name} llama.cpp's Q4_1", packed, peers[row["model"]], "llama.cpp", ""))
    return made


def measure(options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """A row for each model, kind of weights and way of products."""
    articles = json.loads((options.data / "xquad.en.json").read_text("utf-8"))["data"]
    contexts = "\n\n".join(each["context"] for article in articles for each in article["paragraphs"])
    plays = (options.data / "tinyshakespeare.txt").read_text("utf-8")
    cut = int(TRAINING_SHARE * len(plays))
    trained = trained_model(plays[:cut], options.keep or folder / "keep", options)
    for name, source, text in ((DEFAULT_MODEL, DEFAULT_MODEL, contexts), (SHAKESPEARE, str(trained), plays[cut:])):
        full = load_model(source, device="cpu", dtype="float32")
        ids = full.tokenizer.encode(text, bos=False, eos=False)[: options.tokens * options.windows + 1]
        if len(ids) <= options.tokens * options.windows:
            raise SystemExit(f"{name}: the text has {len(ids)} tokens: fewer --windows or --tokens")
        yield from drifts(name, source, full.model, ids, options.tokens)
        if options.peer_python:
            yield from peers(name, full, ids, folder, options)


def trained_model(text: str, keep: Path, options: argparse.Namespace) -> Path:
    """A folder with a model of the text, trained now unless it is there."""
    model = RunFolder(keep / "run").model
    if model.is_dir():
        return model
    keep.mkdir(parents=True, exist_ok=True)
    training = keep / "training.jsonl"
    training.write_text("".join(json.dumps({"text": part}) + "\n" for part in documents(text)), "utf-8")
    train_to_folder({"plays": [training]}, keep / "tokenizer", BpeOptions(vocab_size=2048))
    shards = keep / "shards"
    for to in (shards, shards / "validation"):  # it is measured on other text, below
        tokenize_files([training], load_tokenizer(keep / "tokenizer"), to, ShardOptions(source="plays", eos=False))
    recipe = settings(shards, argparse.Namespace(steps=options.steps, rows=4, tokens=256, lr=1e-3, weight_decay=0.3))
    pretrain(keep / "run", replace(recipe, data=replace(recipe.data, validation_rows=4)))
    return model


def drifts(name: str, source: str, full: Llama, ids: Sequence[int], tokens: int) -> Iterator[dict[str, Any]]:
    """Packed weights of both kinds, by compiled products where there are any and by PyTorch's."""
    ways = {"compiled": why_not_native(), "PyTorch": "asked for PyTorch"}
    for weights in ("int8", "int4"):
        packed = load_model(source, device="cpu", dtype="float32", weights=weights).model
        for way, reason in ways.items():
            if way == "compiled" and reason is not None:
                continue
            with patch("arriero.model.packed.why_not_native", lambda reason=reason: reason):
                text = DocumentSource(name=name, documents=[Document(ids, 0, 1)], size=1)
                drift = compare(full, packed, text, context=tokens, stride=tokens, batch_tokens=4 * tokens)
            yield {
                "model": name,
                "weights": f"{weights}, {way}",
                "mb": [size / 1e6 for size in (model_bytes(full), model_bytes(packed))],
                "perplexity": [drift.full.perplexity, drift.packed.perplexity],
                "ratio": drift.ratio,
                "kl": drift.mean_kl,
                "agreement": drift.agreement,
            }


def peers(
    name: str, full: LoadedModel, ids: Sequence[int], folder: Path, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """llama.cpp's files of the same model on the same windows."""
    if name == DEFAULT_MODEL:
        files = {"Q4_1": resolve(DEFAULT_MODEL)}
    else:
        files = {"F16": folder / "model-F16.gguf"}
        save_gguf(full.model, full.tokenizer, files["F16"], kind="f16")
        for kind, number in PEER_TYPES.items():
            files[kind] = folder / f"model-{kind}.gguf"
            command = [options.peer_python, "-c", QUANTISE, files["F16"], files[kind], str(number)]
            subprocess.run(command, check=True, capture_output=True)
    windows = [list(window.ids) for window in document_windows(ids, options.tokens, options.tokens)]
    for kind, file in files.items():
        command = [options.peer_python, Path(__file__).parent / "serve_llama.py", file, "--threads", options.threads]
        asked = json.dumps({"work": "score", "windows": windows}) + "\n"
        told = subprocess.run(list(map(str, command)), input=asked, check=True, capture_output=True, text=True).stdout
        perplexity = math.exp(json.loads(told)["nll"] / (len(ids) - 1))
        yield {
            "model": name,
            "weights": f"llama.cpp, {kind}",
            "mb": [file.stat().st_size / 1e6],
            "perplexity": [perplexity],
        }


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """The rows as a Markdown table; memory, and of llama.cpp its file."""
    print("| model | weights | MB (full) | perplexity (full) | ratio | KL, nats a token | same likeliest token |")
    print("|---|---|---|---|---|---|---|")
    base: dict[str, float] = {}
    for row in rows:
        if "kl" in row:
            base[row["model"]] = row["perplexity"][0]
            mb = f"{row['mb'][1]:.1f} ({row['mb'][0]:.1f})"
            perplexity = f"{row['perplexity'][1]:.3f} ({row['perplexity'][0]:.3f})"
            rest = f"{row['ratio']:.4f} | {row['kl']:.5f} | {row['agreement']:.2%}"
        else:
            mb, perplexity = f"{row['mb'][0]:.1f}", f"{row['perplexity'][0]:.3f}"
            rest = f"{row['perplexity'][0] / base[row['model']]:.4f} | – | –"
        print(f"| {row['model']} | {row['weights']} | {mb} | {perplexity} | {rest} |")


if __name__ == "__main__":
    main()
