"""Supervised fine-tuning with LoRA: `arriero sft` beside TRL's SFTTrainer with PEFT, on the same rows.

Each side is a process of its own, with a memory of its own; the peer has its own Python too, named on the command line,
since it is no dependency of ours: `pip install trl==1.16.0 peft==0.21.2`. Both train an adapter of rank 8 (α 16, no
dropout) of the query and value matrices of smollm2-135m-instruct, in batches of 8 chats, with AdamW as PyTorch has it
and a learning rate that falls in a straight line from 2e-4. The peer is given token ids and labels, so that both learn
the same tokens of the same answers; chats of more than 1,024 tokens, which both would treat in ways of their own, are
left out. Everything else of the peer is TRL's default, but for `use_cpu`, without which it does not start: on a CPU,
too, that is bfloat16 by autocast, activations that the backward pass computes again, and rows padded to the longest of
their batch. `--peers` names other settings to measure beside it. Ours computes in float32, as is our default.

What is measured in some steps, after the first two: tokens with a loss a second, and the most memory that the process
held (`VmHWM`, so Linux only). The sides take turns; ratios are medians over the rounds. With `--threads 1` time is that
of the processor, which other processes hardly disturb.

With `--epoch`, each side trains once on all chats, or on the first `--rows`, and then one evaluator, ours, in float32,
tells the loss of each adapter, a token, on held-out answers. Every tenth chat is held out, of all there are; those that
ask the same as one of them do not train either.

    python benchmarks/sft.py --data demonstrations.jsonl.gz --peer-python PYTHON [--steps 12] [--rounds 3] [--json]
    python benchmarks/sft.py --data demonstrations.jsonl.gz --peer-python PYTHON --epoch [--rows 400] [--json]
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures import Figure, as_json, beside, exit_if_missed, print_targets

BASE = "smollm2-135m-instruct"
RANK, ALPHA, TARGETS = 8, 16, ("q_proj", "v_proj")
BATCH, LONGEST, RATE, SEED = 8, 1024, 2e-4, 42
HELD_OUT, WARM_UP = 10, 2
"""Of so many chats, the last one is held out; steps before those that are measured."""
NO_LOSS = -100
OURS, PEER = "arriero sft", "defaults"
PEERS: dict[str, dict[str, Any]] = {
    PEER: {},
    "float32": {"bf16": False},
    "nothing recomputed": {"gradient_checkpointing": False},
}
"""What differs from TRL's defaults."""
SPEED_TARGET, MEMORY_TARGET, LOSS_TARGET, FILE_TARGET = 2.0, 0.6, 0.005, 2.0


def main() -> None:
    """Train, measure, print a table or JSON; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="chats, one a line, in the format 'messages'")
    parser.add_argument("--peer-python", type=Path, required=True, help="a Python that has trl and peft")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=[PEER], help="settings of TRL (default: its own)")
    parser.add_argument("--steps", type=int, default=12, help="measured steps (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side (default: %(default)s)")
    parser.add_argument("--epoch", action="store_true", help="train an epoch instead, and tell the held-out loss")
    parser.add_argument("--rows", type=int, help="--epoch: only the first chats")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    if PEER not in options.peers:
        options.peers.insert(0, PEER)
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), options)
    verdicts = judge(results)
    if options.json:
        print(json.dumps({**results, "targets": as_json(verdicts)}, indent=2))
    else:
        print_tables(results, verdicts)
    exit_if_missed(verdicts)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Prepare the rows, have every side train on them in turns, and put together what was measured."""
    import torch

    from arriero.common.machine import machine_line

    torch.set_num_threads(options.threads)
    held_out, count = prepare(folder, options)
    sides = [OURS, *options.peers]
    rounds: list[dict[str, dict[str, Any]]] = []
    losses: dict[str, float] = {}
    for number in range(1 if options.epoch else options.rounds):
        made = {}
        for name in sides:
            run = folder / f"{sides.index(name)}-{number}"
            made[name] = run_ours(folder, run, options) if name == OURS else run_peer(name, folder, run, options)
            print(f"round {number + 1}, {name}: {made[name]['rate']:.0f} tokens/s", file=sys.stderr)
        rounds.append(made)
    if options.epoch:
        losses["without an adapter"] = evaluate(folder / "model", None, held_out)
        losses |= {name: evaluate(folder / "model", rounds[0][name]["adapter"], held_out) for name in sides}
    learnt = {made[name]["supervised"] for made in rounds for name in sides}
    assert len(learnt) == 1, f"the sides learnt different tokens: {learnt}"
    rates = {name: [made[name]["rate"] for made in rounds] for name in sides}
    peaks = {name: statistics.median(made[name]["bytes"] for made in rounds) for name in sides}
    ratios = {name: [made[OURS]["rate"] / made[name]["rate"] for made in rounds] for name in options.peers}
    return {
        "machine": machine_line(torch.device("cpu")),
        "chats": count,
        "supervised_tokens": learnt.pop(),
        "steps": rounds[0][OURS]["steps"],
        "rounds": len(rounds),
        "versions": rounds[0][PEER]["versions"],
        "tokens_per_second": {name: statistics.median(values) for name, values in rates.items()},
        "range": {name: [min(values), max(values)] for name, values in rates.items()},
        "speed_ratio": {name: statistics.median(values) for name, values in ratios.items()},
        "peak_bytes": peaks,
        "adapter_bytes": {name: rounds[0][name]["adapter_bytes"] for name in sides},
        "held_out_loss": losses,
    }


def prepare(folder: Path, options: argparse.Namespace) -> tuple[list[Any], int]:
    """The model as a folder, and the chats in the form that each side reads; what is held out, and how many train."""
    from arriero.model.formats.hf import save_hf
    from arriero.model.source import load_model
    from arriero.train.examples import read_examples
    from arriero.train.supervised import supervise

    loaded = load_model(BASE, device="cpu", dtype="float32")
    tokenizer = loaded.tokenizer
    save_hf(loaded.model, folder / "model", bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id)
    tokenizer.save(folder / "model")
    examples = read_examples([options.data], "messages")[0]
    out = examples[HELD_OUT - 1 :: HELD_OUT]
    examples = examples[: options.rows] if options.epoch else examples
    asked = {example.messages[0]["content"] for example in out}
    rest = [example for example in examples if example.messages[0]["content"] not in asked]
    rows, kept, _ = supervise(rest, tokenizer, max_tokens=LONGEST)
    most = None if options.epoch else BATCH * (WARM_UP + options.steps)
    chats = [json.dumps({"messages": example.messages}) for example in kept[:most]]
    encoded = [
        json.dumps({"input_ids": row.ids.tolist(), "labels": _labels(row.ids.tolist(), row.learnt.tolist())})
        for row in rows[:most]
    ]
    (folder / "chats.jsonl").write_text("\n".join(chats) + "\n", "utf-8")
    (folder / "rows.jsonl").write_text("\n".join(encoded) + "\n", "utf-8")
    return supervise(out, tokenizer, max_tokens=LONGEST)[0], len(chats)


def run_ours(folder: Path, run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """`arriero sft` on the chats, with the hyperparameters of the peer."""
    command = [sys.executable, "-m", "arriero", "sft", run, "--data", folder / "chats.jsonl"]
    command += ["--model", folder / "model", "--rank", RANK, "--alpha", ALPHA, "--dropout", 0]
    command += [word for target in TARGETS for word in ("--targets", target)]
    command += ["--epochs", 1, "--batch", BATCH, "--tokens", LONGEST, "--seed", SEED, "--eval-share", 0]
    command += ["--lr", RATE, "--beta1", 0.9, "--beta2", 0.999, "--eps", 1e-8, "--weight-decay", 0, "--clip", 1]
    command += ["--schedule", "wsd", "--decay-share", 1, "--warmup-steps", 0, "--final-ratio", 0]
    command += ["--validate-every", 10**6, "--patience", 0, "--device", "cpu", "--json"]
    watched = run_and_watch([str(word) for word in command], options.threads)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    ended, totals = [step["time"] for step in steps], [step["tokens"] for step in steps]
    counts = [after - before for before, after in zip([0, *totals], totals, strict=False)]
    return summary(ended, counts, watched, run / "adapter")


def run_peer(name: str, folder: Path, run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """TRL on the rows."""
    run.mkdir()
    settings = {"peer": name, "folder": str(run), "model": str(folder / "model"), "rows": str(folder / "rows.jsonl")}
    command = [str(options.peer_python), "-W", "ignore", __file__, "peer", json.dumps(settings)]
    watched = run_and_watch(command, options.threads)
    steps = json.loads((run / "steps.json").read_text("utf-8"))
    return {**summary(steps["ended"], steps["counts"], watched, run), "versions": steps["versions"]}


@dataclass(frozen=True)
class Watched:
    """What was seen of a program while it ran."""

    peak: int
    """The most bytes that it held."""
    times: list[float]
    """Seconds since the epoch at which it was looked at."""
    clock: list[float]
    """Seconds at each of them: of the processor, all its threads together, or of the wall."""


def run_and_watch(command: list[str], threads: int) -> Watched:
    """Run a program to its end.

    The kernel's own account for a finished child begins with what its parent held, so the child is asked while it runs.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    peak, times, clock = 0, list[float](), list[float]()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT)
        about = Path(f"/proc/{process.pid}")
        while process.poll() is None:
            lines = (about / "status").read_text().splitlines()
            peak = max([peak, *(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))])
            ticks = sum(map(int, (about / "stat").read_text().rpartition(")")[2].split()[11:13]))  # utime, stime
            times.append(time.time())
            clock.append(ticks / os.sysconf("SC_CLK_TCK") if threads == 1 else times[-1])
            time.sleep(0.1)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)}\nended with {process.returncode}:\n{said.read()[-4000:]}")
    return Watched(peak, times, clock)


def summary(ended: Sequence[float], counts: Sequence[int], watched: Watched, adapter: Path) -> dict[str, Any]:
    """What is told of a side: when its steps ended, since the epoch, and how many tokens with a loss each had."""
    import numpy as np

    first, last = np.interp([ended[WARM_UP - 1], ended[-1]], watched.times, watched.clock).tolist()
    return {
        "steps": len(counts) - WARM_UP,
        "supervised": sum(counts),
        "rate": sum(counts[WARM_UP:]) / (last - first),
        "bytes": watched.peak,
        "adapter": adapter,
        "adapter_bytes": (adapter / "adapter_model.safetensors").stat().st_size,
    }


def evaluate(model: Path, adapter: Path | None, held_out: Sequence[Any]) -> float:
    """Mean loss of the held-out answers' tokens, in nats."""
    import torch

    from arriero.model.adapters import Adapters
    from arriero.model.formats.peft import load_peft
    from arriero.model.source import load_model
    from arriero.train.example_batches import EvaluationBatches

    llama = load_model(str(model), device="cpu", dtype="float32").model.eval()
    if adapter is not None:
        load_peft(llama, adapter, "trained")
        Adapters.of(llama).activate("trained")
    total = count = 0.0
    with torch.no_grad():
        for batch in EvaluationBatches(held_out, rows=BATCH):
            total += float(llama.loss(batch.tokens, batch.targets, documents=batch.documents)[0])
            count += float((batch.targets != NO_LOSS).sum())
    return total / count


def judge(results: dict[str, Any]) -> list[Figure]:
    """Each target and what was measured."""
    speed, peaks, losses = results["tokens_per_second"], results["peak_bytes"], results["held_out_loss"]
    made = [
        beside(
            "tokens/s ÷ TRL's",
            speed[OURS],
            speed[PEER],
            "TRL",
            "tokens/s",
            value=results["speed_ratio"][PEER],
            least=SPEED_TARGET,
        ),
        beside("peak memory ÷ TRL's", peaks[OURS] / 1e9, peaks[PEER] / 1e9, "TRL", "GB", most=MEMORY_TARGET),
        Figure(what="adapter", value=results["adapter_bytes"][OURS] / 1e6, most=FILE_TARGET, unit="MB"),
    ]
    if losses:
        difference = losses[OURS] - losses[PEER]
        made.append(Figure(what="held-out loss − TRL's", value=difference, most=LOSS_TARGET, unit="nats a token"))
    return made


def print_tables(results: dict[str, Any], verdicts: list[Figure]) -> None:
    """The results as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    print(
        f"{results['machine']}; the peer's {versions}. {results['chats']} chats with "
        f"{results['supervised_tokens']:,} supervised tokens, {results['steps']} measured steps of {BATCH}, "
        f"medians of {results['rounds']} rounds\n"
    )
    losses = results["held_out_loss"]
    print("| side | supervised tokens/s (range) | ours ÷ it | peak memory | ours ÷ it | adapter | held-out loss |")
    print("|---|---|---|---|---|---|---|")
    peaks = results["peak_bytes"]
    for name, rate in results["tokens_per_second"].items():
        low, high = results["range"][name]
        loss = f"{losses[name]:.4f}" if losses else "–"
        print(
            f"| {name if name == OURS else f'TRL, {name}'} | {rate:.0f} ({low:.0f}–{high:.0f}) "
            f"| {results['speed_ratio'].get(name, 1.0):.2f} | {peaks[name] / 1e9:.2f} GB "
            f"| {peaks[OURS] / peaks[name]:.2f} | {results['adapter_bytes'][name] / 1e6:.2f} MB | {loss} |"
        )
    if losses:
        print(f"| without an adapter | | | | | | {losses['without an adapter']:.4f} |")
    print_targets(verdicts)


def _labels(ids: list[int], learnt: list[bool]) -> list[int]:
    """The ids, where they are learnt."""
    return [token if known else NO_LOSS for token, known in zip(ids, learnt, strict=True)]


def train_peer(settings: dict[str, str]) -> dict[str, Any]:
    """The peer's process: when its steps ended, their tokens with a loss, versions. Imports nothing of ours."""
    datasets, peft, torch, transformers, trl = map(
        importlib.import_module, ("datasets", "peft", "torch", "transformers", "trl")
    )
    ended: list[float] = []
    counts: list[int] = []

    class Clock(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ended.append(time.time())

    class Counting(trl.SFTTrainer):  # type: ignore[misc, name-defined]
        def training_step(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            counts.append(int((inputs["labels"][:, 1:] != NO_LOSS).sum()))
            return super().training_step(model, inputs, *rest, **named)

    lines = Path(settings["rows"]).read_text("utf-8").splitlines()
    silent = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    trainer = Counting(
        model=settings["model"],
        args=trl.SFTConfig(
            output_dir=settings["folder"],
            use_cpu=True,
            learning_rate=RATE,
            num_train_epochs=1,
            seed=SEED,
            **silent,
            **PEERS[settings["peer"]],
        ),
        train_dataset=datasets.Dataset.from_list([json.loads(line) for line in lines]),
        peft_config=peft.LoraConfig(
            r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), lora_dropout=0.0, task_type="CAUSAL_LM"
        ),
        callbacks=[Clock()],
    )
    assert (trainer.args.per_device_train_batch_size, trainer.args.max_length) == (BATCH, LONGEST)
    trainer.train()
    trainer.save_model(settings["folder"])
    modules = (torch, transformers, trl, peft)
    return {"ended": ended, "counts": counts, "versions": {module.__name__: module.__version__ for module in modules}}


if __name__ == "__main__":
    if sys.argv[1:2] == ["peer"]:
        own = json.loads(sys.argv[2])
        (Path(own["folder"]) / "steps.json").write_text(json.dumps(train_peer(own)), "utf-8")
    else:
        main()
