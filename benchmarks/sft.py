"""Supervised fine-tuning with LoRA: `arriero sft` beside TRL's SFTTrainer with PEFT, on the same rows.

Each side is a process of its own, with Python, memory and time of its own; the peer's Python is given, since TRL and
PEFT want packages that we don't. Both train an adapter of rank 8 (α 16, no dropout) of the query and value matrices
of one model, in batches of 8 chats, with AdamW and a rate that falls in a straight line. The peer gets token ids and
labels, so that both learn the same answers; chats of more than 1,024 tokens are left out. Everything else of the peer is
TRL's default, but for `use_cpu`, without which it refuses to start: bfloat16 by autocast, activations made again in the
backward pass, rows padded to the longest of their batch. `--peers` has it in float32 also.

By default, speed and memory in a few steps: tokens that have a loss, a second, after the first steps, and the most
that the process held. The sides take turns; ratios are medians over the rounds. With `--epoch`, one epoch of each, and
the loss of the held-out chats (every tenth), summed by one evaluator, ours, on the adapters that they wrote.

    python benchmarks/sft.py --data demonstrations.jsonl.gz --peer-python PYTHON [--steps 12] [--rounds 3] [--json]
    python benchmarks/sft.py --data demonstrations.jsonl.gz --peer-python PYTHON --epoch [--rows 400]
"""

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

RANK, ALPHA, TARGETS = 8, 16, ["q_proj", "v_proj"]
ROWS, LONGEST, RATE, SEED = 8, 1024, 2e-4, 42
IGNORED = -100
PEERS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "float32": {"bf16": False},
    "float32, nothing made again": {"bf16": False, "gradient_checkpointing": False},
}
"""What differs from TRL's defaults."""


def train_peer(settings: dict[str, Any]) -> dict[str, Any]:
    """The peer's process: one epoch over the rows; times at which steps ended, their tokens with a loss, versions."""
    datasets, peft, torch, transformers, trl = map(
        importlib.import_module, ("datasets", "peft", "torch", "transformers", "trl")
    )
    torch.set_num_threads(settings["threads"])
    ended: list[float] = []
    counts: list[int] = []

    class Clock(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ended.append(time.monotonic())

    class Counting(trl.SFTTrainer):  # type: ignore[misc, name-defined]
        def training_step(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            counts.append(int((inputs["labels"][:, 1:] != IGNORED).sum()))
            return super().training_step(model, inputs, *rest, **named)

    rows = [json.loads(line) for line in Path(settings["rows"]).read_text("utf-8").splitlines()]
    trainer = Counting(
        model=settings["model"],
        args=trl.SFTConfig(
            output_dir=settings["folder"],
            use_cpu=True,
            learning_rate=RATE,
            num_train_epochs=1,
            seed=SEED,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **PEERS[settings["peer"]],
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        peft_config=peft.LoraConfig(
            r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, lora_dropout=0.0, task_type="CAUSAL_LM"
        ),
        callbacks=[Clock()],
    )
    assert trainer.args.per_device_train_batch_size == ROWS and trainer.args.max_length == LONGEST
    trainer.train()
    trainer.save_model(settings["folder"])
    modules = (torch, transformers, trl, peft)
    return {"ended": ended, "counts": counts, "versions": {module.__name__: module.__version__ for module in modules}}


if __name__ == "__main__":
    if sys.argv[1:2] == ["peer"]:
        own = json.loads(sys.argv[2])
        (Path(own["folder"]) / "steps.json").write_text(json.dumps(train_peer(own)), "utf-8")
