"""The most memory that a function holds at one time.

On a CPU it is counted by PyTorch's profiler, which hears of every tensor's storage as it comes and goes, and so of the
buffers inside PyTorch's own kernels too. They are read from the trace that it exports: its list of events sums up what
each operation keeps, which hides what it held meanwhile. Not counted are buffers that a library takes from the system
itself.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.profiler import ProfilerActivity, profile


def peak_memory(function: Callable[[], object], device: torch.device | str) -> int:
    """The most bytes that are allocated at one time on `device`, above those at the start, while `function()` runs.

    What the function returns is counted too; what was there before and is freed meanwhile isn't subtracted on a CPU.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        torch.cuda.synchronize(device)
        peak: int = torch.cuda.max_memory_allocated(device)
        return peak - before
    with _silent_stderr(), TemporaryDirectory() as folder:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            function()
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_bytes())["traceEvents"]
    changes = [event for event in events if event["name"] == "[memory]"]
    changes.sort(key=lambda event: event["ts"])
    sizes: list[int] = [event["args"]["Bytes"] for event in changes]
    return max(accumulate(sizes, initial=0))


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Drop what the profiler, which is C++, writes on the error stream at each start and stop."""
    sys.stderr.flush()
    with Path(os.devnull).open("w") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
