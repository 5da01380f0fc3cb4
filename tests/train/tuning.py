"""What the tests of fine-tuning share: chats, bases of two layers, and a program to be killed or started as ranks.

python -m tests.train.tuning '[{"run": …, "base": …, "data": …, "changes": {…}, "kill": …, "interrupt": …}, …]'
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from arriero.common.errors import ArrieroError
from arriero.model.config import LlamaConfig
from arriero.model.formats.hf import save_hf
from arriero.model.transformer import Llama
from arriero.train import loop as loop_module
from arriero.train.keep import KeepConfig
from arriero.train.parallel import Layout
from arriero.train.sft import sft
from arriero.train.sft_config import EpochsConfig, ExamplesConfig, SftConfig, SftOptimizerConfig
from arriero.train.watch import RunWatcher
from tests.train.processes import launch_ranks
from tests.train.shard_folders import EOS, byte_tokenizer

STEPS = 6
TEMPLATE = (
    "{% for message in messages %}{{ message['role'][0] + ':' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
)
GRADIENTS = "gradients.safetensors"
"""In a run's folder, with `watch`: each step's gradients before they are scaled, by step and number."""


def write_chats(file: Path, count: int = 24, *, word: str = "llama") -> Path:
    """Questions of different lengths and their answers."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{n}?" + " why" * (n % 4)},
                {"role": "assistant", "content": f"{word} {n}" * (1 + n % 3)},
            ]
        }
        for n in range(count)
    ]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


def write_base(folder: Path, *, tied: bool = False, **changes: Any) -> Path:
    """A Hugging Face folder of a model of two layers with grouped queries, random weights, and a chat template."""
    sizes = {"vocab_size": 258, "dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "hidden_dim": 96}
    shape = LlamaConfig.of(tied_embeddings=tied, **{"max_seq_len": 64} | sizes | changes)
    save_hf(Llama(shape).init_weights(5), folder, bos_id=None, eos_id=EOS)
    tokenizer = byte_tokenizer()
    tokenizer.use_chat_template(TEMPLATE)
    tokenizer.save(folder)
    return folder


def diary(run: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of one kind."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["kind"] == kind]


def losses(run: Path) -> dict[int, float]:
    """The loss of each step."""
    found = [(line["step"], line["loss"]) for line in diary(run, "step")]
    assert len(found) == len(dict(found)), "a step was written twice"
    return dict(found)


def config_for(base: Path, data: Path, **changes: Any) -> SftConfig:
    """A run of 6 steps; `changes` by the name of the field, wherever it is; a table as a dict of its fields."""
    config = SftConfig(
        model=str(base),
        examples=ExamplesConfig(data=(data,), eval_share=0.2),
        training=EpochsConfig(steps=STEPS, batch=4, rows=1, validate_every=3, checkpoint_every=2, patience=0),
        optim=SftOptimizerConfig(lr=1e-2),
        checkpoints=KeepConfig(asynchronous=False),
        device="cpu",
        samples=("why?",),
    )
    for name, value in changes.items():
        if hasattr(config, name):
            table = getattr(config, name)
            value = dataclasses.replace(table, **value) if isinstance(value, Mapping) else value
            config = dataclasses.replace(config, **{name: value})
            continue
        table = next(t for t in ("examples", "training", "optim", "checkpoints") if hasattr(getattr(config, t), name))
        config = dataclasses.replace(config, **{table: dataclasses.replace(getattr(config, table), **{name: value})})
    return config


def launch(runs: Sequence[Mapping[str, Any]], world: int = 1) -> list[subprocess.CompletedProcess[str]]:
    """The runs, one after the other, on so many new processes; what each process came to."""
    return launch_ranks("-m", "tests.train.tuning", json.dumps(list(runs), default=str), world=world)


class Watch:
    """Notes every step's gradients, whole, under the main rank's eyes."""

    def __init__(self) -> None:
        self.seen: dict[str, Tensor] = {}
        self.steps = 0
        self._scale = loop_module.scale_gradients

    def scale(self, parameters: Any, count: float, clip: float) -> Tensor:
        """`scale_gradients`, with the gradients noted before, divided by the count."""
        parameters = list(parameters)
        self.steps += 1
        for number, parameter in enumerate(x for x in parameters if x.requires_grad):
            gradient = parameter.grad
            whole = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
            self.seen[f"{self.steps}.{number}"] = whole.detach().clone() / count
        return self._scale(parameters, count, clip)


def watched(run: Path, config: SftConfig, allow: Sequence[str] = ()) -> str:
    """A run whose gradients are noted in its folder."""
    watch = Watch()
    loop_module.scale_gradients = watch.scale
    try:
        end = sft(run, config, allow)
    finally:
        loop_module.scale_gradients = watch._scale
    if os.environ.get("RANK", "0") == "0":
        save_file(watch.seen, run / GRADIENTS)
    return end


def _strike_after(step: int, number: signal.Signals) -> None:
    """Send this process a signal once a step has been written down, and half of a line of the next."""
    whole = RunWatcher.on_step

    def on_step(self: RunWatcher, result: Any) -> None:
        whole(self, result)
        if result.step == step:
            if number == signal.SIGKILL and self.log is not None:
                with self.log.path.open("a", encoding="utf-8") as file:
                    file.write('{"kind": "step", "st')
            os.kill(os.getpid(), number)

    RunWatcher.on_step = on_step  # type: ignore[method-assign]


def _main(runs: Sequence[Mapping[str, Any]]) -> None:
    """Say each run's end, or the error that refuses it."""
    torch.set_num_threads(1)
    close = Layout.close
    Layout.close = lambda self: None  # type: ignore[method-assign]  # the runs share their processes
    for run in runs:
        for name, number in (("kill", signal.SIGKILL), ("interrupt", signal.SIGINT)):
            if run.get(name):
                _strike_after(run[name], number)
        config = config_for(Path(run["base"]), Path(run["data"]), **run.get("changes", {}))
        try:
            print(watched(Path(run["run"]), config), flush=True)
        except ArrieroError as error:
            print(f"refused: {error}", flush=True)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    Layout.close = close  # type: ignore[method-assign]


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
