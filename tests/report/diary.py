"""A run's folder without training: a diary such as `arriero pretrain` writes."""

import json
import math
import random
from pathlib import Path
from typing import Any

BATCH = 4096
SOURCES = {"plays": 0.7, "letters": 0.2, "<i>news</i> & $x_2$": 0.1}
Line = dict[str, Any]


def start(**changes: Any) -> Line:
    """The first line."""
    shape = {"vocab_size": 8192, "dim": 384, "n_layers": 7, "n_heads": 6, "n_kv_heads": 6, "hidden_dim": 1024}
    facts = {
        "model": shape,
        "n_params": 15_537_792,
        "n_params_without_embeddings": 12_392_064,
        "devices": 2,
        "device_name": "NVIDIA A100-SXM4-80GB",
        "world": 2,
        "dtype": "bfloat16",
        "batch_tokens": BATCH,
        "layout": {"replicate": 1, "shard": 0, "tensor": 2, "sequence": True},
        "total_steps": 600,
        "watts": None,
        "versions": {"arriero": "0.1.0", "torch": "2.13.0"},
    }
    return {"kind": "start", "step": 0, "time": 1.75e9, **facts, **changes}


def mixture() -> Line:
    """The table of the sources."""
    rows = [
        {
            "source": name,
            "weight": weight,
            "tokens_available": 1_000_000,
            "planned_tokens": round(600 * BATCH * weight),
            "planned_epochs": 600 * BATCH * weight / 1e6,
        }
        for name, weight in SOURCES.items()
    ]
    return {"kind": "mixture", "step": 0, "time": 1.75e9, "rows": rows}


def step(number: int, **changes: Any) -> Line:
    """A step of a run that learns."""
    noise = random.Random(number)
    values = {
        "loss": 2.5 + 6 * math.exp(-number / 60) + noise.gauss(0, 0.05),
        "lr": 1e-3 * min(1, number / 60) * (0.55 + 0.45 * math.cos(math.pi * number / 600)),
        "grad_norm": 0.5 + 4 / number**0.5 + abs(noise.gauss(0, 0.1)),
        "tokens": number * BATCH,
        "seconds": 0.5 * number,
        "tokens_per_second": 8000 + noise.gauss(0, 300),
        "mfu": 0.4 + noise.gauss(0, 0.01),
        "memory_bytes": 5 * 2**30,
        "skipped": 0,
        "source_tokens": {name: round(number * BATCH * weight) for name, weight in SOURCES.items()},
    }
    return {"kind": "step", "step": number, "time": 1.75e9 + number / 2, **values, **changes}


def validation(number: int) -> Line:
    """Losses of the held-out documents."""
    losses = {name: 2.6 + 6 * math.exp(-number / 60) + 0.3 * place for place, name in enumerate(SOURCES)}
    by_source = {name: {"loss": loss, "tokens": 1000, "bytes": 4000} for name, loss in losses.items()}
    loss = sum(losses.values()) / len(losses)
    return {"kind": "validation", "step": number, "loss": loss, "perplexity": math.exp(loss), "by_source": by_source}


def sample(number: int, text: str = "there was a mule.", prompt: str = "Once upon a time, ") -> Line:
    """What the model writes."""
    return {"kind": "sample", "step": number, "prompt": prompt, "text": text}


def event(number: int, name: str, detail: str = "") -> Line:
    """Something that happened."""
    return {"kind": "event", "step": number, "time": 1.75e9 + number / 2, "event": name, "detail": detail}


def energy(number: int, joules: float, source: str = "rapl") -> Line:
    """The count so far."""
    return {"kind": "energy", "step": number, "joules": joules, "source": source}


def whole_run(steps: int = 600) -> list[Line]:
    """A run from its first line to its last."""
    lines = [start(), mixture()]
    for number in range(1, steps + 1):
        lines.append(step(number))
        lines.append(energy(number, 150.0 * number, "nvml"))
        if number % 100 == 0:
            lines += [validation(number), sample(number, f"{number} mules.\nAnd <script>alert(1)</script> more")]
            lines.append(event(number, "checkpoint", f"step {number}"))
    lines += [event(230, "spike", "loss 7.100 after a mean of 2.700"), event(412, "nonfinite", "step skipped")]
    return [*lines, event(steps, "finished", f"after {steps} of 600 steps")]


def write(folder: Path, lines: list[Line], tail: str = "") -> Path:
    """The folder with its diary and its config; `tail` is a line that is not whole."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines) + tail
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    (folder / "config.toml").write_text('model = "tiny-15m"\n# <b>bold</b>\n', encoding="utf-8")
    return folder
