"""What a measurement was made on."""

import os
import platform

import torch

from arriero.common.hardware import processor


def machine_facts(device: torch.device) -> dict[str, str | int]:
    """Processor, threads and versions; on CUDA the GPU's name too."""
    facts: dict[str, str | int] = {
        "processor": processor(),
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
