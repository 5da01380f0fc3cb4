"""`arriero kernels check`: the attention implementations of this machine against the reference."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from rich.table import Table

from arriero.cli.output import console, note, print_json

if TYPE_CHECKING:
    import torch

    from arriero.kernels.attention import Implementation
    from arriero.kernels.check import Checked


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """What to check."""

    device: str = "auto"
    """auto, cpu or cuda."""
    implementations: tuple[str, ...] = ("tiled", "sdpa", "triton")
    """Which ones; repeat the option."""
    full: bool = False
    """Also cross the options with head dims at 200 tokens; minutes on a GPU, long on a CPU."""
    all: bool = False
    """A line for every call and result, not the worst of each implementation and dtype only."""
    json: bool = False
    """Print JSON for scripts."""


def check(config: CheckConfig) -> int:
    """Hold every attention implementation that this machine can run against the fp64 reference.

    Forward and backward, over head dims, lengths, groupings and every option, and decoding over pages. The bound of an
    error is twice that of plain PyTorch in the same dtype, plus 1e-5. Without a GPU the Triton kernels run in Triton's
    interpreter. The exit code is 1 if any result is over its bound, and 2 if nothing can be checked.

    Examples:
      arriero kernels check
      arriero kernels check --implementations tiled --all
    """
    import torch

    from arriero.common.device import pick_device

    device = pick_device(config.device)
    if device.type != "cuda":
        os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is imported
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"

    from arriero.common.progress import progress
    from arriero.kernels.check import check_kernels, count_calls

    chosen = _choose(config.implementations, device)
    checked = []
    with progress("Checking", count_calls(chosen, config.full), "calls") as advance:
        last: tuple[str, ...] = ()
        for one in check_kernels(str(device), chosen, config.full):
            checked.append(one)
            call = one.implementation, one.case, one.dtype
            advance(int(call != last))
            last = call
    failed = [one for one in checked if not one.passed]
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    if config.json:
        print_json(
            {
                "device": where,
                "interpreted": interpreted,
                "failed": len(failed),
                "checked": [_plain(one) for one in checked],
            }
        )
        return int(bool(failed))
    _show(checked if config.all else failed, "every result" if config.all else "over the bound")
    _summarise(checked, interpreted)
    within = sum(one.passed and one.skipped is None for one in checked)
    print(f"{where}: {within} results within the bound, {len(failed)} over it")
    return int(bool(failed))


def _choose(names: Sequence[str], device: "torch.device") -> "tuple[Implementation, ...]":
    """The implementations of these names, in the order of all.

    Raises:
        ArrieroError: there is none of a name, none is named, or none that is named runs here.
    """
    import torch

    from arriero.common.errors import ArrieroError, did_you_mean
    from arriero.kernels.attention import IMPLEMENTATIONS, why_not
    from arriero.kernels.options import Options

    known = IMPLEMENTATIONS[1:]
    for name in names:
        if name not in known:
            near = did_you_mean(name, known)
            raise ArrieroError(f"implementations: expected some of {', '.join(known)}, got '{name}'{near}")
    if not names:
        raise ArrieroError(f"implementations: expected some of {', '.join(known)}, got none")
    if device.type not in ("cpu", "cuda"):
        raise ArrieroError(f"device: expected cpu or cuda, got {device}; give --device cpu")
    chosen = tuple(name for name in known if name in names)
    q = torch.empty(1, 1, 1, 16, device=device)
    reasons = {name: why_not(name, q, Options()) for name in chosen}
    if all(reasons.values()):
        told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise ArrieroError(f"nothing can be checked here: {told}")
    return chosen


def _plain(one: "Checked") -> dict[str, Any]:
    """As JSON has it, which knows no NaN and no infinity: those become null."""
    return {name: None if isinstance(x, float) and not isfinite(x) else x for name, x in asdict(one).items()}


def _summarise(checked: Iterable["Checked"], interpreted: bool) -> None:
    """A line for each implementation and dtype: how many results, and the one that comes nearest to its bound."""
    groups: dict[tuple[str, str], list[Checked]] = defaultdict(list)
    reasons: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one in checked:
        if one.skipped is None:
            groups[one.implementation, one.dtype].append(one)
        else:
            reasons[one.implementation, one.skipped].add(one.dtype)
    table = Table(box=None, pad_edge=False)
    for column in ("implementation", "dtype"):
        table.add_column(column)
    for column in ("results", "nearest to its bound", "error", "bound"):
        table.add_column(column, justify="right")
    for (implementation, dtype), results in groups.items():
        worst = max(results, key=lambda one: one.closeness)
        how = " (interpreted)" if implementation == "triton" and interpreted else ""
        numbers = f"{worst.error:.1e}", f"{worst.bound:.1e}"
        table.add_row(implementation + how, dtype, str(len(results)), f"{worst.result}, {worst.case}", *numbers)
    console().print(table, markup=False)
    for (implementation, reason), dtypes in reasons.items():
        note(f"{implementation} left out some calls ({', '.join(sorted(dtypes))}): {reason}")


def _show(results: Iterable["Checked"], title: str) -> None:
    rows = [one for one in results if one.skipped is None]
    if not rows:
        return
    table = Table(title=title, box=None, pad_edge=False)
    for column in ("implementation", "dtype", "case", "result"):
        table.add_column(column)
    for column in ("error", "bound"):
        table.add_column(column, justify="right")
    for one in rows:
        table.add_row(one.implementation, one.dtype, one.case, one.result, f"{one.error:.1e}", f"{one.bound:.1e}")
    console().print(table, markup=False)
