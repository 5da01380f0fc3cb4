"""A training step of SmolLM2-135M's shape: ours beside transformers', its model FLOPs beside the CPU's matrix products.

Each side lives in a process of its own, so that its peak memory is its own, and steps when it is told to: in turns, so
that a drifting machine speed hits all. A step is forward, backward, clipping and AdamW, in float32, on rows of random
tokens. Ours is the one of `arriero pretrain`, the allocator's settings included, with each way of recomputing;
theirs is the eager model, its loss, and `torch.optim.AdamW`. `--beside` chooses what else is measured, since each side
keeps 3 to 6 GB; litgpt's model, where it is installed, runs in transformers' loop.

Ratios to transformers are medians over the rounds, in each of which every side has one turn. The share of the matrix
products' rate is that of the fastest step in the fastest products: both are what other processes disturbed least. With
`--threads 1` time is that of the processor, which they hardly disturb.

Then short documents: packed into full rows that do not attend across them, by us, beside padded batches of as many
rows, of the same documents; tokens of documents are counted, not padding.

    python benchmarks/pretraining.py [--rows 2] [--tokens 512] [--repeats 5] [--threads 2] [--json]
    python benchmarks/pretraining.py --beside litgpt
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from figures import Figure, as_json, beside, exit_if_missed, print_targets
from torch import Tensor

from arriero.common.machine import machine_facts, machine_line
from arriero.common.progress import progress
from arriero.kernels.cross_entropy import IGNORED
from arriero.kernels.documents import Documents
from arriero.model.presets import PRESETS
from arriero.model.transformer import Llama
from arriero.train.optimizer import build_optimizer, scale_gradients
from arriero.train.optimizer_config import OptimizerConfig
from arriero.train.speed import flops_per_token, keep_freed_memory, measure_matmul

CPU = torch.device("cpu")
SHAPE = PRESETS["smollm2-135m"]
DEFAULT = "selective"
PEER, SECOND_PEER = "transformers", "litgpt"
OTHERS = ("none", "full", SECOND_PEER)
SHORTEST, LONGEST = 20, 400
"""Tokens of the short documents."""
SPEED_TARGET, MEMORY_TARGET, RATE_TARGET, PACKED_TARGET = 1.5, 0.6, 0.75, 3.0

Step = Callable[[Tensor, Tensor, Documents | None], float]
"""Takes tokens and targets, (B, T), and trains on them; the loss."""


def main() -> None:
    """Measure, print tables or JSON; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2, help="rows of a batch (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=512, help="tokens of a row (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="measured steps of each side (default: %(default)s)")
    parser.add_argument("--beside", nargs="*", choices=OTHERS, default=OTHERS[:2], help="sides beside the main two")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sides = {name: Side(name, options) for name in (DEFAULT, *options.beside, PEER)}
    try:
        results = measure_steps(sides, options.rows * options.tokens, options.repeats)
        results["documents"] = measure_documents(sides, options.repeats)
    finally:
        for side in sides.values():
            side.close()
    results["model_flops_per_token"] = flops_per_token(SHAPE, options.tokens)
    verdicts = judge(results)
    if options.json:
        print(json.dumps({"machine": machine_facts(CPU), **results, "targets": as_json(verdicts)}, indent=2))
    else:
        print(
            f"{machine_line(CPU)}, transformers {transformers.__version__}, float32, {options.rows} rows of "
            f"{options.tokens} tokens, medians of {options.repeats}\n"
        )
        print_tables(results, verdicts)
    exit_if_missed(verdicts)


class Side:
    """One way to train, in a process of its own."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self._end, other = context.Pipe()
        self._process = context.Process(target=live, args=(other, name, options), daemon=True)
        self._process.start()
        other.close()
        self._end.recv()  # it is ready: models are not built beside a measurement

    def ask(self, work: str, seed: int) -> dict[str, float]:
        """Have it do a step of some kind of work: seconds, tokens, loss, peak bytes of the process."""
        self._end.send((work, seed))
        answer: dict[str, float] = self._end.recv()
        return answer

    def close(self) -> None:
        self._end.close()
        self._process.join()


def live(end: Connection, name: str, options: argparse.Namespace) -> None:
    """A side's process: steps until nobody asks any more."""
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    makers = {PEER: their_step, SECOND_PEER: litgpt_step}
    step = makers[name]() if name in makers else our_step(name)
    end.send(None)
    while True:
        try:
            work, seed = end.recv()
        except EOFError:
            return
        batch = MAKERS[work](np.random.default_rng(seed), options.rows, options.tokens)
        started = clock()
        loss = step(*batch[:3])
        seconds = clock() - started
        end.send({"seconds": seconds, "tokens": batch[3], "loss": loss, "bytes": peak_bytes()})


def our_step(recompute: str) -> Step:
    """What `train/loop.py` does in a step, without its diary."""
    keep_freed_memory()
    model = Llama(SHAPE).init_weights(0)
    for layer in model.layers:
        layer.recompute = recompute
    optimizer = build_optimizer(model, OptimizerConfig())

    def step(tokens: Tensor, targets: Tensor, documents: Documents | None) -> float:
        total, _ = model.loss(tokens, targets, documents=documents)
        total.backward()
        count = int((targets != IGNORED).sum())
        scale_gradients(model.parameters(), count, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(total.detach()) / count

    return step


def their_step() -> Step:
    """The usual loop around transformers' model."""
    config = transformers.LlamaConfig(
        vocab_size=SHAPE.vocab_size,
        hidden_size=SHAPE.dim,
        num_hidden_layers=SHAPE.n_layers,
        num_attention_heads=SHAPE.n_heads,
        num_key_value_heads=SHAPE.n_kv_heads,
        intermediate_size=SHAPE.hidden_dim,
        tie_word_embeddings=True,
        attn_implementation="eager",
        use_cache=False,
    )
    model = transformers.LlamaForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)

    def step(tokens: Tensor, targets: Tensor, documents: Documents | None) -> float:
        mask = (torch.arange(tokens.shape[1]) < (targets != IGNORED).sum(1, keepdim=True) + 1).long()  # (B, T)
        loss = model(tokens, attention_mask=mask, labels=tokens.masked_fill(mask == 0, IGNORED)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def litgpt_step() -> Step:
    """The same loop around litgpt's model."""
    from litgpt.model import GPT, Config

    config = Config(
        name=SECOND_PEER,
        block_size=SHAPE.max_seq_len,
        padded_vocab_size=SHAPE.vocab_size,
        n_layer=SHAPE.n_layers,
        n_head=SHAPE.n_heads,
        n_query_groups=SHAPE.n_kv_heads,
        n_embd=SHAPE.dim,
        head_size=SHAPE.head_dim,
        intermediate_size=SHAPE.hidden_dim,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
    )
    model = GPT(config)
    model.lm_head.weight = model.transformer.wte.weight
    torch.nn.init.normal_(model.lm_head.weight, std=0.02)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)

    def step(tokens: Tensor, targets: Tensor, documents: Documents | None) -> float:
        loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


Made = tuple[Tensor, Tensor, Documents | None, int]
"""Tokens and targets, (B, T), where documents lie, and how many tokens are no padding."""


def random_rows(random: np.random.Generator, rows: int, tokens: int) -> Made:
    """Rows of one document each."""
    text = torch.from_numpy(random.integers(SHAPE.vocab_size, size=(rows, tokens + 1)))
    return text[:, :-1].contiguous(), text[:, 1:].contiguous(), None, rows * tokens


def packed_rows(random: np.random.Generator, rows: int, tokens: int) -> Made:
    """Short documents, one after the other; a row's last is cut, as `train/packing.py` does."""
    text, targets, _, _ = random_rows(random, rows, tokens)
    bounds = [0]
    for row in range(rows):
        place = 0
        while place < tokens:
            place = min(place + int(random.integers(SHORTEST, LONGEST + 1)), tokens)
            targets[row, place - 1] = IGNORED
            bounds.append(row * tokens + place)
    return text, targets, Documents.from_cu_seqlens(torch.tensor(bounds), rows, tokens), rows * tokens


def padded_rows(random: np.random.Generator, rows: int, tokens: int) -> Made:
    """A short document a row, filled up to the row's length with tokens that have no loss."""
    text, targets, _, _ = random_rows(random, rows, tokens)
    lengths = [int(random.integers(SHORTEST, LONGEST + 1)) for _ in range(rows)]
    for row, length in enumerate(lengths):
        targets[row, length - 1 :] = IGNORED
    return text, targets, None, sum(lengths)


def rows_to_the_longest(random: np.random.Generator, rows: int, tokens: int) -> Made:
    """The same, filled up to the longest document of the batch alone."""
    text, targets, _, count = padded_rows(random, rows, tokens)
    longest = 1 + int((targets != IGNORED).sum(1).max())
    return text[:, :longest].contiguous(), targets[:, :longest].contiguous(), None, count


MAKERS: dict[str, Callable[[np.random.Generator, int, int], Made]] = {
    "random": random_rows,
    "packed": packed_rows,
    "padded to the row": padded_rows,
    "padded to the longest": rows_to_the_longest,
}


def measure_steps(sides: dict[str, Side], batch_tokens: int, repeats: int) -> dict[str, Any]:
    """Speed and peak memory of each side, and the rates of matrix products between the steps."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peaks: dict[str, float] = {}
    rates: dict[str, list[float]] = {"onednn": [], "torch": []}
    with progress("Steps", total=(repeats + 2) * len(sides), unit="steps") as tell:
        for repeat in range(-2, repeats):  # the first two warm up
            for name, side in sides.items():
                answer = side.ask("random", repeat + 2)
                peaks[name] = answer["bytes"]
                if repeat >= 0:
                    seconds[name].append(answer["seconds"])
                tell(1)
            rates["onednn"].append(measure_matmul())
            rates["torch"].append(torch_matmul())
    ratios = {
        name: [peer / own for own, peer in zip(values, seconds[PEER], strict=True)] for name, values in seconds.items()
    }
    return {
        "tokens_per_second": {name: batch_tokens / statistics.median(values) for name, values in seconds.items()},
        "range": {name: [batch_tokens / max(values), batch_tokens / min(values)] for name, values in seconds.items()},
        "speed_ratio": {name: statistics.median(values) for name, values in ratios.items()},
        "peak_bytes": peaks,
        "matmul_flops": {name: max(values) for name, values in rates.items()},
    }


def measure_documents(sides: dict[str, Side], repeats: int) -> dict[str, float]:
    """Tokens of short documents a second, by side and kind of batch."""
    cases = [(DEFAULT, "packed")]
    cases += [(name, work) for name in (PEER, DEFAULT) for work in ("padded to the row", "padded to the longest")]
    totals = {case: [0.0, 0.0] for case in cases}  # tokens, seconds
    with progress("Documents", total=2 * repeats * len(cases), unit="steps") as tell:
        for seed in range(2 * repeats):
            for case in cases:
                answer = sides[case[0]].ask(case[1], 100 + seed)
                totals[case][0] += answer["tokens"]
                totals[case][1] += answer["seconds"]
                tell(1)
    return {f"{label(name)}, {work}": tokens / seconds for (name, work), (tokens, seconds) in totals.items()}


def torch_matmul(size: int = 1536, seconds: float = 0.3) -> float:
    """`measure_matmul` by PyTorch's own product."""
    x, y = torch.randn(size, size), torch.randn(size, size)
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        F.linear(x, y)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def peak_bytes() -> int:
    """The most that this process held (`VmHWM`); Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def label(name: str) -> str:
    """What a table calls a side."""
    names = {PEER: f"{PEER} eager", SECOND_PEER: SECOND_PEER}
    return names.get(name, f"arriero, recompute {name}")


def judge(results: dict[str, Any]) -> list[Figure]:
    """Each target and what was measured, with the default way of recomputing."""
    speed, memory, documents = results["tokens_per_second"], results["peak_bytes"], results["documents"]
    rates, flops = results["matmul_flops"], results["range"][DEFAULT][1] * results["model_flops_per_token"]
    packed, peer = documents[f"{label(DEFAULT)}, packed"], label(PEER)
    ratio = results["speed_ratio"][DEFAULT]
    sides = [("oneDNN", rates["onednn"]), ("PyTorch", rates["torch"])]
    return [
        beside(
            "tokens/s ÷ transformers'", speed[DEFAULT], speed[PEER], PEER, "tokens/s", value=ratio, least=SPEED_TARGET
        ),
        beside(
            "peak memory ÷ transformers'", memory[DEFAULT] / 1e9, memory[PEER] / 1e9, PEER, "GB", most=MEMORY_TARGET
        ),
        *(
            beside(
                f"model FLOPs ÷ matrix products' by {name}",
                flops / 1e12,
                rate / 1e12,
                name,
                "TFLOP/s",
                least=RATE_TARGET,
            )
            for name, rate in sides
        ),
        *(
            beside(f"packed ÷ {PEER} {way}", packed, documents[f"{peer}, {way}"], PEER, "tokens/s", least=least)
            for way, least in (("padded to the row", PACKED_TARGET), ("padded to the longest", None))
        ),
    ]


def print_tables(results: dict[str, Any], verdicts: list[Figure]) -> None:
    """The results as Markdown."""
    print("| step | tokens/s (range) | ratio | peak memory | ratio | best model TFLOP/s |")
    print("|---|---|---|---|---|---|")
    speed, memory = results["tokens_per_second"], results["peak_bytes"]
    for name, rate in speed.items():
        low, high = results["range"][name]
        print(
            f"| {label(name)} | {rate:.0f} ({low:.0f}–{high:.0f}) | {results['speed_ratio'][name]:.2f} "
            f"| {memory[name] / 1e9:.2f} GB | {memory[name] / memory[PEER]:.2f} "
            f"| {high * results['model_flops_per_token'] / 1e12:.3f} |"
        )
    rates = results["matmul_flops"]
    print(
        f"\nMatrix products of 1,536²: {rates['onednn'] / 1e12:.3f} TFLOP/s by oneDNN, "
        f"{rates['torch'] / 1e12:.3f} by PyTorch's own.\n"
    )
    print(f"| documents of {SHORTEST}–{LONGEST} tokens | tokens/s |\n|---|---|")
    for what, rate in results["documents"].items():
        print(f"| {what} | {rate:.0f} |")
    print_targets(verdicts)


if __name__ == "__main__":
    main()
