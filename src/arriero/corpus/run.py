"""From raw files to a corpus: every source through its recipe, resumable at any moment.

    OUT/wikipedia/00000-00000.jsonl.zst …   documents, for `arriero tokenize`
    OUT/.run/wikipedia/recipe.toml          the settings that the source was begun with
    OUT/.run/wikipedia/inputs.json          its files and their sizes
    OUT/.run/wikipedia/ledger.json          the account, when it is done

A source that is begun again with other settings, models or files is refused, and told what differs.
"""

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from arriero.common.errors import ArrieroError, NotFoundError, require
from arriero.common.files import sha256
from arriero.common.lock import hold_lock
from arriero.common.settings import flatten, read_settings, told, write_settings
from arriero.corpus.executor_config import ExecutorConfig
from arriero.corpus.inputs import Input, check_inputs, find_inputs, save_inputs
from arriero.corpus.ledger import Ledger
from arriero.corpus.recipes import WHOLE_FOLDERS, build_recipe
from arriero.corpus.rows import RowFormat
from arriero.corpus.source import SourceConfig
from arriero.corpus.stages import Stage, Work

RECIPES = 1
"""Version of the rules: documents that were made by another are not mixed with these."""
RUN = ".run"
_WAIT_S = 5.0  # workers of a run that was killed hold the lock a moment longer than it lived


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """What decides a source's documents, beside its files."""

    source: SourceConfig
    format: RowFormat
    recipes: int = RECIPES
    assets: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each model and word list."""


Bar = Callable[[str, str, Callable[[], tuple[int, int]]], AbstractContextManager[Callable[[], None]]]
"""Takes a source, a stage, and a function that tells (done, all); yields a function that looks again."""


def make_corpus(
    out: Path,
    sources: Mapping[str, SourceConfig],
    format: RowFormat = "jsonl.zst",
    executor: ExecutorConfig | None = None,
    bar: Bar | None = None,
) -> dict[str, Ledger]:
    """Make the corpus in the folder `out`, going on with what is there.

    Returns:
        Each source's account; of none on Slurm, where the jobs are only handed over.

    Raises:
        ArrieroError: a source's settings or files differ from those it was begun with, or its files do not exist.
    """
    require("datatrove", extra="corpus", purpose="`arriero corpus run`")
    executor = executor or ExecutorConfig()
    works = {name: _prepare(out, name, source, format) for name, source in _named(out, sources).items()}
    with hold_lock(out / RUN / "writer.lock", wait_s=_WAIT_S, what="the corpus"):
        for leftover in out.rglob(".*.part"):  # of a run that was killed while it wrote
            leftover.unlink(missing_ok=True)
        for name, (work, settings) in works.items():
            if not (work.folder / "recipe.toml").exists():
                save_inputs(work.folder / "inputs.json", work.inputs)
                write_settings(work.folder / "recipe.toml", settings)
            _execute(name, work, executor, bar)
    return {name: Ledger.load(work.account) for name, (work, _) in works.items() if work.account.exists()}


def read_ledgers(out: Path) -> dict[str, Ledger]:
    """The account of each source that is done.

    Raises:
        NotFoundError: there is no corpus in the folder, or no source of it is done.
    """
    accounts = sorted((out / RUN).glob("*/ledger.json"))
    if not accounts:
        raise NotFoundError(f"no finished source in {out}: expected the folder of an `arriero corpus run`")
    return {path.parent.name: Ledger.load(path) for path in accounts}


def _named(out: Path, sources: Mapping[str, SourceConfig]) -> Mapping[str, SourceConfig]:
    if not sources:
        raise ArrieroError(
            "expected at least one source, got none: name some in a --config file, or by --raw KIND=PATH"
        )
    for name in sources:
        if not re.fullmatch(r"[\w-][\w.-]*", name):
            raise ArrieroError(f"source '{name}': expected a name of letters, digits, - and _")
    if out.exists() and not out.is_dir():
        raise ArrieroError(f"{out} is a file: choose a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / RUN).is_dir():
        raise ArrieroError(f"{out} is not empty and holds no corpus: choose another folder")
    return sources


def _prepare(out: Path, name: str, source: SourceConfig, kind: RowFormat) -> tuple[Work, _Settings]:
    """A source's work, checked against what was begun; nothing is written."""
    inputs = find_inputs(source.paths, whole_folders=source.kind in WHOLE_FOLDERS)
    build = partial(build_recipe, source)
    work = Work(name, build, inputs, out / name, out / RUN / name, kind)
    build()  # what is wrong with it is told before anything is written
    settings = _Settings(source=source, format=kind, assets={str(path): _digest(path) for path in source.assets})
    _check(work, settings, inputs)
    return work, settings


def _check(work: Work, settings: _Settings, inputs: tuple[Input, ...]) -> None:
    path = work.folder / "recipe.toml"
    if not path.exists():
        if work.out.is_dir() and any(work.out.iterdir()):
            raise ArrieroError(f"{work.out} is not empty and no source was begun there: choose another name or folder")
        return
    old, new = read_settings(path), flatten(settings)
    if differing := [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]:
        listed = "; ".join(f"{key} was {told(old.get(key))}, is {told(new.get(key))}" for key in differing)
        raise ArrieroError(
            f"source '{work.source}' was begun with other settings: {listed}. Give those, or choose another folder"
        )
    check_inputs(work.folder / "inputs.json", inputs)


def _digest(path: Path) -> str:
    if not path.exists():
        raise NotFoundError(f"no such file or folder: {path}")
    files = sorted(inner for inner in path.rglob("*") if inner.is_file()) if path.is_dir() else [path]
    return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()


def _execute(name: str, work: Work, executor: ExecutorConfig, bar: Bar | None) -> None:
    from arriero.corpus import engine

    logs, workers = work.folder / "logs", executor.workers or -1
    if executor.executor == "slurm":
        options = {"partition": executor.partition, "time": executor.time, "mem_per_cpu_gb": executor.memory}
        lanes = executor.workers or max(64, len(work.groups))
        engine.run_slurm(_left(work, lanes), logs, workers, env_command=executor.setup, **options)
        return
    cores = _cores() if executor.workers is None else executor.workers
    for stage in _left(work, max(len(work.groups), 8 * cores)):
        with bar(name, stage.name, stage.progress) if bar else nullcontext(lambda: None) as look:
            if executor.executor == "ray":
                engine.run_ray(stage, logs, workers, executor.memory)
            else:
                engine.run_local(stage, logs, cores, look)


def _left(work: Work, lanes: int) -> list[Stage]:
    """The stages of a source that are not done; when its account is written, what lies between is not needed."""
    stages = work.stages(lanes)
    return stages[-1:] if work.account.exists() else stages


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
