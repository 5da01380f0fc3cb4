"""A quantised base beside the one in full precision: bytes, time, and what it does to the perplexity.

The three models take turns, so that a drifting machine speed hits all. Backward is as in fine-tuning: the base is
frozen and the gradients are those of LoRA matrices of rank 8 beside every matrix of the layers. Matrices are
dequantised twice there; "dequantise" is the time of doing so once, for all layers, and "copy" that of copying as many
numbers in fp32, which is what the memory allows. The text is the Python language reference (`pydoc_data.topics`), in
windows without overlap. With `--threads 1` times are those of the processor, which other processes hardly disturb.

    python benchmarks/quantised.py [--tokens 256] [--windows 32] [--repeats 5] [--threads 2] [--json]
"""

import argparse
import copy
import json
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from pydoc_data.topics import topics
from typing import Any, cast, get_args

import torch
from figures import Figure, as_json, beside
from torch import Tensor, nn

from arriero.common.machine import machine_line
from arriero.model.adapters import Adapters
from arriero.model.choices import DEFAULT_MODEL, Quantisation
from arriero.model.lora_config import LoraConfig
from arriero.model.quantised import QuantisedLinear, quantise_model
from arriero.model.source import load_model
from arriero.model.transformer import Llama

KINDS: tuple[Quantisation, ...] = get_args(Quantisation)
ROWS = 4
Clock = Callable[[], float]
Results = dict[Quantisation, dict[str, float]]


def main() -> None:
    """Measure, print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="model source (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of a row and a window (default: %(default)s)")
    parser.add_argument("--windows", type=int, default=32, help="windows for the perplexity (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each time (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = measure(options)
    machine = f"{machine_line(torch.device('cpu'))}, {options.threads} threads, float32"
    if options.json:
        told = {"machine": machine, "model": options.model, "results": results, "targets": as_json(judge(results))}
        print(json.dumps(told, indent=2))
    else:
        print(f"{options.model} on {machine}; medians of {options.repeats}\n")
        print_table(results, options)


def judge(results: Results) -> list[Figure]:
    """Memory and perplexity beside full precision."""
    units = {"layers_mb": ("layers", "MB"), "perplexity": ("perplexity", "")}
    return [
        beside(f"{kind}: {what} ÷ fp32", results[kind][name], results["none"][name], "fp32", unit)
        for kind in KINDS
        if kind != "none"
        for name, (what, unit) in units.items()
    ]


def measure(options: argparse.Namespace) -> Results:
    """Each kind's figures."""
    clock = time.process_time if options.threads == 1 else time.perf_counter
    loaded = load_model(options.model, device="cpu", dtype="float32")
    assert loaded.tokenizer is not None
    ids = torch.tensor(loaded.tokenizer.encode("\n\n".join(topics.values())))
    size, needed = options.tokens, (options.tokens + 1) * max(options.windows, ROWS)
    if len(ids) < needed:
        raise SystemExit(f"the text has {len(ids)} tokens, {needed} are asked for: fewer --windows or --tokens")
    windows = ids[:needed].view(-1, size + 1)  # (windows, T + 1)
    models, results = {}, cast(Results, {kind: {} for kind in KINDS})
    for kind in KINDS:
        models[kind] = model = copy.deepcopy(loaded.model).requires_grad_(False)
        if kind != "none":
            results[kind]["quantise_s"] = seconds(partial(quantise_model, model, kind), clock)
        results[kind]["layers_mb"], results[kind]["model_mb"] = megabytes(model.layers), megabytes(model)
        results[kind]["perplexity"] = perplexity(model, windows[: options.windows])
        Adapters.of(model).add("bench", LoraConfig(rank=8))
    works = {
        "dequantise_s": dequantise,
        "forward_s": lambda model: forward(model, windows[:ROWS]),
        "backward_s": lambda model: backward(model, windows[:ROWS]),
    }
    for name, work in works.items():
        times = alternate(models, work, options.repeats, clock)
        for kind in KINDS:
            results[kind][name] = statistics.median(times[kind])
    return results


def alternate(
    models: dict[Quantisation, Llama], work: Callable[[Llama], object], repeats: int, clock: Clock
) -> dict[Quantisation, list[float]]:
    """Seconds of the same work on each model in turns, after one warm-up each."""
    times: dict[Quantisation, list[float]] = {kind: [] for kind in models}
    for repeat in range(repeats + 1):
        for kind, model in models.items():
            elapsed = seconds(partial(work, model), clock)
            if repeat:
                times[kind].append(elapsed)
    return times


def seconds(work: Callable[[], object], clock: Clock) -> float:
    """How long it takes, once."""
    began = clock()
    work()
    return clock() - began


def dequantise(model: Llama) -> None:
    """Make each matrix of the layers once; a plain one is copied."""
    for module in model.layers.modules():
        if isinstance(module, QuantisedLinear):
            module.dequantise()
        elif isinstance(module, nn.Linear):
            module.weight.detach().clone()


@torch.no_grad()
def forward(model: Llama, windows: Tensor) -> None:
    """The loss, with no gradient to come."""
    model.loss(windows[:, :-1], windows[:, 1:])


def backward(model: Llama, windows: Tensor) -> None:
    """The loss, and its gradients for the adapter."""
    model.loss(windows[:, :-1], windows[:, 1:])[0].backward()  # type: ignore[no-untyped-call]


@torch.no_grad()
def perplexity(model: Llama, windows: Tensor) -> float:
    """Of each window's tokens but the first."""
    parts = torch.split(windows, ROWS)
    total = sum(float(model.loss(part[:, :-1], part[:, 1:])[0]) for part in parts)
    return math.exp(total / windows[:, 1:].numel())


def megabytes(module: nn.Module) -> float:
    """Of parameters and buffers, each counted once."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6


def print_table(results: Results, options: argparse.Namespace) -> None:
    """The results as a Markdown table, with ratios to full precision."""
    names = {
        "layers_mb": "MB of the layers",
        "model_mb": "MB of the model",
        "quantise_s": "s to quantise",
        "dequantise_s": "s to dequantise (none: copy)",
        "forward_s": f"s forward, {ROWS} × {options.tokens} tokens",
        "backward_s": "s forward and backward",
        "perplexity": f"perplexity, {options.windows} windows",
    }
    print("| | " + " | ".join("fp32" if kind == "none" else kind for kind in KINDS) + " |\n|---|" + "---|" * len(KINDS))
    for name, title in names.items():
        print(f"| {title} | " + " | ".join(cell(results, kind, name) for kind in KINDS) + " |")


def cell(results: Results, kind: Quantisation, name: str) -> str:
    """A figure, and its ratio to that of full precision."""
    value: Any = results[kind].get(name)
    plain = results["none"].get(name)
    if value is None:
        return "–"
    return f"{value:.3g}" if kind == "none" or plain is None else f"{value:.3g} ({value / plain:.3f})"


if __name__ == "__main__":
    main()
