"""Greedy decoding with LoRA adapters: merged into the weights, and eight of them in one batch, beside the base.

The base is a second model without any adapter, in the same process; both decode in turns, so that a drifting machine
speed hits both, and who begins alternates. Prompts are the Python language reference (`pydoc_data.topics`), cut to
equal length; stop tokens are off, so that all answers have the same length. The adapters have rank 8, of the query and
value matrices, with random numbers in both of their matrices; in the mixed batch each row has its own, and what it
says is compared with what that adapter says alone. Time includes reading the prompts. With `--threads 1` it is that of
the processor, which other processes hardly disturb.

    python benchmarks/adapters.py [--tokens 64] [--prompt 64] [--repeats 9] [--threads 2] [--json]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pydoc_data.topics import topics
from typing import Any

import torch

from arriero.common.machine import machine_line
from arriero.generate.engine import Engine, Request, SamplingConfig
from arriero.model.adapters import Adapters
from arriero.model.lora import LoraConfig, LowRank
from arriero.model.source import DEFAULT_MODEL

NAMES = tuple(f"adapter-{number}" for number in range(8))
LORA = LoraConfig(rank=8, alpha=16.0, targets=("wq", "wv"))

Bounds = tuple[float | None, float | None]
"""The least and the most of a ratio; None: any."""
MERGED_BOUNDS: Bounds = (0.97, 1.03)
MIXED_BOUNDS: Bounds = (0.7, None)
NO_BOUNDS: Bounds = (None, None)
Work = Callable[[], list[tuple[int, ...]]]
"""Decodes a batch; the tokens of each row."""


def main() -> None:
    """Measure, print a table or JSON; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="model source (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens generated a row (default: %(default)s)")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=9, help="measurements of each side (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base, adapted = (Engine.load(options.model, device="cpu", dtype="float32") for _ in range(2))
    add_adapters(Adapters.of(adapted.model))
    results = measure_all(base, adapted, options)
    machine = f"{machine_line(torch.device('cpu'))}, float32"
    if options.json:
        print(json.dumps({"machine": machine, "model": options.model, "results": results}, indent=2))
    else:
        print(f"{options.model} on {machine}; medians of {options.repeats}\n")
        print_table(results)
    if not all(result["met"] for result in results):
        raise SystemExit(1)


@torch.no_grad()
def add_adapters(adapters: Adapters) -> None:
    """Eight adapters, none of them on, that change what the model says."""
    for seed, name in enumerate(NAMES):
        adapters.add(name, LORA, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        for change in adapters.changes(name).values():
            assert isinstance(change, LowRank)
            change.b.normal_(0.0, 0.05, generator=generator)
    adapters.activate(None)


def measure_all(base: Engine, adapted: Engine, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The cases, each beside the base at the same batch."""
    adapters, rows = Adapters.of(adapted.model), len(NAMES)
    sizes = {"tokens": options.tokens, "prompt": options.prompt}
    plain, mixed = decode(base, rows, **sizes), decode(adapted, rows, **sizes, adapters=NAMES)
    off = decode(adapted, rows, **sizes)
    count = rows * options.tokens
    results = [
        compare("eight adapters, none on", off, plain, count, NO_BOUNDS, options),
        compare("eight adapters, one a row", mixed, plain, count, MIXED_BOUNDS, options),
    ]
    said, base_said = mixed(), plain()
    alone = [decode(adapted, rows, **sizes, adapters=(name,) * rows)()[row] for row, name in enumerate(NAMES)]
    results[-1]["rows_as_alone"] = sum(a == b for a, b in zip(said, alone, strict=True))
    results[-1]["rows_as_base"] = sum(a == b for a, b in zip(said, base_said, strict=True))
    adapters.merge(NAMES[0])
    for rows in (1, len(NAMES)):
        own, plain = decode(adapted, rows, **sizes), decode(base, rows, **sizes)
        case = f"one merged, {rows} row{'s' * (rows > 1)}"
        results.append(compare(case, own, plain, rows * options.tokens, MERGED_BOUNDS, options))
    adapters.unmerge()
    return results


def decode(engine: Engine, rows: int, *, tokens: int, prompt: int, adapters: tuple[str, ...] = ()) -> Work:
    """Continue as many prompts, each with an adapter if some are given."""
    ids = engine.tokenizer.encode("\n\n".join(topics.values()))
    sampling = SamplingConfig(max_tokens=tokens, stop_ids=())
    requests = [
        Request(
            prompt_ids=ids[row * prompt : (row + 1) * prompt],
            sampling=sampling,
            adapter=adapters[row] if adapters else None,
        )
        for row in range(rows)
    ]
    return lambda: [completion.ids for completion in engine.generate(requests)]


def compare(
    case: str, own: Work, base: Work, tokens: int, bounds: Bounds, options: argparse.Namespace
) -> dict[str, Any]:
    """Both rates in tokens a second, the median ratio of own to base, and whether it lies within the bounds."""
    clock = time.process_time if options.threads == 1 else time.perf_counter
    sides = [own, base]
    for work in sides:  # warms up
        work()
    rates: list[list[float]] = [[], []]
    for repeat in range(options.repeats):
        for side in (0, 1) if repeat % 2 else (1, 0):
            began = clock()
            sides[side]()
            rates[side].append(tokens / (clock() - began))
    ratios = [a / b for a, b in zip(*rates, strict=True)]
    ratio, (least, most) = statistics.median(ratios), bounds
    return {
        "case": case,
        "tokens_per_second": statistics.median(rates[0]),
        "base_tokens_per_second": statistics.median(rates[1]),
        "ratio": ratio,
        "ratio_range": [min(ratios), max(ratios)],
        "bounds": bounds,
        "met": (least is None or ratio >= least) and (most is None or ratio <= most),
    }


def print_table(results: list[dict[str, Any]]) -> None:
    """The results as a Markdown table."""
    print("| case | tokens/s | base tokens/s | ratio (range) | target |\n|---|---|---|---|---|")
    for result in results:
        low, high = result["ratio_range"]
        target = {NO_BOUNDS: "–", MIXED_BOUNDS: "≥ 0.7", MERGED_BOUNDS: "0.97–1.03"}[result["bounds"]]
        print(
            f"| {result['case']} | {result['tokens_per_second']:.1f} | {result['base_tokens_per_second']:.1f} "
            f"| {result['ratio']:.3f} ({low:.3f}–{high:.3f}) | {target} |"
        )
    mixed = next(result for result in results if "rows_as_alone" in result)
    print(
        f"\nOf the {len(NAMES)} rows with an adapter each, {mixed['rows_as_alone']} say what that adapter says alone, "
        f"{mixed['rows_as_base']} what the base says."
    )


if __name__ == "__main__":
    main()
