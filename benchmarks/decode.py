"""Tokens a second of greedy generation: our engine against transformers' `generate()`; same weights, same prompts.

Both run in this process, in turns, so that a drifting machine speed hits both; medians and their ratio are printed.
Prompts are the Python language reference (`pydoc_data.topics`), cut to equal length, so that neither side pays for
padding; stop tokens are off, so that all answers have the same length.

    python benchmarks/decode.py [--tokens 64] [--repeats 5] [--threads 2] [--json]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
import transformers
from figures import Figure, as_json, beside, exit_if_missed
from transformers import LlamaForCausalLM

from arriero.common.machine import machine_line
from arriero.generate.engine import Engine, Request, SamplingConfig
from arriero.model.choices import DEFAULT_MODEL
from arriero.model.formats.hf import save_hf

PEER = "transformers"


@dataclass(frozen=True)
class Case:
    """One thing measured."""

    name: str
    rows: int
    prompt: int
    """Tokens of each prompt."""
    tokens: int
    """Tokens generated a row."""
    target: float
    """Least ratio wanted; 0 = only reported."""

    @property
    def counted(self) -> int:
        """Tokens that the rate counts: the generated ones, or the prompt's when only one is generated."""
        return self.rows * (self.prompt if self.tokens == 1 else self.tokens)


def main() -> None:
    """Measure, print a table or JSON; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="model source (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens generated a row (default: %(default)s)")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each side (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases = [
        Case("decode, 1 stream", 1, options.prompt, options.tokens, 1.1),
        Case("decode, 16 streams", 16, options.prompt, options.tokens, 1.5),
        Case("prefill 512", 1, 512, 1, 0.0),
    ]
    engine = Engine.load(options.model, device="cpu", dtype="float32")
    peer = load_peer(engine)
    results = [measure(engine, peer, case, options.repeats) for case in cases]
    figures = judge(results)
    if options.json:
        told = {"machine": machine(), "model": options.model, "results": results, "targets": as_json(figures)}
        print(json.dumps(told, indent=2))
    else:
        print_table(options.model, results)
    exit_if_missed(figures)


def judge(results: list[dict[str, Any]]) -> list[Figure]:
    """Each case's ratio."""
    return [
        beside(
            f"{result['name']} ÷ {PEER}",
            *(result["tokens_per_second"][side] for side in ("arriero", PEER)),
            PEER,
            "tokens/s",
            value=result["ratio"],
            least=result["target"] or None,
        )
        for result in results
    ]


def load_peer(engine: Engine) -> LlamaForCausalLM:
    """The same weights in transformers, its stop token switched off."""
    with tempfile.TemporaryDirectory() as folder:
        save_hf(engine.model, Path(folder))
        peer = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    peer.generation_config.eos_token_id = None
    peer.generation_config.pad_token_id = 0
    return peer


def measure(engine: Engine, peer: LlamaForCausalLM, case: Case, repeats: int) -> dict[str, Any]:
    """Medians of both sides over interleaved repeats, after one warm-up each whose tokens are compared."""
    prompts = cut_prompts(engine, case)
    sampling = SamplingConfig(max_tokens=case.tokens, stop_ids=())
    requests = [Request(prompt_ids=prompt, sampling=sampling) for prompt in prompts]
    batch = torch.tensor(prompts)
    mask = torch.ones_like(batch)

    def ours() -> list[list[int]]:
        return [list(completion.ids) for completion in engine.generate(requests)]

    def theirs() -> list[list[int]]:
        out = peer.generate(batch, attention_mask=mask, do_sample=False, max_new_tokens=case.tokens)
        return out[:, case.prompt :].tolist()

    equal = sum(a == b for a, b in zip(ours(), theirs(), strict=True))
    rates: dict[str, list[float]] = {"arriero": [], "transformers": []}
    for _ in range(repeats):
        rates["arriero"].append(case.counted / seconds(ours))
        rates["transformers"].append(case.counted / seconds(theirs))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratios = [a / b for a, b in zip(rates["arriero"], rates["transformers"], strict=True)]
    return {
        **asdict(case),
        "tokens_per_second": medians,
        "ratio": medians["arriero"] / medians["transformers"],
        "ratio_range": [min(ratios), max(ratios)],
        "equal_rows": equal,
    }


def cut_prompts(engine: Engine, case: Case) -> list[list[int]]:
    """Consecutive stretches of the reference, all different."""
    ids = engine.tokenizer.encode("\n\n".join(topics.values()))
    return [ids[i * case.prompt : (i + 1) * case.prompt] for i in range(case.rows)]


def seconds(work: Callable[[], object]) -> float:
    """Time of one call: the processor's with one thread, which other processes hardly disturb, else the clock's."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    work()
    return clock() - start


def machine() -> str:
    """Processor, threads and versions, in one line."""
    return f"{machine_line(torch.device('cpu'))}, transformers {transformers.__version__}, float32"


def print_table(model: str, results: list[dict[str, Any]]) -> None:
    """The results as a Markdown table."""
    print(f"{model} on {machine()}\n")
    print("| case | arriero tok/s | transformers tok/s | ratio (range) | target | rows with equal tokens |")
    print("|---|---|---|---|---|---|")
    for result in results:
        rates = result["tokens_per_second"]
        low, high = result["ratio_range"]
        target = f"≥ {result['target']}" if result["target"] else "–"
        print(
            f"| {result['name']} | {rates['arriero']:.1f} | {rates['transformers']:.1f} "
            f"| {result['ratio']:.2f} ({low:.2f}–{high:.2f}) | {target} | {result['equal_rows']} of {result['rows']} |"
        )


if __name__ == "__main__":
    main()
