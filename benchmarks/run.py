"""All benchmarks in one command: each a process of its own, beside its peer; one table, and a chart for each area.

Environments of the peers that need a Python of their own (TRL, llama.cpp) are built the first time, in `--peers`. What
is measured is kept in `benchmarks/results/`, a file for each benchmark, and from there the summary at the top of
`benchmarks/RESULTS.md` and the charts in `benchmarks/charts/` are written; the rest of RESULTS.md is written by hand
and stays. A benchmark that fails is told of, and the others go on; a missing file of data or a peer that can't be built
likewise. The same command again goes on where it was stopped, and does again what failed.

    python benchmarks/run.py [--only AREA|SCRIPT …] [--quick] [--threads 1] [--peers FOLDER] [--data FOLDER]
    python benchmarks/run.py --list
    python benchmarks/run.py --write-only
"""

import argparse
import contextlib
import datetime
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
from catalogue import AREAS, BENCHMARKS, BY_NAME, Benchmark
from charts import draw_charts
from figures import read_figure
from peers import PeerMissing, Ready, prepare
from results import CHARTS, Mode, Result, Run, read_result, read_results, write_result, write_summary

from arriero.common.errors import ArrieroError
from arriero.common.files import atomic_file, cache_folder
from arriero.common.machine import machine_line

HERE = Path(__file__).parent
UNFINISHED = "unfinished.json"


class NotMeasuredError(Exception):
    """Why a benchmark gives nothing, in one line."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where everything lies, and how it is run."""

    mode: Mode
    threads: int | None = None
    data: Path
    peers: Path
    scripts: Path = HERE
    home: Path = HERE
    """Has `RESULTS.md`, and gets `results` and `charts`."""
    names: tuple[str, ...] = field(default_factory=lambda: tuple(BY_NAME))

    @property
    def results(self) -> Path:
        """Folder of what is kept."""
        return self.home / "results"

    def file_of(self, name: str) -> Path:
        """What is kept of a benchmark."""
        return self.results / f"{name}.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is asked for and write the summary; 1 if something could not be measured, 2 if that can't be done."""
    options = parse(argv)
    chosen = choose(options.only)
    settings = Settings(
        mode="quick" if options.quick else "full",
        threads=options.threads,
        data=options.data.absolute(),
        peers=options.peers.absolute(),
        names=tuple(one.name for one in chosen),
    )
    try:
        if options.list:
            tell_list(chosen, settings)
            return 0
        failed = [] if options.write_only else run_all(settings, again=options.again)
        write(settings)
    except ArrieroError as error:
        print(f"benchmarks/run.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped: the same command goes on from here", file=sys.stderr)
        return 130
    for line in failed:
        print(f"not measured: {line}", file=sys.stderr)
    return 1 if failed else 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*AREAS, *(f"{name}.py" for name in BY_NAME)]
    parser.add_argument("--only", nargs="+", metavar="AREA", choices=names, help="areas or scripts: --list has them")
    parser.add_argument("--quick", action="store_true", help="fewer repeats and cases, without what takes long")
    parser.add_argument("--threads", type=int, help="of each side; 1: processor time (default: each benchmark's own)")
    parser.add_argument("--list", action="store_true", help="tell what there is, and about how long it takes")
    parser.add_argument("--write-only", action="store_true", help="write table and charts of what is kept")
    parser.add_argument("--again", action="store_true", help="begin anew, not where an earlier run was stopped")
    default = Path(os.environ.get("ARRIERO_DATA") or HERE.parents[1] / "shared" / "data")
    parser.add_argument("--data", type=Path, default=default, help="folder of data (default: %(default)s)")
    parser.add_argument("--peers", type=Path, help="folder of the peers' environments (default: arriero's cache)")
    options = parser.parse_args(argv)
    if options.threads is not None and options.threads < 1:
        parser.error(f"--threads: expected 1 or more, got {options.threads}")
    options.peers = options.peers or cache_folder() / "peers"
    return options


def choose(only: Sequence[str] | None) -> list[Benchmark]:
    """Those of the areas, and the scripts, that are asked for; all if none is."""
    return [one for one in BENCHMARKS if only is None or one.area in only or f"{one.name}.py" in only]


def tell_list(chosen: Sequence[Benchmark], settings: Settings) -> None:
    """Area, name, estimated minutes, peer, and what is missing."""
    print(f"{'area':<14}{'script':<24}{'minutes':>8}{'quick':>7}  peer's environment; data that is missing")
    for one in chosen:
        quick = f"{one.minutes[1]:g}" if one.quick is not None else "–"
        lacks = f"; no {', '.join(missing_data(one, settings.data))}" if missing_data(one, settings.data) else ""
        print(f"{one.area:<14}{one.name + '.py':<24}{one.minutes[0]:>8g}{quick:>7}  {one.peer or '–'}{lacks}")


def run_all(settings: Settings, *, again: bool) -> list[str]:
    """Each benchmark that is not done; why some gave nothing."""
    todo = [BY_NAME[name] for name in settings.names if settings.mode == "full" or BY_NAME[name].quick is not None]
    done = [] if again else read_done(settings)
    left = [one for one in todo if one.name not in done]
    if done:
        print(f"going on where it was stopped: {len(done)} of {len(todo)} are done (--again does all)", file=sys.stderr)
    failed = []
    for number, one in enumerate(left, 1):
        minutes = sum(estimate(each, settings) for each in left[number - 1 :])
        about = f"about {estimate(one, settings):.0f} min, {minutes:.0f} min left in all"
        print(f"[{number} of {len(left)}] {one.name}: {about}", file=sys.stderr, flush=True)
        try:
            why = run_one(one, settings)
        except NotMeasuredError as error:
            why = str(error)
            keep_reason(one, settings, why)
        if why:
            failed.append(f"{one.name}: {why}")
            print(f"{one.name}: {why}", file=sys.stderr, flush=True)
        else:
            done.append(one.name)
            write_done(settings, done)
    if not failed:
        (settings.results / UNFINISHED).unlink(missing_ok=True)
    return failed


def estimate(one: Benchmark, settings: Settings) -> float:
    """Minutes: as long as it took the last time, or about as long as the catalogue says."""
    took = read_result(settings.file_of(one.name)).took(settings.mode)
    return took / 60 if took else one.minutes[settings.mode == "quick"]


def run_one(one: Benchmark, settings: Settings) -> str:
    """Run a benchmark and keep what it tells; why something is missing, empty if nothing is.

    Raises:
        NotMeasuredError: it gave nothing.
    """
    if lacks := missing_data(one, settings.data):
        raise NotMeasuredError(f"{settings.data} has no {', '.join(lacks)}")
    ready, why = None, ""
    try:
        ready = prepare(one.peer, settings.peers) if one.peer else None
    except PeerMissing as error:
        why = str(error)
        if not one.alone:
            raise NotMeasuredError(why) from error
    words = arguments(one, settings, ready)
    began, load = time.monotonic(), os.getloadavg()[0]
    figures = measure(one, words, settings, ready)
    run = Run(
        mode=settings.mode,
        command=command_line(one, words, settings),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        commit=commit(settings.scripts),
        machine=machine(settings, one),
        versions={name: version(name) for name in one.versions} | (ready.versions if ready else {}),
        seconds=round(time.monotonic() - began, 1),
        load=round(load, 1),
        figures=tuple(read_figure(figure) for figure in figures),
    )
    earlier = read_result(settings.file_of(one.name))
    whole = settings.mode == "full" and not why
    write_result(settings.file_of(one.name), earlier.with_run(run, whole=whole, why=why))
    shutil.rmtree(keep_of(one, settings), ignore_errors=True)  # the next run measures anew
    return why


def measure(one: Benchmark, words: Sequence[str], settings: Settings, ready: Ready | None) -> list[dict]:
    """The process, and the figures that it prints; a missed target is status 1, and no failure."""
    command = [sys.executable, str(settings.scripts / f"{one.name}.py"), *words]
    environment = os.environ | {"ARRIERO_DATA": str(settings.data)} | (ready.environment if ready else {})
    if settings.threads:
        environment |= {"OMP_NUM_THREADS": str(settings.threads)}
    if one.name == "attention":
        environment.setdefault("GOMP_SPINCOUNT", "1000")  # as the `arriero` command sets it
    folder = settings.peers / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    told, log = folder / f"{one.name}.json", folder / f"{one.name}.log"
    with told.open("w", encoding="utf-8") as output, log.open("w", encoding="utf-8") as errors:
        status = wait_for(subprocess.Popen(command, stdout=output, stderr=errors, env=environment))
    try:
        figures = json.loads(told.read_text("utf-8"))["targets"]
    except (ValueError, KeyError, TypeError) as error:
        said = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
        last = said[-1] if said else "it said nothing"
        raise NotMeasuredError(f"it ended with {status}: {last} (all of it: {log})") from error
    return list(figures)


def wait_for(process: subprocess.Popen[bytes]) -> int:
    """Its status; on a terminal the minutes so far. It ends with us."""
    began = time.monotonic()
    try:
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)
            if sys.stderr.isatty():
                print(f"  {(time.monotonic() - began) / 60:.1f} min", end="\r", file=sys.stderr, flush=True)
    finally:
        process.terminate()
    return process.wait()


def arguments(one: Benchmark, settings: Settings, ready: Ready | None) -> list[str]:
    """The script's, with all places filled in."""
    text = one.full if settings.mode == "full" else one.quick
    assert text is not None
    words = [word.format(data=settings.data, keep=keep_of(one, settings)) for word in text.split()]
    if one.peer_option and ready:
        words += [one.peer_option, str(ready.python)]
    if one.threads and settings.threads:
        words += ["--threads", str(settings.threads)]
    return [*words, "--json"]


def keep_of(one: Benchmark, settings: Settings) -> Path:
    """Where a benchmark that was stopped finds what it made."""
    return settings.peers / "kept" / f"{one.name}-{settings.mode}"


def command_line(one: Benchmark, words: Sequence[str], settings: Settings) -> str:
    """As somebody would type it, with words in the place of this machine's folders."""
    named = [word.replace(str(settings.data), "DATA").replace(str(settings.peers), "PEERS") for word in words]
    before = f"OMP_NUM_THREADS={settings.threads} " if settings.threads and not one.threads else ""
    return f"{before}python benchmarks/{one.name}.py {shlex.join(named)}"


def missing_data(one: Benchmark, folder: Path) -> list[str]:
    """Files or folders that it needs and that are not there."""
    return [name for name in one.data if not (folder / name).exists()]


def machine(settings: Settings, one: Benchmark) -> str:
    """The machine in one line, with the threads that a benchmark was given."""
    line = machine_line(torch.device("cpu"))
    return (
        line.replace(f"{torch.get_num_threads()} threads", f"{settings.threads} threads") if settings.threads else line
    )


def commit(folder: Path) -> str:
    """Of the working tree; empty where it is none."""
    asked = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--match", "-"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def keep_reason(one: Benchmark, settings: Settings, why: str) -> None:
    """Where nothing was measured ever, the table says why; where something was, it stays as it is."""
    if not read_result(settings.file_of(one.name)).runs:
        write_result(settings.file_of(one.name), Result(why=why))


def read_done(settings: Settings) -> list[str]:
    """What an earlier run of the same benchmarks has done, if it was stopped."""
    path = settings.results / UNFINISHED
    if not path.is_file():
        return []
    told = json.loads(path.read_text("utf-8"))
    return list(told["done"]) if told["of"] == _asked(settings) else []


def write_done(settings: Settings, done: Sequence[str]) -> None:
    """So that the same command goes on from here."""
    with atomic_file(settings.results / UNFINISHED) as aside:
        aside.write_text(json.dumps({"of": _asked(settings), "done": list(done)}) + "\n", "utf-8")


def _asked(settings: Settings) -> list[object]:
    return [settings.mode, settings.threads, list(settings.names)]


def write(settings: Settings) -> None:
    """Charts and table of all that is kept."""
    results = read_results(settings.results)
    drawn = draw_charts(settings.home / CHARTS, results)
    write_summary(settings.home / "RESULTS.md", results, drawn)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no benchmark goes on without us
    sys.exit(main())
