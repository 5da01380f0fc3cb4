"""What `arriero doctor` tells. PyTorch and the rest of the package are imported late: they may be what is broken."""

import dataclasses
import errno
import os
import platform
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arriero.common.errors import NotFoundError
from arriero.common.extras import Extra, read_extras
from arriero.common.files import cache_folder
from arriero.common.hardware import cpu_features, free_memory, processor, total_memory, usable_cpus

if TYPE_CHECKING:
    from arriero.train.capacity import Room

SHOWN = ("smollm2-135m", "llama2-7b", "llama2-13b", "llama-33b", "llama2-70b")
"""A preset of each size."""
_OURS = ("dev", "docs")
"""Extras for work on arriero itself, which `make` installs."""
_LOOPBACK = "127.0.0.1"


def gather() -> dict[str, Any]:
    """All of it, as JSON has it; what PyTorch is needed for is empty where that can't be imported."""
    extras = [extra for extra in read_extras() if extra.name not in _OURS]
    facts: dict[str, Any] = {
        "machine": _machine(),
        "gpus": [],
        "kernels": {},
        "extras": [{**dataclasses.asdict(extra), "install": extra.install} for extra in extras],
        "models": {},
        "fits": {},
        "server": {"opens a browser": _why_no_browser(), **_port()},
        "broken": list(_broken(extras)),
    }
    if any(extra.missing for extra in extras if not extra.name):
        return facts  # what comes now would be the first to fail
    try:
        import torch
    except (ImportError, OSError) as error:
        told = str(error).splitlines()
        facts["broken"].append(f"PyTorch can't be imported ({told[0] if told else error!r}): install it again")
        return facts
    facts["machine"] |= {"torch": torch.__version__, "no_gpu": _why_no_gpu()}
    facts["gpus"] = _gpus()
    facts["kernels"] = _kernels()
    facts["models"] = _models_here()
    room = _room(facts)
    return facts | {"room": dataclasses.asdict(room), "fits": _fits(room)}


def _machine() -> dict[str, Any]:
    cache = cache_folder()
    return {
        "python": platform.python_version(),
        "torch": None,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cpu_features": cpu_features(),
        "cpus": usable_cpus(),
        "memory_bytes": total_memory(),
        "free_bytes": free_memory(),
        "cache": str(cache),
        "cache_free_bytes": shutil.disk_usage(_existing(cache)).free,
        "no_gpu": None,
    }


def _existing(path: Path) -> Path:
    """The folder, or the one above in which it would be made."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def _broken(extras: list[Extra]) -> list[str]:
    """What no command can do without."""
    faults = [
        f"a package that arriero needs is missing or of another version: {', '.join(extra.missing)}: {extra.install}"
        for extra in extras
        if not extra.name and extra.missing
    ]
    cache = cache_folder()
    if not os.access(_existing(cache), os.W_OK) or (cache.exists() and not cache.is_dir()):
        faults.append(f"the cache {cache} can't be written: mend its owner, or set ARRIERO_CACHE to a folder of yours")
    return faults


def _why_no_gpu() -> str | None:
    import torch

    if torch.cuda.is_available() or torch.backends.mps.is_available():
        return None
    if torch.version.cuda or torch.version.hip:
        return "PyTorch is built for GPUs, but finds no GPU or no driver"
    return "PyTorch is built without CUDA; pytorch.org has the builds that use a GPU"


def _gpus() -> list[dict[str, Any]]:
    import torch

    every = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in every]


def _kernels() -> dict[str, str | None]:
    """Why each implementation can't be used; None where it can."""
    import torch

    from arriero.common.device import pick_device
    from arriero.kernels.attention import IMPLEMENTATIONS, why_not
    from arriero.kernels.native.build import kept_elsewhere, why_not_native, will_compile
    from arriero.kernels.options import Options

    device = pick_device()
    q = torch.empty(1, 1, 1, 64, device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    found = {f"attention by {name}": why_not(name, q, Options()) for name in IMPLEMENTATIONS}
    if moved := kept_elsewhere():
        found[f"a library for this CPU, though {moved}"] = None
    if will_compile():
        return found | {"compiled for this CPU, at first use": None}
    return found | {"compiled for this CPU": why_not_native()}


def _models_here() -> dict[str, str]:
    """Where each model is that was fetched, from the package index or the Hugging Face hub."""
    from huggingface_hub.constants import HF_HUB_CACHE

    from arriero.model.source import NAMED, resolve

    found = {}
    for name in NAMED:
        try:
            found[name] = str(resolve(name))
        except NotFoundError:
            continue
    folders = sorted(Path(HF_HUB_CACHE).glob("models--*--*"))
    return found | {"/".join(folder.name.split("--")[1:]): str(folder) for folder in folders}


def _room(facts: dict[str, Any]) -> "Room":
    from arriero.train.capacity import Room
    from arriero.train.plan import USABLE

    free = facts["machine"]["free_bytes"]
    if facts["gpus"]:
        least = min(gpu["memory_bytes"] for gpu in facts["gpus"])
        return Room("cuda", len(facts["gpus"]), int(USABLE * least), main_bytes=free)
    return Room("cpu", 1, free, main_bytes=free)


def _fits(room: "Room") -> dict[str, Any]:
    from arriero.model.presets import PRESETS
    from arriero.train.capacity import hold, train

    return {
        name: {
            "context": PRESETS[name].max_seq_len,
            "weights": {kind: dataclasses.asdict(held) for kind, held in hold(PRESETS[name], room).items()},
            "training": {method: dataclasses.asdict(way) for method, way in train(PRESETS[name], room).items()},
        }
        for name in SHOWN
    }


def _why_no_browser() -> str | None:
    from arriero.cli.serve import has_display

    return None if has_display() else "there is no display: open the address on another machine, through an ssh tunnel"


def _port() -> dict[str, str | None]:
    from arriero.cli.serve import ServeConfig

    port = ServeConfig.port
    name = f"finds port {port} free"
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_LOOPBACK, port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            return {name: f"{'another program listens there' if taken else error.strerror}: give --port"}
    return {name: None}
