"""What this machine has: processor, cores, memory. Nothing here needs more than Python: it can always be told."""

import os
import platform
from pathlib import Path

_INTERESTING = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "asimddp", "i8mm", "sve")
"""Instructions that matter to products of matrices."""
_CGROUPS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
"""Where a container's limit and use stand, in versions 2 and 1."""


def processor() -> str:
    """The processor's name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_features() -> list[str]:
    """Its vector and matrix instructions, where Linux tells them."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features") or "").split()
    return [name for name in _INTERESTING if name in flags]


def usable_cpus() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def total_memory(root: Path = Path("/")) -> int:
    """Bytes of main memory, or the container's limit where that is less."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [limit for limit, _ in _cgroup(root)]
    return min([installed, *limits])


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that programs can still have; where the system doesn't tell, all there is."""
    free = [limit - used for limit, used in _cgroup(root)]
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        lines = []
    free += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return max(0, min([total_memory(root), *free]))


def _cgroup(root: Path) -> list[tuple[int, int]]:
    """(limit, use) of memory, where there is a limit."""
    found = []
    for limit, used in _CGROUPS:
        try:
            numbers = [(root / "sys/fs/cgroup" / name).read_text().strip() for name in (limit, used)]
        except OSError:
            continue
        if all(map(str.isdecimal, numbers)):  # "max" is no limit
            found.append((int(numbers[0]), int(numbers[1])))
    return found


def _cpuinfo(key: str) -> str | None:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), None)
