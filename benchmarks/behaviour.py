"""Whether fine-tuning on 200 examples changes what a model does with prompts that it was not trained on.

What is taught is easy to count: brevity. Of each demonstration the answer is cut to its first sentence or two, at most
40 words. Left out are those whose cut is no answer (it leads to a list, holds code, ends in an initial) and those whose
prompt shares more than half of its words with an earlier one: no prompt that is measured, nor one like it, is trained
on or chooses the checkpoint. 40 are measured, 20 choose the checkpoint, 200 train a LoRA adapter with the defaults of
`arriero sft`.

Before and after, greedy answers of up to 120 tokens are counted: words; answers that end by themselves; those that do
so within 40 words. An answer that is stopped at 120 tokens counts with the words it has until then, too few. Beside it
stands the loss on the 40 prompts' own answers, cut and whole.

The control learns the whole answers to the first of the same prompts, as many as have the cut ones' supervised tokens,
in about as many steps: what it changes is the work of fine-tuning as such, not of short examples.

Changes are tested in pairs, prompt by prompt: an exact two-sided sign test, without the prompts where nothing changed.

    python benchmarks/behaviour.py --data demonstrations.jsonl.gz [--epochs 2] [--keep FOLDER] [--json]
"""

import argparse
import itertools
import json
import math
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from figures import Figure, as_json, exit_if_missed

from arriero.common.errors import ArrieroError
from arriero.common.machine import machine_line
from arriero.generate.engine import Engine, Request, SamplingConfig
from arriero.model.source import load_merged
from arriero.rag.evidence import sentence_spans
from arriero.tokenizer.chat import Message
from arriero.tokenizer.tokenizer import Tokenizer
from arriero.train.example_batches import lay_out
from arriero.train.examples import Example, read_examples
from arriero.train.sft import ADAPTER, sft
from arriero.train.sft_config import EpochsConfig, ExamplesConfig, SftConfig
from arriero.train.supervised import Supervised, encode_example

BASE = "smollm2-135m-instruct"
SENTENCES, LEAST_WORDS, MOST_WORDS, PROMPT_WORDS = 2, 8, 40, 100
ANSWER_TOKENS, BATCH = 120, 16
ALPHA = 0.01
"""A change counts as shown below this probability."""
ALIKE = 0.5
"""Prompts that share more of their words (the Jaccard index) are alike."""
_WORD = re.compile(r"\w+")
_INITIAL = re.compile(r"\b[A-Z]\.$")

Kind = Literal["cut", "whole"]


@dataclass(frozen=True)
class Demonstration:
    """A prompt and what a strong model answered, cut and whole."""

    prompt: str
    cut: str
    whole: str

    def example(self, kind: Kind) -> Example:
        """As a chat of two messages."""
        answer = self.cut if kind == "cut" else self.whole
        asked: Message = {"role": "user", "content": self.prompt}
        answered: Message = {"role": "assistant", "content": answer}
        return Example(messages=(asked, answered), text="", where=self.prompt[:40])


@dataclass(frozen=True)
class Answers:
    """What a model does with the held-out prompts, one entry a prompt."""

    texts: list[str]
    ended: list[bool]
    """By a stop token, not by the limit of tokens."""
    losses: dict[Kind, list[tuple[float, int]]]
    """Of the strong model's answers: the sum in nats, and the tokens that it is of."""

    def values(self) -> dict[str, list[float]]:
        """Each measure, prompt by prompt; losses a token."""
        words = [len(text.split()) for text in self.texts]
        values: dict[str, list[float]] = {
            "words": [float(count) for count in words],
            "ended": [float(ended) for ended in self.ended],
            "brief": [float(ended and count <= MOST_WORDS) for ended, count in zip(self.ended, words, strict=True)],
        }
        for kind, losses in self.losses.items():
            values[f"loss, {kind} answers"] = [total / count for total, count in losses]
        return values

    def summary(self) -> dict[str, float]:
        """The median of the words, the shares of answers, the mean loss of all tokens."""
        values = self.values()
        losses = {
            f"loss, {kind} answers": sum(total for total, _ in losses) / sum(count for _, count in losses)
            for kind, losses in self.losses.items()
        }
        shares = {name: statistics.mean(values[name]) for name in ("ended", "brief")}
        return {"words": statistics.median(values["words"]), **shares, **losses}


def main() -> None:
    """Train, measure, print tables or JSON; exit 1 if a change that short examples should bring is not shown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="chats of one question, in the format 'messages'")
    parser.add_argument("--examples", type=int, default=200, help="to train on (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=40, help="that are measured (default: %(default)s)")
    parser.add_argument("--validation", type=int, default=20, help="that choose a checkpoint (default: %(default)s)")
    parser.add_argument("--epochs", type=float, default=2.0, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the choice and of training (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--keep", type=Path, help="an empty folder to keep runs and answers in")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as aside:
        results = measure_all(options.keep or Path(aside), options)
    figures = judge(results)
    if options.json:
        print(json.dumps({**results, "targets": as_json(figures)}, indent=2))
    else:
        print_tables(results)
    exit_if_missed(figures)


def judge(results: dict[str, Any]) -> list[Figure]:
    """Chance alone must hardly explain what short examples should change."""
    tests = results["sides"][1]["tests"]
    names = {"words": "words of an answer", "ended": "answers that end", "brief": "answers of 40 words at most"}
    return [
        Figure(what=f"200 examples change {what}, p", value=tests[name]["p"], most=ALPHA)
        for name, what in names.items()
    ]


def measure_all(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The model before, after cut answers, and after whole ones."""
    measured, validation, training = choose(
        options.data, (options.prompts, options.validation, options.examples), options.seed
    )
    before = answer(None, measured)
    sides: list[dict[str, Any]] = [{"name": "before", "summary": before.summary(), "values": before.values()}]
    write_answers(folder / "before.jsonl", measured, before)
    tokenizer = load_merged(BASE, device="cpu", dtype="float32").tokenizer
    plans: list[tuple[Kind, Sequence[Demonstration], int]] = [("cut", training, BATCH)]
    fewer = of_equal_tokens(training, tokenizer)
    plans.append(("whole", fewer, max(1, round(BATCH * len(fewer) / len(training)))))
    for kind, demonstrations, batch in plans:
        began = time.perf_counter()
        run = folder / f"{kind}-answers"
        training_config = EpochsConfig(epochs=options.epochs, batch=batch)
        adapter = tune(run, demonstrations, validation, kind, training_config, options.seed)
        seconds = time.perf_counter() - began
        after = answer(adapter, measured)
        write_answers(folder / f"{kind}.jsonl", measured, after)
        supervised = sum(int(row.learnt.sum()) for row in rows_of(demonstrations, kind, tokenizer))
        facts = {"examples": len(demonstrations), "supervised": supervised, "seconds": seconds, **curve(run)}
        sides.append(
            {
                "name": f"after {kind} answers",
                "training": facts,
                "summary": after.summary(),
                "tests": paired_tests(before, after),
                "values": after.values(),
            }
        )
        print(f"{kind} answers: {sides[-1]['summary']}", file=sys.stderr)
    return {"machine": machine_line(torch.device("cpu")), "prompts": len(measured), "sides": sides}


def choose(data: Path, counts: Sequence[int], seed: int) -> list[list[Demonstration]]:
    """Demonstrations of as many disjoint sets, drawn at random; no two prompts are alike.

    Raises:
        ArrieroError: the file has fewer that can be cut.
    """
    found: list[Demonstration] = []
    asked: list[set[str]] = []
    for example in read_examples([data], "messages")[0]:
        prompt, whole = (message["content"].strip() for message in example.messages)
        cut, words = cut_answer(whole), set(_WORD.findall(prompt.casefold()))
        if cut is None or len(prompt.split()) > PROMPT_WORDS:
            continue
        if all(len(words & other) <= ALIKE * len(words | other) for other in asked):
            found.append(Demonstration(prompt, cut, whole))
            asked.append(words)
    if len(found) < sum(counts):
        raise ArrieroError(f"{data}: expected {sum(counts)} prompts with an answer that can be cut, got {len(found)}")
    drawn = random.Random(seed).sample(found, sum(counts))
    ends = list(itertools.accumulate(counts))
    return [drawn[end - count : end] for count, end in zip(counts, ends, strict=True)]


def cut_answer(text: str) -> str | None:
    """The first sentence or two, as many as have at most 40 words; None where that is no answer."""
    cut = None
    spans = sentence_spans(text)
    for _, end in spans[:SENTENCES]:
        beginning = text[spans[0][0] : end]
        if len(beginning.split()) > MOST_WORDS:
            break
        cut = beginning
    if cut is None or len(cut.split()) < LEAST_WORDS or "\n" in cut or "`" in cut:
        return None
    return cut if cut[-1] in '.!?"”' and not _INITIAL.search(cut) else None


def of_equal_tokens(demonstrations: Sequence[Demonstration], tokenizer: Tokenizer) -> list[Demonstration]:
    """The first of them, as many as have whole answers with no more tokens than all cut ones; at least one."""
    left = sum(int(row.learnt.sum()) for row in rows_of(demonstrations, "cut", tokenizer))
    taken = []
    for demonstration, row in zip(demonstrations, rows_of(demonstrations, "whole", tokenizer), strict=True):
        left -= int(row.learnt.sum())
        if left < 0:
            break
        taken.append(demonstration)
    return taken or list(demonstrations[:1])


def rows_of(demonstrations: Sequence[Demonstration], kind: Kind, tokenizer: Tokenizer) -> list[Supervised]:
    """The chats as tokens."""
    return [encode_example(demonstration.example(kind), tokenizer) for demonstration in demonstrations]


def tune(
    run: Path,
    training: Sequence[Demonstration],
    validation: Sequence[Demonstration],
    kind: Kind,
    epochs: EpochsConfig,
    seed: int = 0,
) -> Path:
    """`arriero sft` on the answers of a kind; the folder of the adapter with the lowest loss on `validation`."""
    run.mkdir(parents=True)
    files = run.with_name(f"{run.name}-training.jsonl"), run.with_name(f"{run.name}-validation.jsonl")
    for file, demonstrations in zip(files, (training, validation), strict=True):
        lines = [json.dumps({"messages": x.example(kind).messages}) for x in demonstrations]
        file.write_text("\n".join(lines) + "\n", "utf-8")
    examples = ExamplesConfig(data=(files[0],), eval_data=(files[1],))
    sft(run, SftConfig(model=BASE, examples=examples, training=epochs, device="cpu", seed=seed))
    return run / ADAPTER


def answer(adapter: Path | None, demonstrations: Sequence[Demonstration]) -> Answers:
    """The model's greedy answers to the prompts, and its loss on the demonstrations' own."""
    loaded = load_merged(BASE, adapter, device="cpu", dtype="float32")
    sampling = SamplingConfig(temperature=0.0, max_tokens=ANSWER_TOKENS)
    asked = [loaded.tokenizer.encode_chat([{"role": "user", "content": x.prompt}]) for x in demonstrations]
    requests = [Request(prompt_ids=ids, sampling=sampling) for ids in asked]
    completions = Engine(loaded.model, loaded.tokenizer, context=loaded.context).generate(requests)
    kinds: tuple[Kind, ...] = ("cut", "whole")
    losses: dict[Kind, list[tuple[float, int]]] = {kind: [] for kind in kinds}
    loaded.model.eval()
    for kind in kinds:
        for row in rows_of(demonstrations, kind, loaded.tokenizer):
            batch = lay_out([row])
            with torch.no_grad():
                total = loaded.model.loss(batch.tokens, batch.targets, documents=batch.documents)[0]
            losses[kind].append((float(total), int(row.learnt.sum())))
    return Answers(
        texts=[completion.text for completion in completions],
        ended=[completion.finish_reason == "stop" for completion in completions],
        losses=losses,
    )


def paired_tests(before: Answers, after: Answers) -> dict[str, dict[str, float]]:
    """For each measure, the prompts where it rose and where it fell, and how likely chance would part them so."""
    tests = {}
    own = after.values()
    for name, values in before.values().items():
        rose = sum(y > x for x, y in zip(values, own[name], strict=True))
        fell = sum(y < x for x, y in zip(values, own[name], strict=True))
        tests[name] = {"rose": rose, "fell": fell, "p": sign_test(rose, fell)}
    return tests


def sign_test(rose: int, fell: int) -> float:
    """Two-sided probability of a split at least as uneven, if rising and falling were equally likely."""
    changed = rose + fell
    tail: float = sum(math.comb(changed, k) for k in range(min(rose, fell) + 1)) / 2**changed
    return min(1.0, 2 * tail)


def curve(run: Path) -> dict[str, Any]:
    """A run's steps, and the loss on its validation examples at each evaluation."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    validation = [[line["step"], line["loss"]] for line in lines if line["kind"] == "validation"]
    return {"steps": sum(line["kind"] == "step" for line in lines), "validation": validation}


def write_answers(file: Path, demonstrations: Sequence[Demonstration], answers: Answers) -> None:
    """Prompts and answers, to be read by people."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pairs = zip(demonstrations, answers.texts, answers.ended, strict=True)
    lines = [json.dumps({**asdict(x), "answer": text, "ended": ended}) for x, text, ended in pairs]
    file.write_text("\n".join(lines) + "\n", "utf-8")


def print_tables(results: dict[str, Any]) -> None:
    """The results as Markdown."""
    sides = results["sides"]
    print(f"{results['machine']}; {results['prompts']} held-out prompts\n")
    print("| | " + " | ".join(side["name"] for side in sides) + " |")
    print("|---" * (len(sides) + 1) + "|")
    for name in sides[0]["summary"]:
        cells = [_number(name, side["summary"][name]) + _test(side.get("tests", {}).get(name)) for side in sides]
        print(f"| {name} | " + " | ".join(cells) + " |")
    for side in sides[1:]:
        facts = side["training"]
        losses = ", ".join(f"{loss:.3f} ({step})" for step, loss in facts["validation"])
        print(
            f"\n{side['name']}: {facts['examples']} examples, {facts['supervised']:,} supervised tokens, "
            f"{facts['steps']} steps, {facts['seconds'] / 60:.1f} minutes; validation loss (after step): {losses}"
        )


def _number(name: str, value: float) -> str:
    if name == "words":
        return f"{value:g}"
    return f"{value:.3f}" if name.startswith("loss") else f"{value:.0%}"


def _test(test: dict[str, float] | None) -> str:
    return "" if test is None else f" (↑ {test['rose']}, ↓ {test['fell']}, p {test['p']:.1g})"


if __name__ == "__main__":
    main()
