"""`arriero plan`: what a training run would take."""

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

from arriero.cli.options import positional
from arriero.cli.output import console, note, print_json, printable
from arriero.cli.torchrun import run_line
from arriero.common.errors import ArrieroError

if TYPE_CHECKING:
    from arriero.model.config import LlamaConfig
    from arriero.train.plan import Cost, Setup

GIB = 2**30
Amount = float | str | None
"""Of tokens: a number, or one with a letter: 100B."""
_LETTERS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


@dataclass(frozen=True, kw_only=True)
class LearningConfig:
    """What of the model learns."""

    method: Literal["full", "lora"] = "full"
    """full: all weights; lora: an adapter in every matrix of the layers, beside the frozen weights."""
    rank: int = 8
    """Of the adapter's matrices."""
    quantise: Literal["none", "nf4", "int8"] = "none"
    """With --method lora: keep the frozen matrices in few bits (QLoRA)."""

    def __post_init__(self) -> None:
        if self.method == "full" and self.quantise != "none":
            raise ArrieroError(f"quantise: {self.quantise} weights do not learn: expected --method lora beside it")


@dataclass(frozen=True, kw_only=True)
class EnergyConfig:
    """What the devices draw, and what that costs the climate."""

    watts: float | None = None
    """Of each device; default: its power limit."""
    pue: float = 1.1
    """Power that the data centre takes for each watt of its computers; LLaMA's."""
    carbon_intensity: float = 0.385
    """Kilograms of CO₂ a kilowatt-hour; LLaMA's, the average of the United States."""


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What to train on what; as for `arriero pretrain` where the names are the same."""

    model: str = positional("MODEL")
    """A preset such as llama-7b, or a model that is here: a known name, a folder, a .gguf file or a hub id."""
    card: str = "A100-80GB"
    """The devices: A100-80GB, A100-40GB, H100, H200, L4, L40S, RTX-3090, RTX-4090, MI300X or cpu-core."""
    count: int = 1
    """Devices."""
    rows: int = 1
    """Rows of a micro-batch on each device."""
    tokens: int | None = None
    """Tokens of a row; default: the model's context."""
    accumulation: int = 1
    """Micro-batches a step."""
    batch_tokens: Amount = None
    """Tokens of a step, such as 4M, LLaMA's: sets --accumulation, rounded up."""
    replicate: int = 1
    """Groups of devices that each hold the whole model and see different data."""
    shard: int = 0
    """Devices that share out parameters, gradients and optimizer states (FSDP); 0: all that the other two leave."""
    tensor: int = 1
    """Devices that share out every matrix (tensor parallelism)."""
    sequence: bool = True
    """With tensor above 1: share out the tokens between the matrices too (sequence parallelism)."""
    sum_every: bool = False
    """Sum gradients over devices after every micro-batch, so that none keeps a whole gradient."""
    recompute: Literal["none", "selective", "full"] = "selective"
    """What the backward pass computes again instead of keeping it."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """In which to compute; parameters, gradients and optimizer are float32."""
    total_tokens: Amount = None
    """Tokens of the run, such as 100B or 1.4e12; default: 20 a parameter, as for a compute-optimal run."""
    mfu: float = 0.4
    """Share of the peak that training reaches; 0.4 is within what good training does on GPUs."""
    tokens_per_second: float | None = None
    """Of each device, if you measured it; instead of --mfu."""
    learning: LearningConfig = field(default_factory=LearningConfig)
    energy: EnergyConfig = field(default_factory=EnergyConfig)
    json: bool = False
    """Print JSON for scripts."""


def plan(config: PlanConfig) -> int:
    """Estimate what training would take: memory of each device, days, energy and CO₂, and the line that starts it.

    Nothing is trained. If it does not fit, the line has the settings with which it would.

    Examples:
      arriero plan llama-7b --total-tokens 100B --card H100 --count 8 --rows 4 --batch-tokens 4M
      arriero plan llama-65b --count 2048 --tokens-per-second 380 --total-tokens 1.4e12
      arriero plan llama-7b --method lora --quantise nf4 --card RTX-4090 --total-tokens 20M
      arriero plan tiny-15m --card cpu-core --count 2 --dtype float32 --mfu 0.7
    """
    from arriero.train.plan import estimate_cost

    setup = _setup(config)
    cost = estimate_cost(
        setup,
        total_tokens=_number("total_tokens", config.total_tokens),
        mfu=config.mfu,
        tokens_per_second=config.tokens_per_second,
        watts=config.energy.watts,
        pue=config.energy.pue,
        tonnes_per_mwh=config.energy.carbon_intensity,
    )
    facts = _facts(config.model, setup, cost)
    if config.json:
        print_json(facts)
    else:
        _show(facts, setup, cost)
    return 0


def _setup(config: PlanConfig) -> "Setup":
    from arriero.train.cards import find_card
    from arriero.train.parallel_config import ParallelConfig
    from arriero.train.plan import Adapter, Setup

    shape, learning = _shape(config.model), config.learning
    setup = Setup(
        shape=shape,
        card=find_card(config.card),
        count=config.count,
        rows=config.rows,
        tokens=shape.max_seq_len if config.tokens is None else config.tokens,
        accumulation=config.accumulation,
        layout=ParallelConfig(
            replicate=config.replicate,
            shard=config.shard,
            tensor=config.tensor,
            sequence=config.sequence,
            sum_every=config.sum_every,
        ),
        recompute=config.recompute,
        dtype=config.dtype,
        adapter=Adapter(rank=learning.rank, quantise=learning.quantise) if learning.method == "lora" else None,
    )
    wanted = _number("batch_tokens", config.batch_tokens)
    if wanted is None:
        return setup
    once = setup.batch_tokens // setup.accumulation
    return dataclasses.replace(setup, accumulation=math.ceil(wanted / once))


def _number(name: str, amount: Amount) -> float | None:
    """100B as a number.

    Raises:
        ArrieroError: it is none, or not above 0.
    """
    if amount is None:
        return None
    found = re.fullmatch(r"(.*?)([KMBT]?)", str(amount).strip().upper())
    try:
        number = float(found[1]) * _LETTERS[found[2]] if found else math.nan
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ArrieroError(f"{name}: expected a number above 0, such as 4e6, 4M or 100B, got {amount}")
    return number


def _shape(model: str) -> "LlamaConfig":
    """The shape of a preset, or of a model's files."""
    from arriero.common.errors import FormatError
    from arriero.common.gguf_header import read_header
    from arriero.model.formats.gguf_config import read_config
    from arriero.model.formats.hf_config import read_hf_config, read_json
    from arriero.model.presets import PRESETS
    from arriero.model.source import resolve

    if model in PRESETS:
        return PRESETS[model]
    path = resolve(model)
    if (path / "config.json").is_file():
        return read_hf_config(read_json(path / "config.json"), file=path / "config.json")
    files = [path] if path.is_file() else sorted(path.glob("*.gguf"))
    if len(files) != 1:
        raise FormatError(f"{path} has no config.json: expected a preset, a folder with config.json or a .gguf file")
    return read_config(read_header(files[0]))


def _facts(model: str, setup: "Setup", cost: "Cost") -> dict[str, Any]:
    from arriero.train.plan import count_learning, count_parameters, estimate_memory, fits, palm_flops_per_token
    from arriero.train.plan_advice import advise, settle

    memory, settled = estimate_memory(setup), settle(setup)
    palm = palm_flops_per_token(setup.shape, setup.tokens)
    steps = cost.total_tokens / settled.batch_tokens
    return {
        "model": model,
        "parameters": count_parameters(setup.shape),
        "learning": count_learning(setup),
        "card": setup.card.name,
        "count": setup.count,
        "layout": {"replicate": setup.layout.replicate, "shard": setup.shard, "tensor": setup.layout.tensor},
        "batch_tokens": setup.batch_tokens,
        "memory_bytes": {**dataclasses.asdict(memory), "total": memory.total},
        "device_bytes": setup.card.memory_bytes,
        "fits": fits(setup),
        "advice": [] if fits(setup) else [dataclasses.asdict(advice) for advice in advise(setup)],
        **dataclasses.asdict(cost),
        "palm_mfu": None if setup.adapter else cost.mfu * palm / cost.flops_per_token,
        "command": run_line(model, settled, steps) if fits(settled) else None,
    }


_MEMORY_ROWS = {
    "parameters": "parameters, fp32 unless quantised",
    "gradients": "gradients, fp32",
    "optimizer": "AdamW's two moments, fp32",
    "gathered": "whole layers, gathered",
    "activations": "activations",
    "loss": "loss: logits of a chunk, gradient of the output matrix",
    "total": "together",
}


def _show(facts: dict[str, Any], setup: "Setup", cost: "Cost") -> None:
    layout = " × ".join(f"{name} {ways}" for name, ways in facts["layout"].items())
    learning = "" if setup.adapter is None else f", of which {facts['learning']:,} learn in an adapter"
    print(f"{printable(facts['model'])}: {facts['parameters']:,} parameters{learning}")
    print(f"{setup.count:,} × {setup.card.name}, {layout}; {setup.dtype}, recompute {setup.recompute}")
    print(f"a step: {setup.batch_tokens:,} tokens, rows of {setup.tokens:,}\n")

    table = _table("memory of a device", "GiB")
    for name, label in _MEMORY_ROWS.items():
        style = "bold" if name == "total" else ""
        table.add_row(label, f"{facts['memory_bytes'][name] / GIB:.2f}", style=style)
    table.add_row("the device has", f"{facts['device_bytes'] / GIB:.2f}")
    console().print(table)
    if facts["fits"]:
        print("It fits, with a tenth of the memory in reserve.\n")
    else:
        print("It does not fit: a tenth of the memory is kept in reserve.")
        print()
        _show_advice(facts["advice"])

    table = _table("the run", "")
    rows = {
        "tokens": f"{cost.total_tokens:,.0f}",
        "steps": f"{math.ceil(cost.steps):,}",
        "operations a token": f"{cost.flops_per_token:.3e}",
        "MFU (by PaLM's count)": f"{cost.mfu:.1%} ({_share(facts['palm_mfu'])})",
        "tokens/s of a device": f"{cost.tokens_per_second:,.{0 if cost.tokens_per_second >= 10 else 3}f}",
        "time": _duration(cost.days),
        "device-hours": f"{cost.device_hours:,.0f}" if cost.device_hours >= 100 else f"{cost.device_hours:.2f}",
        "energy": _energy(cost.mwh),
        "CO₂ equivalent": f"{cost.tonnes:,.2f} t" if cost.tonnes >= 1 else f"{cost.tonnes * 1e3:,.2f} kg",
    }
    for label, value in rows.items():
        table.add_row(label, value)
    console().print(table)
    if facts["command"]:
        print(f"\nto start it{'' if facts['fits'] else ', with settings that make it fit'}:\n{facts['command']}\n")
    note("an estimate: memory by formula; time by the MFU, which holds all that communication and failures cost")


def _show_advice(advices: list[dict[str, Any]]) -> None:
    if not advices:
        return
    table = _table("what would change it", "GiB", "fits", "costs")
    for advice in advices:
        fit = "yes" if advice["fits"] else "no"
        table.add_row(advice["options"], f"{advice['bytes_per_device'] / GIB:.2f}", fit, advice["costs"])
    console().print(table)
    print()


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number == 1 else "left")
    return table


def _share(number: float | None) -> str:
    return "-" if number is None else f"{number:.1%}"


def _duration(days: float) -> str:
    if days >= 2:
        return f"{days:,.1f} days"
    return f"{days * 24:.1f} hours" if days * 24 >= 2 else f"{days * 24 * 60:.1f} minutes"


def _energy(mwh: float) -> str:
    return f"{mwh:,.1f} MWh" if mwh >= 1 else f"{mwh * 1e3:,.3f} kWh"
