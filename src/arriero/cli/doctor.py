"""`arriero doctor`: what this machine can run, and why not more."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from arriero.cli.output import console, note, print_json, printable

GIB, GB = 2**30, 10**9


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """How to tell it."""

    json: bool = False
    """Print JSON for scripts."""


def doctor(config: DoctorConfig) -> int:
    """Tell what this machine can run: processor, memory, GPUs, kernels, extras, and the models that fit.

    For what can't be used, the reason and what to install. Nothing is downloaded, compiled or changed. The exit code is
    1 if something is broken that every command needs, else 0.

    Examples:
      arriero doctor
      arriero doctor --json | jq .extras
    """
    from arriero.cli.doctor_facts import gather

    facts = gather()
    if config.json:
        print_json(facts)
    else:
        _show(facts)
    for fault in facts["broken"]:
        print(f"arriero: error: {printable(fault)}", file=sys.stderr)
    return 1 if facts["broken"] else 0


def _show(facts: dict[str, Any]) -> None:
    _table("This machine", _machine(facts["machine"], facts["gpus"]))
    if facts["kernels"]:
        _table("Kernels", _reasons(facts["kernels"]))
    extras = [(_said(not e["missing"]), e["name"] or "(always)", ", ".join(e["brings"])) for e in facts["extras"]]
    _table("Extras", extras, "here", "extra", "brings")
    if facts["fits"]:
        _show_models(facts)
    _table("Server", _reasons(facts["server"]))
    missing = [
        (extra["install"], "for " + ", ".join(extra["missing"])) for extra in facts["extras"] if extra["missing"]
    ]
    if missing:
        _table("To install", missing)


def _show_models(facts: dict[str, Any]) -> None:
    here = list(facts["models"].items()) or [
        ("none", "`arriero model get smollm2-135m-instruct` brings the default one")
    ]
    _table("Models here", here)
    room, fits = facts["room"], facts["fits"]
    where = "main memory that is free now" if room["device"] == "cpu" else "a GPU's memory"
    kinds, methods = (list(next(iter(fits.values()))[name]) for name in ("weights", "training"))
    answer = [(name, *(_held(fit["weights"][kind], fit["context"]) for kind in kinds)) for name, fit in fits.items()]
    _table(f"To answer, in {room['bytes'] / GIB:.1f} GiB of {where}: GB of the weights", answer, "model", *kinds)
    train = [(name, *(_trained(fit["training"][method]) for method in methods)) for name, fit in fits.items()]
    _table("To train, a row at a time: GB of each device", train, "model", *methods)
    note("estimates; `arriero plan` has more of them")


def _machine(machine: dict[str, Any], gpus: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    yield "Python", machine["python"]
    yield "PyTorch", machine["torch"] or "-"
    features = f" ({', '.join(machine['cpu_features'])})" if machine["cpu_features"] else ""
    yield "processor", f"{machine['processor']}{features}"
    yield "processors to use", str(machine["cpus"])
    yield "main memory", f"{machine['memory_bytes'] / GIB:.1f} GiB, {machine['free_bytes'] / GIB:.1f} free now"
    yield "cache", f"{machine['cache']}, {machine['cache_free_bytes'] / GIB:.1f} GiB free on its disk"
    for gpu in gpus:
        yield "GPU", f"{gpu['name']}, {gpu['memory_bytes'] / GIB:.1f} GiB"
    if machine["no_gpu"]:
        yield "GPU", f"none: {machine['no_gpu']}"


def _reasons(found: dict[str, str | None]) -> list[tuple[str, str]]:
    return [(name, "yes" if reason is None else f"no: {reason}") for name, reason in found.items()]


def _said(yes: bool) -> str:
    return "yes" if yes else "no"


def _held(held: dict[str, Any], full: int) -> str:
    if held["bytes"] is None:
        return "-"
    size = f"{held['bytes'] / GB:.2f}"
    if not held["context"]:
        return f"{size} no"
    return f"{size} yes" if held["context"] == full else f"{size} yes, {held['context']:,} tokens"


def _trained(trained: dict[str, Any]) -> str:
    return f"{trained['bytes'] / GB:.2f} {_said(trained['fits'])}"


def _table(title: str, rows: Iterable[tuple[str, ...]], *columns: str) -> None:
    """A table; without names of columns its first one is set off instead."""
    table = Table(box=None, pad_edge=False, header_style="dim", show_header=bool(columns))
    rows = [tuple(escape(printable(cell)) for cell in row) for row in rows]
    for number, column in enumerate(columns or [""] * len(rows[0])):
        table.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    terminal = console()
    terminal.print(f"[bold]{escape(title)}[/]")
    terminal.print(Padding(table, (0, 0, 1, 2), expand=False))
