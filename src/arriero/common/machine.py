"""What a measurement was made on."""

import os
import platform
from pathlib import Path

import torch


def machine_facts(device: torch.device) -> dict[str, str | int]:
    """Processor, threads and versions; on CUDA the GPU's name too."""
    facts: dict[str, str | int] = {
        "processor": _processor(),
        "cpus": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def machine_line(device: torch.device) -> str:
    """The same in one line."""
    facts = machine_facts(device)
    gpu = f"{facts['gpu']}, " if "gpu" in facts else ""
    return (
        f"{gpu}{facts['processor']}, {facts['cpus']} CPUs, {facts['threads']} threads, Python {facts['python']}, "
        f"torch {facts['torch']}"
    )


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
