"""A model of 13 million parameters, trained from nothing on a megabyte of Shakespeare, beside 5-gram models.

The first 90% of the characters are for training, a tokenizer included, the rest for validation. What a user would do:
train a tokenizer, tokenize, pretrain, evaluate. The model must predict the rest better than 5-gram models with modified
Kneser-Ney smoothing do: one on the same tokens, one on characters. All are told per character, so that they compare.

The text for training is cut into scenes' worth of whole speeches, so that each epoch has them in another order. The
model's windows over the rest, which is one document, begin with half a context that is not scored.

    python benchmarks/tinyshakespeare.py --data FOLDER [--steps 1900] [--lr 1e-3] [--vocab-size 2048] [--json]
"""

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import Figure, as_json, beside, exit_if_missed
from kneser_ney import KneserNey

from arriero.common.machine import machine_facts, machine_line
from arriero.tokenizer.bpe_options import BpeOptions
from arriero.tokenizer.load import load_tokenizer
from arriero.tokenizer.tokenizer import Tokenizer
from arriero.train.evaluate import evaluate, text_source
from arriero.train.loop_config import LoopConfig
from arriero.train.optimizer_config import OptimizerConfig
from arriero.train.pretrain import pretrain
from arriero.train.pretrain_config import DataConfig, PretrainConfig
from arriero.train.schedule import ScheduleConfig
from arriero.train.tokenize import ShardOptions, tokenize_files
from arriero.train.tokenizer_run import train_to_folder
from arriero.train.trained import load_trained

TRAINING_SHARE = 0.9
DOCUMENT = 6000
"""Characters from which on a document ends with the speech."""
ORDER = 5
MINUTES_TARGET = 15.0


def main() -> None:
    """Train, measure, print a table or JSON; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with tinyshakespeare.txt")
    parser.add_argument("--steps", type=int, default=1900, help="steps of training (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=4, help="rows of a batch (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of a row (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak of the learning rate (default: %(default)s)")
    parser.add_argument("--weight-decay", type=float, default=0.3, help="of AdamW (default: %(default)s)")
    parser.add_argument("--vocab-size", type=int, default=2048, help="tokens of the vocabulary (default: %(default)s)")
    parser.add_argument("--run", type=Path, help="keep the run in this folder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    text = (options.data / "tinyshakespeare.txt").read_text("utf-8")
    with tempfile.TemporaryDirectory() as folder:
        results = train(text, Path(folder), options)
    figures = judge(results)
    if options.json:
        print(
            json.dumps(
                {"machine": machine_facts(torch.device("cpu")), **results, "targets": as_json(figures)}, indent=2
            )
        )
    else:
        print_table(results)
    exit_if_missed(figures)


def judge(results: dict[str, Any]) -> list[Figure]:
    """The model must be better than the n-grams, and made in a quarter of an hour."""
    made = [
        beside(f"nats a character ÷ {name}", results["model"], nats, name, "nats a character", most=1.0)
        for name, nats in results["ngrams"].items()
    ]
    return [*made, Figure(what="from text to model", value=results["minutes"], most=MINUTES_TARGET, unit="min")]


def train(text: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All steps from the text to the model, in `folder`, and what is measured of it."""
    cut = int(TRAINING_SHARE * len(text))
    training, rest = folder / "training.jsonl", folder / "validation.txt"
    training.write_text("".join(json.dumps({"text": part}) + "\n" for part in documents(text[:cut])), "utf-8")
    rest.write_text(text[cut:], "utf-8")
    began, cpu = time.monotonic(), _cpu_seconds()
    train_to_folder({"plays": [training]}, folder / "tokenizer", BpeOptions(vocab_size=options.vocab_size))
    tokenizer, shards = load_tokenizer(folder / "tokenizer"), folder / "shards"
    for paths, to in ((training, shards), (rest, shards / "validation")):
        tokenize_files([paths], tokenizer, to, ShardOptions(source="plays", eos=False))
    run = options.run or folder / "run"
    pretrain(run, settings(shards, options))
    minutes, cpu_minutes = (time.monotonic() - began) / 60, (_cpu_seconds() - cpu) / 60
    return {
        "model": nats_per_character(run, tokenizer, rest, options.tokens),
        "ngrams": ngrams(text[:cut], text[cut:], tokenizer),
        "minutes": minutes,
        "cpu_minutes": cpu_minutes,
        "vocab_size": options.vocab_size,
        "characters": [cut, len(text) - cut],
        **diary(run),
    }


def documents(text: str) -> Iterator[str]:
    """The text in pieces that end with a speech."""
    part = ""
    for speech in text.split("\n\n"):
        part += speech + "\n\n"
        if len(part) >= DOCUMENT:
            yield part
            part = ""
    yield part.rstrip("\n") + "\n"


def settings(shards: Path, options: argparse.Namespace) -> PretrainConfig:
    """How the model is trained."""
    return PretrainConfig(
        model="tiny-15m",
        data=DataConfig(shards=(shards,), rows=options.rows, tokens=options.tokens, validation_rows=1000),
        loop=LoopConfig(steps=options.steps, validate_every=-(-options.steps // 6), checkpoint_every=0),
        optim=OptimizerConfig(lr=options.lr, weight_decay=options.weight_decay, beta2=0.98),
        schedule=ScheduleConfig(warmup_steps=options.steps // 20, final_ratio=0.02),
        recompute="none",
        device="cpu",
        samples=("ROMEO:\n",),
    )


def nats_per_character(run: Path, tokenizer: Tokenizer, text: Path, context: int) -> float:
    """−log p of a text by a run's model, over the text's characters."""
    model = load_trained(str(run), device="cpu").model.eval()
    source = text_source("rest", [text], tokenizer, eos=False)
    found = evaluate(model, source, context=context, stride=context // 2)
    return found.nats / len(text.read_text("utf-8"))


def ngrams(training: str, rest: str, tokenizer: Tokenizer) -> dict[str, float]:
    """−log p of the rest by 5-gram models of the text for training, over the rest's characters."""
    letters = {letter: number for number, letter in enumerate(sorted({*training, *rest}))}
    spelled = [np.array([letters[letter] for letter in part]) for part in (training, rest)]
    encoded = [np.array(tokenizer.encode(part, bos=False)) for part in (training, rest)]
    found = {}
    for name, (known, new), size in (("tokens", encoded, tokenizer.vocab_size), ("characters", spelled, len(letters))):
        model = KneserNey(known, size, ORDER)
        assert math.isclose(model.distribution(new[: ORDER - 1]).sum(), 1.0)
        found[f"{ORDER}-gram of {name}"] = float(-model.log_probs(new).sum() / len(rest))
    return found


def diary(run: Path) -> dict[str, Any]:
    """What the run wrote down of itself."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    by_kind = {kind: [line for line in lines if line["kind"] == kind] for kind in ("start", "step", "validation")}
    return {
        "n_params": by_kind["start"][0]["n_params"],
        "steps": len(by_kind["step"]),
        "tokens": by_kind["step"][-1]["tokens"],
        "validations": [[line["step"], line["loss"]] for line in by_kind["validation"]],
    }


def print_table(results: dict[str, Any]) -> None:
    """The results as Markdown."""
    trained, held_out = results["characters"]
    print(
        f"{machine_line(torch.device('cpu'))}. {results['n_params'] / 1e6:.1f}M parameters, a vocabulary of "
        f"{results['vocab_size']:,}, {results['steps']:,} steps of {results['tokens'] // results['steps']:,} tokens, "
        f"{results['minutes']:.1f} minutes in all ({results['cpu_minutes']:.1f} of processors); trained on {trained:,} "
        f"characters, measured on the {held_out:,} behind them\n"
    )
    print("| | nats a character |\n|---|---|")
    for name, nats in {"arriero": results["model"], **results["ngrams"]}.items():
        print(f"| {name} | {nats:.4f} |")
    print("\n| step | validation loss, nats a token |\n|---|---|")
    for step, loss in results["validations"]:
        print(f"| {step:,} | {loss:.4f} |")


def _cpu_seconds() -> float:
    """Of this process and the children it has waited for."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    main()
