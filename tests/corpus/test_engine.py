"""Stages by datatrove's executors: processes of this machine, and the jobs that Slurm is handed."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("datatrove")

from arriero.common.errors import ArrieroError
from arriero.corpus import engine
from arriero.corpus.engine import RunStage, run_local, run_slurm
from arriero.corpus.inputs import find_inputs
from arriero.corpus.ledger import Ledger
from arriero.corpus.stages import Work
from tests.corpus.recipe_of_lines import recipe_of_lines, write_lines

FILES = [["alpha", "beta", "bad"], ["beta", "gamma"], ["delta", "broken", "alpha and more"]]

RUNNER = """
import sys
from pathlib import Path
from tests.corpus.test_engine import run_all
if __name__ == "__main__":
    run_all(Path(sys.argv[1]), Path(sys.argv[2]), 2)
"""


def work_in(folder: Path, raw: Path) -> Work:
    inputs = find_inputs([raw], whole_folders=False)
    return Work("lines", recipe_of_lines, inputs, folder / "lines", folder / ".run" / "lines", "jsonl", group_bytes=1)


def run_all(folder: Path, raw: Path, workers: int) -> Ledger:
    work = work_in(folder, raw)
    for stage in work.stages(4):
        run_local(stage, work.folder / "logs", workers, lambda: None)
    return Ledger.load(work.account)


def documents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "lines").glob("*.jsonl"))}


def test_one_worker_and_two_make_the_same(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    raw = write_lines(tmp_path / "raw", FILES)
    assert run_all(tmp_path / "one", raw, 1) == run_all(tmp_path / "two", raw, 2)
    assert documents(tmp_path / "one") == documents(tmp_path / "two") != {}
    assert capfd.readouterr() == ("", "")


def test_a_killed_run_is_completed_by_a_second(tmp_path: Path) -> None:
    raw = write_lines(tmp_path / "raw", [[f"line {file} {i}" for i in range(4000)] for file in range(6)])
    run_all(tmp_path / "whole", raw, 2)
    script = tmp_path / "runner.py"
    script.write_text(RUNNER)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script), str(tmp_path / "killed"), str(raw)]
    child = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not list((tmp_path / "killed").rglob("*.ledger.json")) and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    run_all(tmp_path / "killed", raw, 2)
    assert documents(tmp_path / "killed") == documents(tmp_path / "whole")


@dataclass(frozen=True)
class Full:
    """A stage in which one task finds the disk full."""

    name: str = "read"
    tasks: int = 3
    complete: bool = False

    def run(self, task: int) -> None:
        if task == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def progress(self) -> tuple[int, int]:
        return 0, 3


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_in_a_stage_is_told_there_and_not_by_the_next(tmp_path: Path, workers: int) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        run_local(Full(), tmp_path / "logs", workers, lambda: None)


@dataclass(frozen=True)
class Ended(Full):
    """A stage in which the system ends a process."""

    def run(self, task: int) -> None:
        if task == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_the_system_ends_is_told_and_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(ArrieroError, match=r"read: a process died, .* fewer --workers than 2"):
        run_local(Ended(), tmp_path / "logs", 2, lambda: None)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for Slurm's programs, which note their calls in the file `calls`."""
    for name, script in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    path = (str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"])
    monkeypatch.setenv("PATH", os.pathsep.join(path))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.mark.usefixtures("slurm")
def test_slurm_gets_jobs_that_wait_for_each_other_and_do_the_same(tmp_path: Path) -> None:
    raw = write_lines(tmp_path / "raw", FILES)
    work = work_in(tmp_path / "slurm", raw)
    run_slurm(work.stages(2), tmp_path / "logs", 2, partition="cpu", time="1:00:00", mem_per_cpu_gb=2)
    arrays = [call for call in (tmp_path / "calls").read_text().splitlines() if "RUN_OFFSET" in call]
    assert ["afterok" in call for call in arrays] == [False, True, True, True]
    assert Ledger.load(work.account) == run_all(tmp_path / "here", raw, 1)
    assert documents(tmp_path / "slurm") == documents(tmp_path / "here") != {}


@pytest.mark.usefixtures("slurm")
def test_what_slurm_did_before_with_other_lanes_decides_nothing(tmp_path: Path) -> None:
    raw = write_lines(tmp_path / "raw", FILES)
    work = work_in(tmp_path / "slurm", raw)
    for name in ("read", "refine-1"):
        (tmp_path / "logs" / name / "completions").mkdir(parents=True)
        (tmp_path / "logs" / name / "completions" / "00000").touch()  # datatrove's mark of a task that was done
    run_slurm(work.stages(2), tmp_path / "logs", 2, partition="cpu", time="1:00:00", mem_per_cpu_gb=2)
    assert Ledger.load(work.account) == run_all(tmp_path / "here", raw, 1)
    assert documents(tmp_path / "slurm") == documents(tmp_path / "here") != {}


class Cluster:
    """A stand-in for datatrove's executor on Ray: all tasks here, the last ones first; it goes on where one fails."""

    def __init__(self, pipeline: list[RunStage], *, tasks: int, skip_completed: bool, **_: object) -> None:
        assert not skip_completed, "pieces know themselves what is done"
        self.pipeline, self.tasks = pipeline, tasks

    def run(self) -> None:
        for task in reversed(range(self.tasks)):
            for step in self.pipeline:
                with contextlib.suppress(OSError):
                    assert list(step(None, task, self.tasks)) == []


def test_ray_gets_the_same_stages_and_makes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "RayPipelineExecutor", Cluster)
    raw = write_lines(tmp_path / "raw", FILES)
    work = work_in(tmp_path / "ray", raw)
    for stage in work.stages(4):
        engine.run_ray(stage, work.folder / "logs", 2, memory_gb=2)
    assert Ledger.load(work.account) == run_all(tmp_path / "here", raw, 1)
    assert documents(tmp_path / "ray") == documents(tmp_path / "here") != {}


def test_a_task_that_fails_on_ray_ends_the_run_though_datatrove_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "RayPipelineExecutor", Cluster)
    with pytest.raises(ArrieroError, match=r"read: tasks failed on Ray, .*logs.*run the same command again"):
        engine.run_ray(Full(), tmp_path / "logs", 2, memory_gb=2)


SBATCH = """#!/bin/bash
# A stand-in that does what Slurm would, at once: each task of the job's array.
echo "$@" >> "$CALLS"
script="${@: -1}"
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")
for task in $(seq 0 "${last:--1}"); do
    RUN_OFFSET=0 SLURM_ARRAY_TASK_ID=$task SLURM_JOB_ID=1 SLURM_NODEID=0 SLURM_NODELIST=here SLURM_CPUS_PER_TASK=1 \\
        SLURM_MEM_PER_CPU=1024 bash "$script" >> "$CALLS.log" 2>&1
done
echo "Submitted batch job $(wc -l < "$CALLS")"
"""
SRUN = """#!/bin/bash
while [[ $1 == -* || $1 == 1 ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
echo here
"""
