"""Train LLaMA's kind of vocabulary with `tokenizers` (ours) and with `sentencepiece`, on the same text.

The text is real and on every machine: the sources of Python's standard library and of the installed packages, the
Python language reference, and with `--data` Shakespeare and the Chinese paragraphs of XQuAD. Each trainer has a process
of its own, which gives its peak memory. Fit is measured on held-out parts of the text, by the same encoder.

    python benchmarks/tokenizer_training.py [--megabytes 20] [--vocab-size 32000] [--repeats 3] [--data FOLDER] [--json]
"""

import argparse
import io
import json
import multiprocessing
import os
import platform
import re
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import sentencepiece
import tokenizers
from figures import Figure, as_json, beside

from arriero.tokenizer.bpe_options import BpeOptions
from arriero.tokenizer.load import load_tokenizer
from arriero.tokenizer.measure import measure
from arriero.tokenizer.sample import SampleOptions, draw
from arriero.tokenizer.train import train_bpe


def main() -> None:
    """Run every case and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts")
    parser.add_argument("--data", type=Path, help="folder with tinyshakespeare.txt and xquad.zh.json")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    sources = {"code": _code(), "reference": iter(topics.values())} | _data(given.data)
    share = {name: 0.85 if name == "code" else 0.15 / (len(sources) - 1) for name in sources}
    drawn = draw(sources, SampleOptions(max_bytes=int(given.megabytes * 1e6), share=share))
    texts = [text for source in drawn for text in source.texts()]
    size = sum(source.training_bytes for source in drawn)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, train in (("tokenizers", _train_ours), ("sentencepiece", _train_sentencepiece)):
            path = Path(folder) / name
            path.mkdir()
            (path / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
            runs = [_in_own_process(train, given.vocab_size, path) for _ in range(given.repeats)]
            facts = min(runs, key=lambda run: run["seconds"])
            tokenizer = load_tokenizer(path)
            for source in drawn:
                held_out = [unit.decode() for unit in source.to_measure]
                found = measure(tokenizer, held_out, source=source.name, name=name)
                facts[f"bytes/token {source.name}"] = round(found.bytes_per_token, 3)
            rows.append({"trainer": name} | facts)
    machine = f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}"
    versions = f"tokenizers {tokenizers.__version__}, sentencepiece {sentencepiece.__version__}"
    if given.json:
        print(
            json.dumps(
                {"machine": machine, "versions": versions, "bytes": size, "rows": rows, "targets": as_json(judge(rows))}
            )
        )
        return
    print(f"{size / 1e6:.1f} MB, a vocabulary of {given.vocab_size:,}; {machine}, {versions}")
    print("\n| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(map(str, row.values())) + " |")


def judge(rows: list[dict[str, Any]]) -> list[Figure]:
    """Time, memory and fit beside the peer's."""
    ours, theirs = rows
    peer, memory = theirs["trainer"], "peak MB beyond the text"
    fits = [name for name in ours if name.startswith("bytes/token ")]
    return [
        beside(
            "a vocabulary trained: sentencepiece's time ÷ ours",
            ours["seconds"],
            theirs["seconds"],
            peer,
            "s",
            value=theirs["seconds"] / ours["seconds"],
        ),
        beside("memory beyond the text ÷ sentencepiece's", ours[memory], theirs[memory], peer, "MB"),
        *(beside(f"{name} ÷ sentencepiece's", ours[name], theirs[name], peer, "bytes/token") for name in fits),
    ]


def _code() -> Iterator[str]:
    """Sources of the standard library and of the installed packages, in the order of their names."""
    for root in dict.fromkeys((sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))):
        for file in sorted(Path(root).rglob("*.py")):
            yield file.read_bytes().decode("utf-8", "ignore")


def _data(folder: Path | None) -> dict[str, Iterator[str]]:
    if folder is None:
        return {}
    articles = json.loads((folder / "xquad.zh.json").read_text("utf-8"))["data"]
    chinese = (paragraph["context"] for article in articles for paragraph in article["paragraphs"])
    return {"shakespeare": iter([(folder / "tinyshakespeare.txt").read_text("utf-8")]), "chinese": chinese}


def _train_ours(texts: list[str], vocab_size: int, folder: Path) -> None:
    train_bpe(texts, BpeOptions(vocab_size=vocab_size)).tokenizer().save(folder)


def _train_sentencepiece(texts: list[str], vocab_size: int, folder: Path) -> None:
    """With LLaMA's settings; its sentences are lines."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=(line for text in texts for line in text.splitlines() if line),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        character_coverage=BpeOptions().character_coverage,
        num_threads=os.cpu_count(),
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())


def _in_own_process(train: Any, vocab_size: int, folder: Path) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    child = context.Process(target=_timed, args=(results, train, vocab_size, folder))
    child.start()
    facts = results.get()
    child.join()
    return dict(facts)


def _timed(results: Any, train: Any, vocab_size: int, folder: Path) -> None:
    with (folder / "texts.jsonl").open() as file:
        texts = [json.loads(line) for line in file]
    before, began = _memory("VmRSS"), time.monotonic()
    train(texts, vocab_size, folder)
    seconds = time.monotonic() - began
    results.put({"seconds": round(seconds, 1), "peak MB beyond the text": round(_memory("VmHWM") - before)})


def _memory(which: str) -> float:
    """Megabytes that the process holds (`VmRSS`), or held at most (`VmHWM`); Linux only.

    `getrusage` would do, did it not count what the parent held when the process was made.
    """
    line = re.search(rf"{which}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert line
    return int(line[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
