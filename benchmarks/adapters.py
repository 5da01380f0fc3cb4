"""Greedy decoding with LoRA adapters: merged into the weights, and eight of them in one batch, beside the base.

Two copies of the model decode in turns, one with adapters and one without, so that a drifting machine speed hits both;
who begins alternates. One copy may be the faster by where it lies in memory, so they change roles half-way; a ratio is
the geometric mean of those in both roles, which the table has beside it. Prompts are the Python language reference
(`pydoc_data.topics`), cut to equal length; stop tokens are off, so that all answers have the same length; the time
includes reading the prompts. With `--threads 1` it is that of the processor, which other processes hardly disturb.

The adapters have rank 8, of the query and value matrices, with random numbers in both of their matrices. In the mixed
batch each row has its own, and what it says is compared with what that adapter says alone.

    python benchmarks/adapters.py [--tokens 64] [--prompt 64] [--repeats 5] [--threads 2] [--json]
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pydoc_data.topics import topics
from typing import Any

import torch
from figures import Figure, as_json, beside, exit_if_missed

from arriero.common.machine import machine_line
from arriero.generate.engine import Engine, Request, SamplingConfig
from arriero.model.adapters import Adapters
from arriero.model.choices import DEFAULT_MODEL
from arriero.model.lora import LowRank
from arriero.model.lora_config import LoraConfig

NAMES = tuple(f"adapter-{number}" for number in range(8))
LORA = LoraConfig(rank=8, alpha=16.0, targets=("wq", "wv"))

Bounds = tuple[float | None, float | None]
"""The least and the most of a ratio; None: any."""
MERGED_BOUNDS: Bounds = (0.97, 1.03)
MIXED_BOUNDS: Bounds = (0.7, None)
NO_BOUNDS: Bounds = (None, None)
Work = Callable[[], list[tuple[int, ...]]]
"""Decodes a batch; the tokens of each row."""


@dataclass(frozen=True)
class Case:
    """What decodes."""

    rows: int
    adapters: tuple[str, ...] = ()
    """That of each row, unmerged."""
    merged: str | None = None


def main() -> None:
    """Measure, print a table or JSON; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="model source (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens generated a row (default: %(default)s)")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each role (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    engines = [Engine.load(options.model, device="cpu", dtype="float32") for _ in range(2)]
    results = measure_all(engines, options)
    machine = f"{machine_line(torch.device('cpu'))}, float32"
    figures = judge(results)
    if options.json:
        told = {"machine": machine, "model": options.model, "results": results, "targets": as_json(figures)}
        print(json.dumps(told, indent=2))
    else:
        print(f"{options.model} on {machine}; medians of {options.repeats} repeats in both roles\n")
        print_table(results)
    exit_if_missed(figures)


def judge(results: list[dict[str, Any]]) -> list[Figure]:
    """Each case's ratio to the base."""
    return [
        beside(
            f"{result['case']} ÷ base",
            result["tokens_per_second"],
            result["base_tokens_per_second"],
            "base",
            "tokens/s",
            value=result["ratio"],
            least=result["bounds"][0],
            most=result["bounds"][1],
        )
        for result in results
    ]


def measure_all(engines: list[Engine], options: argparse.Namespace) -> list[dict[str, Any]]:
    """The cases, each beside the base at the same batch."""
    rows = len(NAMES)
    results = [
        compare("eight adapters, none on", engines, Case(rows), NO_BOUNDS, options),
        compare("eight adapters, one a row", engines, Case(rows, NAMES), MIXED_BOUNDS, options),
        compare("one merged, 1 row", engines, Case(1, merged=NAMES[0]), MERGED_BOUNDS, options),
        compare("one merged, 8 rows", engines, Case(rows, merged=NAMES[0]), MERGED_BOUNDS, options),
    ]
    base = decode(engines[1], Case(rows), options)()
    with adapted(engines[0], None):
        mixed = decode(engines[0], Case(rows, NAMES), options)()
        alone = [decode(engines[0], Case(rows, (name,) * rows), options)()[row] for row, name in enumerate(NAMES)]
    results[1]["rows_as_alone"] = sum(a == b for a, b in zip(mixed, alone, strict=True))
    results[1]["rows_as_base"] = sum(a == b for a, b in zip(mixed, base, strict=True))
    return results


def compare(
    name: str, engines: list[Engine], case: Case, bounds: Bounds, options: argparse.Namespace
) -> dict[str, Any]:
    """Both rates in tokens a second, the median ratio to the base's, and its bounds."""
    seconds: tuple[list[float], list[float]] = [], []
    for own, base in (engines, engines[::-1]):
        with adapted(own, case.merged):
            alternate(decode(own, case, options), decode(base, Case(case.rows), options), seconds, options)
    ratios = [b / a for a, b in zip(*seconds, strict=True)]
    roles = ratios[: options.repeats], ratios[options.repeats :]
    crossed = [math.sqrt(a * b) for a, b in zip(*roles, strict=True)]
    ratio, count = statistics.median(crossed), case.rows * options.tokens
    return {
        "case": name,
        "tokens_per_second": count / statistics.median(seconds[0]),
        "base_tokens_per_second": count / statistics.median(seconds[1]),
        "ratio": ratio,
        "ratio_range": [min(crossed), max(crossed)],
        "ratio_in_roles": [statistics.median(values) for values in roles],
        "bounds": bounds,
    }


def alternate(own: Work, base: Work, seconds: tuple[list[float], list[float]], options: argparse.Namespace) -> None:
    """Time both in turns, after one warm-up each."""
    clock = time.process_time if options.threads == 1 else time.perf_counter
    sides = own, base
    for work in sides:
        work()
    for repeat in range(options.repeats):
        for side in (0, 1) if repeat % 2 else (1, 0):
            began = clock()
            sides[side]()
            seconds[side].append(clock() - began)


@contextmanager
def adapted(engine: Engine, merged: str | None) -> Iterator[None]:
    """Inside, the model has eight adapters, which change what it says; none is on, or one is merged."""
    adapters = Adapters.of(engine.model)
    for seed, name in enumerate(NAMES):
        adapters.add(name, LORA, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        for change in adapters.changes(name).values():
            assert isinstance(change, LowRank)
            change.b.data.normal_(0.0, 0.05, generator=generator)
    adapters.activate(None)
    if merged is not None:
        adapters.merge(merged)
    yield
    if merged is not None:
        adapters.unmerge()
    for name in NAMES:
        adapters.remove(name)


def decode(engine: Engine, case: Case, options: argparse.Namespace) -> Work:
    """Continue as many prompts, each with its adapter if the case names some."""
    ids, size = engine.tokenizer.encode("\n\n".join(topics.values())), options.prompt
    sampling = SamplingConfig(max_tokens=options.tokens, stop_ids=())
    requests = [
        Request(
            prompt_ids=ids[row * size : (row + 1) * size],
            sampling=sampling,
            adapter=case.adapters[row] if case.adapters else None,
        )
        for row in range(case.rows)
    ]
    return lambda: [completion.ids for completion in engine.generate(requests)]


def print_table(results: list[dict[str, Any]]) -> None:
    """The results as a Markdown table."""
    print("| case | tokens/s | base tokens/s | ratio (range) | in each role | target |\n|---|---|---|---|---|---|")
    for result in results:
        (low, high), (first, second) = result["ratio_range"], result["ratio_in_roles"]
        target = {NO_BOUNDS: "–", MIXED_BOUNDS: "≥ 0.7", MERGED_BOUNDS: "0.97–1.03"}[result["bounds"]]
        print(
            f"| {result['case']} | {result['tokens_per_second']:.1f} | {result['base_tokens_per_second']:.1f} "
            f"| {result['ratio']:.3f} ({low:.3f}–{high:.3f}) "
            f"| {first:.3f}, {second:.3f} | {target} |"
        )
    mixed = next(result for result in results if "rows_as_alone" in result)
    print(
        f"\nOf the {len(NAMES)} rows with an adapter each, {mixed['rows_as_alone']} say what that adapter says alone, "
        f"{mixed['rows_as_base']} what the base says."
    )


if __name__ == "__main__":
    main()
