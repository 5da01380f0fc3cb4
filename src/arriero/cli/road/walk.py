"""Walking the road: which stages, in which order; what is done is passed over, and what was interrupted goes on."""

import gc
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace

from arriero.cli.main import call
from arriero.cli.output import console, note
from arriero.cli.road.record import Record, read_record
from arriero.cli.road.stage import Road, Stage
from arriero.cli.road.stages import ANSWER, STAGES
from arriero.common.errors import ArrieroError

RECORDS = "stages"
"""The folder of the stages' records, below the road's."""
CARD = "card"
STOPPED = "{} was stopped: the same command goes on from there"
ORDER = (ANSWER.name, *(stage.name for stage in STAGES), CARD)


def choose(only: Sequence[str], skip: Sequence[str], until: str | None) -> list[str]:
    """The names of the stages that are asked for, in order.

    Raises:
        ArrieroError: they contradict each other, or none is left.
    """
    if only and (skip or until):
        raise ArrieroError("--only names all stages that are wanted: leave out --skip and --until")
    last = len(ORDER) if until is None else ORDER.index(until) + 1
    names = [name for name in ORDER[:last] if name not in skip and (not only or name in only)]
    if not names:
        raise ArrieroError(f"no stage is left: there are {', '.join(ORDER)}")
    return names


def walk(road: Road, names: Sequence[str], only: Sequence[str], *, quiet: bool) -> bool:
    """Go through the chosen stages between answer and card; whether all came to their end.

    A stage whose needs are not there, because they were skipped, is left out and told; with `only` it is an error.

    Args:
        names: the chosen stages.
        only: those that were asked for by name.
        quiet: keep the output stream free: what commands print goes to the error stream.

    Raises:
        ArrieroError: a stage fails; what was done before stays.
    """
    for stage in STAGES:
        if stage.name not in names:
            continue
        if missing := [need for need in stage.needs if not is_done(road, need)]:
            lacks = f"{stage.name} needs what {' and '.join(missing)} makes"
            if stage.name in only:
                raise ArrieroError(f"{lacks}, which is not in {road.path}: --until {stage.name} makes that first")
            note(f"({lacks}: it is left out)")
        elif is_done(road, stage.name):
            note(f"({stage.name}: done before)")
        elif not _do(road, stage, quiet=quiet):
            note(STOPPED.format(stage.name))
            return False
    return True


def is_done(road: Road, name: str) -> bool:
    """Whether a stage came to its end, and its result is still there."""
    record = read_record(road / RECORDS, name)
    made = next(stage.made for stage in (ANSWER, *STAGES) if stage.name == name)
    return record is not None and record.done and (road / made).exists()


def keep_record(road: Road, stage: Stage, work: Callable[[], bool]) -> bool:
    """Do a stage's work and keep what it took; whether it came to its end."""
    folder = road / RECORDS
    calls = [str(call) for call in stage.calls(road)]
    record = Record(name=stage.name, title=stage.title, tells=stage.tells, calls=calls, runs=list(stage.runs))
    if (before := read_record(folder, stage.name)) is not None:
        record = replace(record, began=before.began) if before.done else replace(before, calls=calls)
    with record.measured(folder):
        record.done = work() and (road / stage.made).exists()
    return record.done


def _do(road: Road, stage: Stage, *, quiet: bool) -> bool:
    """Prepare and call the commands, showing them."""
    from arriero.train.speed import release_freed_memory

    number = ORDER.index(stage.name) + 1
    out = console(error=quiet)
    out.print(f"\n{number}/{len(ORDER)} {stage.title}", style="bold cyan", markup=False)
    out.print(stage.tells, style="dim", markup=False)

    def work() -> bool:
        stage.prepare(road)
        for each in stage.calls(road):
            out.print(f"$ {each}", style="bold", markup=False, soft_wrap=True)
            with redirect_stdout(sys.stderr) if quiet else nullcontext():
                code = call(each.name, list(each.words))
            if code or (each.makes is not None and not each.makes.exists()):
                return False
        return True

    try:
        done = keep_record(road, stage, work)
    except KeyboardInterrupt:
        note(STOPPED.format(stage.name))
        raise
    gc.collect()  # a stage's models are large, and refer to themselves
    release_freed_memory()
    return done
