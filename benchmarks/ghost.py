"""Over how many turns a small model keeps to an instruction, before and after Ghost Attention.

What is asked for is easy to check: `Start every answer with "Hello!".` Examples are made as `arriero align ghost` makes
them, by the model itself, of 16 words to begin with and 48 questions, in dialogues of four turns; those that break the
instruction are left out. A LoRA adapter learns their last answers. Measured are dialogues of other questions, with six
other words, longer than those that were trained on, answered greedily: with the instruction in the first message alone,
in every message (what the model could do if it had to remember nothing), and nowhere (whether it now says such words
unasked). Intervals are Wilson's, 95%.

    python benchmarks/ghost.py [--count 64] [--turns 6] [--dialogues 2] [--keep FOLDER] [--json]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from figures import Figure, as_json

from arriero.align.attention_map import map_attention
from arriero.align.ghost import EXAMPLES_NAME, make_ghost_examples
from arriero.align.ghost_config import GhostConfig
from arriero.align.ghost_measure import Measured, measure_adherence
from arriero.common.machine import machine_line
from arriero.generate.engine import Engine, SamplingConfig
from arriero.report.ghost import WHERE, render_ghost, share
from arriero.train.sft import ADAPTER, sft
from arriero.train.sft_config import EpochsConfig, ExamplesConfig, SftConfig, SftOptimizerConfig

BASE = "smollm2-135m-instruct"
TRAINED_TURNS, EPOCHS, BATCH, LR = 4, 4.0, 8, 5e-4
ANSWER_TOKENS, MEASURED_TOKENS = 48, 32
_T = TypeVar("_T")


def main() -> None:
    """Measure, teach, measure again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=64, help="dialogues that examples are made of")
    parser.add_argument("--turns", type=int, default=6, help="of the dialogues that are measured")
    parser.add_argument("--dialogues", type=int, default=2, help="that are measured, of each of six instructions")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder to keep examples, adapter and page in")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        results = run(options.keep or Path(folder), options)
    if options.json:
        print(json.dumps({**results, "targets": as_json(judge(results))}, ensure_ascii=False))
    else:
        print_tables(results)


def run(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Everything, in a folder in which it goes on if it was stopped."""
    minutes: dict[str, float] = {}
    adapter = str(folder / "sft" / ADAPTER)
    before = _timed(minutes, "measuring before", lambda: measure("before", BASE, options))
    counts = _timed(minutes, "making examples", lambda: make_ghost_examples(folder / "ghost", ghost_config(options)))
    _timed(minutes, "training", lambda: sft(folder / "sft", sft_config(folder / "ghost" / EXAMPLES_NAME, options)))
    after = _timed(minutes, "measuring after", lambda: measure("after", adapter, options))
    adherence = [*before.adherence, *after.adherence]
    engines = {"before": Engine.load(BASE, device="cpu"), "after": Engine.load(adapter, device="cpu")}
    maps = [
        map_attention(name, engine.model, engine.tokenizer, after.example, after.instruction)
        for name, engine in engines.items()
    ]
    (folder / "ghost.html").write_text(render_ghost(adherence, maps, after.instruction), encoding="utf-8")
    return {
        "machine": machine_line(),
        "threads": options.threads,
        "examples": asdict(counts),
        "minutes": minutes,
        "adherence": [asdict(one) for one in adherence],
        "attention": {one.model: one.by_turn for one in maps},
    }


def judge(results: dict[str, Any]) -> list[Figure]:
    """Dialogues that keep to the instruction in the last turn that was trained on, of those that could."""
    kept = {
        one["model"]: one["turns"][min(TRAINED_TURNS, len(one["turns"])) - 1]
        for one in results["adherence"]
        if one["where"] == "first"
    }
    before, after = (one["kept"] / max(1, one["answers"]) for one in kept.values())
    return [Figure(what="instruction kept at the last turn, after − before", value=after - before, least=0.0)]


def measure(name: str, source: str, options: argparse.Namespace) -> Measured:
    """A model's adherence, greedy."""
    return measure_adherence(
        name,
        Engine.load(source, device="cpu", max_batch=36),
        turns=options.turns,
        dialogues=options.dialogues,
        sampling=SamplingConfig(max_tokens=MEASURED_TOKENS, seed=options.seed),
        seed=options.seed,
    )


def ghost_config(options: argparse.Namespace) -> GhostConfig:
    """Examples of a kind that programs can check, and that checked."""
    return GhostConfig(
        model=BASE,
        count=options.count,
        turns=TRAINED_TURNS,
        kinds=("opening",),
        learn="each",
        only_adhering=True,
        temperature=0.3,
        max_tokens=ANSWER_TOKENS,
        portion=32,
        device="cpu",
        seed=options.seed,
    )


def sft_config(examples: Path, options: argparse.Namespace) -> SftConfig:
    """Only the last answers are learnt."""
    return SftConfig(
        model=BASE,
        examples=ExamplesConfig(data=(examples,), answers="last", eval_share=0.1),
        training=EpochsConfig(epochs=EPOCHS, batch=BATCH),
        optim=SftOptimizerConfig(lr=LR),
        device="cpu",
        seed=options.seed,
    )


def print_tables(results: dict[str, Any]) -> None:
    """Shares by turn, attention by answer, minutes."""
    print(results["machine"], f"({results['threads']} threads)")
    counts = results["examples"]
    print(f"{counts['examples']} examples ({counts['terse']} terse) of {counts['dialogues']} dialogues")
    print("by turns:", counts["turns"])
    turns = range(1, len(results["adherence"][0]["turns"]) + 1)
    print("| model | instruction |", " | ".join(f"turn {turn}" for turn in turns), "| turns survived |")
    print("|---|---|" + "---|" * (len(turns) + 1))
    for one in results["adherence"]:
        cells = [
            f"{share(kept['kept'] / kept['answers'] if kept['answers'] else None)} "
            f"({kept['low']:.0%}–{kept['high']:.0%})"
            for kept in one["turns"]
        ]
        print(f"| {one['model']} | {WHERE[one['where']]} |", " | ".join(cells), f"| {one['survived']:.1f} |")
    for name, weights in results["attention"].items():
        print(f"attention to the instruction, {name}, by answer:", ", ".join(f"{weight:.3f}" for weight in weights))
    print("minutes:", ", ".join(f"{name} {spent:.1f}" for name, spent in results["minutes"].items()))


def _timed(minutes: dict[str, float], name: str, work: Callable[[], _T]) -> _T:
    start = time.monotonic()
    done = work()
    minutes[name] = (time.monotonic() - start) / 60
    return done


if __name__ == "__main__":
    main()
