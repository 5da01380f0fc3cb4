"""The options of every command that generates, and the engine they ask for."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from arriero.cli.output import note
from arriero.model.choices import DEFAULT_MODEL

if TYPE_CHECKING:  # torch takes a second to import: `--help` must not wait for it
    from arriero.generate.engine import Engine
    from arriero.model.packed import Weights


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Which model runs, and on what."""

    model: str = DEFAULT_MODEL
    """A name (`arriero model get` lists them), a folder, a .gguf file, a hub id, or a preset for random weights."""
    adapter: Path | None = None
    """A folder with an adapter in PEFT's format for the model, such as `arriero sft` makes."""
    device: str = "auto"
    """auto takes the first of cuda, mps, cpu."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto is bfloat16 on cuda and float32 elsewhere."""
    weights: Literal["auto", "full", "int8", "int4"] = "auto"
    """How matrices are held: int8 and int4 take less memory and time; `arriero eval --weights` tells how far they are
    off. auto keeps the bits of a GGUF file on a CPU, and is full elsewhere."""


def load_engine(config: EngineConfig, *, speculate: int = 0) -> "Engine":
    """The engine of a command; `speculate` as `Engine` takes it.

    Raises:
        NotFoundError: the model is not here; the message says which `arriero model get` brings it.
    """
    from arriero.generate.engine import Engine

    compile_kernels(config.device)
    weights = choose_weights(config)
    return Engine.load(
        config.model,
        adapter=config.adapter,
        device=config.device,
        dtype=config.dtype,
        weights=weights,
        speculate=speculate,
    )


def compile_kernels(device: str) -> None:
    """Compile the CPU's kernels where that was never done, and say what takes the seconds."""
    from arriero.common.device import pick_device
    from arriero.kernels.native.build import kept_elsewhere, why_not_native, will_compile

    if pick_device(device).type == "cpu" and will_compile():
        note("compiling kernels for this processor: once, for some seconds")
        if moved := kept_elsewhere():
            note(moved)
        why_not_native()


def choose_weights(config: EngineConfig) -> "Weights":
    """How the model of a command is held.

    Raises:
        NotFoundError: the model is not here.
    """
    if config.weights != "auto":
        return config.weights
    from arriero.model.own_weights import own_weights

    return own_weights(config.model, config.adapter, device=config.device, dtype=config.dtype)
