"""One iteration of PPO with LoRA: `arriero align ppo` beside TRL's PPOTrainer with PEFT, on the same prompts.

Each side is a process of its own, with a memory of its own; the peer has its own Python too, named on the command line,
since it is no dependency of ours. TRL 1.13 has no PPO any more, so the peer is the last release that has it:
`pip install trl==1.12.0 transformers==5.24.0 peft==0.21.2 pandas`. Both answer 16 prompts of smollm2-135m-instruct with
at most 64 tokens at temperature 1, score the answers with a reward model, and take one step of AdamW on the whole
batch, in one epoch, in float32. Policy and critic learn by adapters of rank 8 (α 16, no dropout) of all matrices; the
critic begins as the reward model, whose head is drawn from a seed. Ours puts policy, reference, critic and reward on
one base; TRL takes a model each for policy (which is the reference too, with its adapter off), critic and reward.

Everything else of the peer is TRL's default, micro-batches of 8 among it, but for `use_cpu`, a learning rate that is
the same on both sides, and a filler that is no end of answer: SmolLM2's is, and TRL tells filling by its id. (TRL's
default is bfloat16 too, but its PPO computes in float32 on a CPU whatever is asked for.) `--peers` names other settings
to measure beside it.

Of two tasks, in `fixed` the tokens that end an answer have another name, so that none ends before its 64 tokens and
both sides do the same work; in `natural` answers end where the model ends them.

What is measured of some iterations, after the first: seconds (their median) and the most memory that the process held
(`VmHWM`, so Linux only). The sides take turns; ratios are medians over the rounds. With `--threads 1` time is that of
the processor, which other processes hardly disturb.

    python benchmarks/ppo.py --data demonstrations.jsonl.gz --peer-python PYTHON [--steps 4] [--rounds 3] [--json]
"""

import argparse
import importlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from figures import Figure, as_json, beside, exit_if_missed, print_targets
from sft import Watched, run_and_watch

BASE = "smollm2-135m-instruct"
RANK, ALPHA = 8, 16
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BATCH, ANSWER, RATE, BETA, SEED = 16, 64, 1e-6, 0.05, 42
SHORTEST, LONGEST, WARM_UP = 16, 64, 1
"""Tokens of a prompt, with its template; iterations before those that are measured."""
TASKS = FIXED, NATURAL = "fixed", "natural"
RENAMED = {"<|im_end|>": "<|turn|>", "<|endoftext|>": "<|text|>"}
"""Names under which the tokens that end SmolLM2's answers end none."""
END, FILLER = "<file_sep>", "<filename>"
"""Tokens that SmolLM2 never writes in a chat: the end of an answer in `fixed`, and the peer's filler."""
OURS, PEER = "arriero align ppo", "defaults"
PEERS: dict[str, dict[str, Any]] = {
    PEER: {},
    "micro-batches of 2": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": BATCH // 2},
    "whole critic": {},
}
"""What differs from TRL's defaults; of a whole critic all parameters learn."""
SPEED_TARGET, MEMORY_TARGET = 2.0, 0.6


def main() -> None:
    """Train, measure, print a table or JSON; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="chats, one a line, whose prompts are asked")
    parser.add_argument("--peer-python", type=Path, required=True, help="a Python that has trl and peft")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=[PEER], help="settings of TRL (default: its own)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="default: both")
    parser.add_argument("--steps", type=int, default=4, help="measured iterations (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side (default: %(default)s)")
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
    """Prepare models and prompts, have every side train in turns, and put together what was measured."""
    import torch

    from arriero.common.machine import machine_line

    prompt_tokens = prepare(folder, options)
    tasks = {}
    for task in options.tasks:
        rounds: list[dict[str, dict[str, Any]]] = []
        for number in range(options.rounds):
            made = {}
            for name in (OURS, *options.peers):
                with tempfile.TemporaryDirectory(dir=folder) as run:
                    run_side = run_ours if name == OURS else run_peer
                    made[name] = run_side(name, folder, task, Path(run), options)
                print(f"{task}, round {number + 1}, {name}: {made[name]['seconds']:.1f} s", file=sys.stderr)
            rounds.append(made)
        tasks[task] = put_together(rounds)
    return {
        "machine": machine_line(torch.device("cpu")),
        "threads": options.threads,
        "clock": "processor" if options.threads == 1 else "wall",
        "iterations": options.steps,
        "rounds": options.rounds,
        "prompt_tokens": prompt_tokens,
        "versions": made[PEER]["versions"],
        "tasks": tasks,
    }


def put_together(rounds: Sequence[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Medians over the rounds, by side."""
    made = {}
    for name in rounds[0]:
        own = [sides[name] for sides in rounds]
        seconds = [side["seconds"] for side in own]
        made[name] = {
            "seconds": statistics.median(seconds),
            "range": [min(seconds), max(seconds)],
            "speed_ratio": statistics.median(sides[name]["seconds"] / sides[OURS]["seconds"] for sides in rounds),
            "peak_bytes": statistics.median(side["bytes"] for side in own),
            "answer_tokens": statistics.mean(side["answer_tokens"] for side in own),
            "parts": own[-1]["parts"],
        }
    for side in made.values():
        side["memory_ratio"] = made[OURS]["peak_bytes"] / side["peak_bytes"]
    return made


def prepare(folder: Path, options: argparse.Namespace) -> float:
    """Models, reward models and prompts, in the form that each side reads; mean tokens of a prompt."""
    from arriero.align.prompts import read_prompts
    from arriero.model.adapters import Adapters
    from arriero.model.formats.hf import save_hf
    from arriero.model.formats.peft import save_peft
    from arriero.model.heads import SCORE, add_head
    from arriero.model.lora_config import LoraConfig
    from arriero.model.source import load_model

    loaded = load_model(BASE, device="cpu", dtype="float32")
    model, tokenizer = loaded.model, loaded.tokenizer
    ends = {FIXED: tokenizer.backend.token_to_id(END), NATURAL: tokenizer.eos_id}
    for task, end in ends.items():
        save_hf(model, folder / task / "model", bos_id=tokenizer.bos_id, eos_id=end)
    add_head(model, SCORE, seed=SEED)
    save_hf(model, folder / "reward", bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id)
    Adapters.of(model).add("reward", LoraConfig(rank=RANK, alpha=ALPHA), seed=SEED)
    for task in TASKS:
        save_peft(model, "reward", folder / task / "reward", base=str(folder / task / "model"), head=SCORE)
        for kind in ("model", "reward"):
            tokenizer.save(folder / task / kind)
    for kind in ("model", "reward"):
        never_end(folder / FIXED / kind)
    asked = [(prompt, tokenizer.encode_chat(list(prompt.messages))) for prompt in read_prompts([options.data])]
    asked = [pair for pair in asked if SHORTEST <= len(pair[1]) <= LONGEST][: BATCH * (WARM_UP + options.steps)]
    lines = [json.dumps({"messages": prompt.messages, "ids": ids}) for prompt, ids in asked]
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return statistics.mean(len(ids) for _, ids in asked)


def never_end(folder: Path) -> None:
    """Rename what ends an answer: all tokens keep their ids, and answers end with one that is never written."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        text = (folder / name).read_text("utf-8")
        for old, new in RENAMED.items():
            text = text.replace(old, new)
        (folder / name).write_text(text, "utf-8")
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": END}), "utf-8")
    template = (folder / "chat_template.jinja").read_text("utf-8")
    turn = f"'{RENAMED['<|im_end|>']}' + '"
    assert template.count(turn) == 1, f"SmolLM2's template is another one: {template}"
    ending = f"('{END}' if message['role'] == 'assistant' else '{RENAMED['<|im_end|>']}') + '"
    (folder / "chat_template.jinja").write_text(template.replace(turn, ending), "utf-8")


def run_ours(name: str, folder: Path, task: str, run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """`arriero align ppo` on the prompts, with the hyperparameters of the peer."""
    command = [sys.executable, "-m", *name.split(), run / "run", "--prompts", folder / "prompts.jsonl"]
    command += ["--model", folder / task / "model", "--reward", folder / task / "reward", "--normalise", "none"]
    command += ["--rank", RANK, "--alpha", ALPHA, "--eval-share", 0, "--seed", SEED, "--device", "cpu", "--json"]
    command += ["--batch", BATCH, "--mini-batch", BATCH, "--epochs", 1, "--iterations", WARM_UP + options.steps]
    command += ["--max-tokens", ANSWER, "--temperature", 1, "--beta", BETA, "--value-coefficient", 0.1, "--lr", RATE]
    command += ["--beta1", 0.9, "--beta2", 0.999, "--eps", 1e-8, "--weight-decay", 0]
    watched = run_and_watch([str(word) for word in command], options.threads)
    lines = [json.loads(line) for line in (run / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    return summary([step["time"] for step in steps], [step["length"] for step in steps], watched)


def run_peer(name: str, folder: Path, task: str, run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """TRL on the prompts."""
    settings = {"peer": name, "folder": str(run), "prompts": str(folder / "prompts.jsonl")}
    settings |= {"model": str(folder / task / "model"), "reward": str(folder / "reward")}
    command = [str(options.peer_python), "-W", "ignore", __file__, "peer", json.dumps(settings)]
    watched = run_and_watch(command, options.threads)
    told = json.loads((run / "told.json").read_text("utf-8"))
    parts = {}
    for part, spans in told["parts"].items():
        began, ended = (interpolate(times, watched) for times in zip(*spans, strict=True))
        parts[part] = (sum(ended) - sum(began)) / options.steps
    return {**summary(told["ended"], told["lengths"], watched), "parts": parts, "versions": told["versions"]}


def summary(ended: Sequence[float], lengths: Sequence[float], watched: Watched) -> dict[str, Any]:
    """What is told of a side: when its iterations ended, since the epoch, and how long the answers of each were."""
    clock = interpolate(ended[WARM_UP - 1 :], watched)
    return {
        "seconds": statistics.median(after - before for before, after in pairwise(clock)),
        "bytes": watched.peak,
        "answer_tokens": statistics.mean(lengths[WARM_UP:]),
        "parts": {},
    }


def interpolate(times: Sequence[float], watched: Watched) -> list[float]:
    """What the clock showed at some times since the epoch."""
    import numpy as np

    shown: list[float] = np.interp(times, watched.times, watched.clock).tolist()
    return shown


def judge(results: dict[str, Any]) -> list[Figure]:
    """Each target and what was measured."""
    made = []
    for task, sides in results["tasks"].items():
        ours, peer = sides[OURS], sides[PEER]
        seconds, peaks = (ours["seconds"], peer["seconds"]), (ours["peak_bytes"] / 1e9, peer["peak_bytes"] / 1e9)
        speed, memory = peer["speed_ratio"], peer["memory_ratio"]
        made += [
            beside(f"PPO, {task} answers: TRL's time ÷ ours", *seconds, "TRL", "s", value=speed, least=SPEED_TARGET),
            beside(f"PPO, {task} answers: peak memory ÷ TRL's", *peaks, "TRL", "GB", value=memory, most=MEMORY_TARGET),
        ]
    return made


def print_tables(results: dict[str, Any], verdicts: list[Figure]) -> None:
    """The results as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    print(
        f"{results['machine']}; the peer's {versions}. {BATCH} prompts of {results['prompt_tokens']:.0f} tokens on "
        f"average, answers of at most {ANSWER}; medians of {results['iterations']} iterations and "
        f"{results['rounds']} rounds; {results['threads']} threads, time of the {results['clock']}\n"
    )
    print("| answers | side | tokens | seconds (range) | it ÷ ours | peak memory | ours ÷ it | parts, seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for task, sides in results["tasks"].items():
        for name, side in sides.items():
            low, high = side["range"]
            parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in side["parts"].items())
            print(
                f"| {task} | {name if name == OURS else f'TRL, {name}'} | {side['answer_tokens']:.1f} "
                f"| {side['seconds']:.1f} ({low:.1f}–{high:.1f}) | {side['speed_ratio']:.2f} "
                f"| {side['peak_bytes'] / 1e9:.2f} GB | {side['memory_ratio']:.2f} | {parts or '–'} |"
            )
    print_targets(verdicts)


def train_peer(settings: dict[str, str]) -> dict[str, Any]:
    """The peer's process: when iterations and parts were, how long answers are, versions. Imports nothing of ours."""
    datasets, peft, transformers = map(importlib.import_module, ("datasets", "peft", "transformers"))
    trl = importlib.import_module("trl.experimental.ppo.ppo_trainer")
    ended, lengths = list[float](), list[float]()

    class Clock(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ended.append(time.time())

    tokenizer = transformers.AutoTokenizer.from_pretrained(settings["model"], padding_side="left")
    tokenizer.pad_token = FILLER
    parts = watch_parts(trl, tokenizer.eos_token_id, ended, lengths)
    lora = {"r": RANK, "lora_alpha": ALPHA, "target_modules": list(TARGETS), "lora_dropout": 0.0}
    load = transformers.AutoModelForSequenceClassification.from_pretrained
    reward, critic = (load(settings["reward"], num_labels=1) for _ in range(2))
    if settings["peer"] != "whole critic":
        critic = peft.inject_adapter_in_model(peft.LoraConfig(**lora), critic)
        critic.score.weight.requires_grad_(True)
    asked = [json.loads(line)["ids"] for line in Path(settings["prompts"]).read_text("utf-8").splitlines()]
    silent = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    trainer = trl.PPOTrainer(
        args=trl.PPOConfig(
            output_dir=settings["folder"],
            use_cpu=True,
            response_length=ANSWER,
            stop_token="eos",
            temperature=1.0,
            num_ppo_epochs=1,
            kl_coef=BETA,
            learning_rate=RATE,
            total_episodes=len(asked),
            seed=SEED,
            **silent,
            **{"gradient_accumulation_steps": BATCH // 8, **PEERS[settings["peer"]]},
        ),
        processing_class=tokenizer,
        model=transformers.AutoModelForCausalLM.from_pretrained(settings["model"]),
        ref_model=None,
        reward_model=reward,
        value_model=critic,
        train_dataset=datasets.Dataset.from_list([{"input_ids": ids} for ids in asked]),
        peft_config=peft.LoraConfig(**lora, task_type="CAUSAL_LM"),
        callbacks=[Clock()],
    )
    assert (trainer.args.batch_size, trainer.args.mini_batch_size) == (BATCH, BATCH)
    trainer.train()
    modules = map(importlib.import_module, ("torch", "transformers", "trl", "peft"))
    versions = {module.__name__: module.__version__ for module in modules}
    return {"ended": ended, "lengths": lengths, "parts": parts, "versions": versions}


def watch_parts(
    trl: Any, end: int, ended: Sequence[float], lengths: list[float]
) -> dict[str, list[tuple[float, float]]]:
    """Stand before TRL's functions that answer and judge: when they ran in measured iterations, by part.

    Args:
        end: the token that ends an answer.
        ended: when iterations ended, as it grows.
        lengths: receives the mean length of an iteration's answers, their end included.
    """
    torch = importlib.import_module("torch")
    parts = defaultdict[str, list[tuple[float, float]]](list)

    def watch(name: str, part: str) -> None:
        watched = getattr(trl, name)

        def timed(*values: Any, **named: Any) -> Any:
            began = time.time()
            made = watched(*values, **named)
            if not torch.is_grad_enabled() and len(ended) >= WARM_UP:
                parts[part].append((began, time.time()))
            if part == "answers":
                ends = (made[0][:, values[1].shape[1] :] == end).int()
                lengths.append(float(((ends.cumsum(1) - ends) == 0).sum(1).float().mean()))
            return made

        setattr(trl, name, timed)

    watch("batch_generation", "answers")
    watch("forward", "reference")
    watch("get_reward", "value and reward")
    return parts


if __name__ == "__main__":
    if sys.argv[1:2] == ["peer"]:
        own = json.loads(sys.argv[2])
        (Path(own["folder"]) / "told.json").write_text(json.dumps(train_peer(own)), "utf-8")
    else:
        main()
