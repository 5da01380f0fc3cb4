"""Stages on datatrove's executors: processes of this machine, a Slurm cluster, or Ray.

Of datatrove only the execution is used, behind one step that calls `Stage.run`. What is done and what is not is said by
our own files (see `stages.py`); datatrove's marks of completion decide nothing. This file alone imports it.
"""

import contextlib
import multiprocessing
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from datatrove.executor.base import PipelineExecutor
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.executor.ray import RayPipelineExecutor
from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from loguru import logger

from arriero.common.errors import ArrieroError
from arriero.common.workers import begin_work
from arriero.corpus.stages import Stage

LOOK_EVERY_S = 0.3


class RunStage(PipelineStep):  # type: ignore[misc]  # datatrove has no types
    """The one step of each pipeline: task number `rank` of a stage."""

    type = "arriero"

    def __init__(self, stage: Stage) -> None:
        self.name = stage.name
        super().__init__()
        self.stage = stage

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Do the task; no document passes through datatrove."""
        self.stage.run(rank)
        yield from ()


class QuietExecutor(LocalPipelineExecutor):  # type: ignore[misc]
    """Processes of this machine that leave the terminal and Ctrl-C to their parent.

    datatrove's own pool waits for ever for a process that the system ends, such as when memory runs out.
    """

    def run(self) -> None:
        """Do all tasks.

        Raises:
            BrokenProcessPool: a process was ended from outside.
        """
        if self.workers == 1:
            for rank in range(self.tasks):
                self._run_for_rank(rank)
            return
        others = multiprocessing.active_children()
        context = multiprocessing.get_context(self.start_method)
        with ProcessPoolExecutor(self.workers, context, initializer=begin_work) as pool:
            try:
                for done in as_completed([pool.submit(self._run_for_rank, rank) for rank in range(self.tasks)]):
                    done.result()
            except BaseException:
                for process in multiprocessing.active_children():
                    if process not in others:
                        process.terminate()
                raise

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        logger.disable("datatrove")
        return super()._run_for_rank(rank, local_rank, node_rank)


def run_local(stage: Stage, logs: Path, workers: int, look: Callable[[], None]) -> None:
    """Do a stage by processes of this machine.

    Args:
        logs: a folder for what datatrove writes down.
        look: called several times a second, and at the end.

    Raises:
        ArrieroError: a process was ended from outside.
    """
    executor = QuietExecutor(
        [RunStage(stage)],
        tasks=stage.tasks,
        workers=min(workers, stage.tasks),
        logging_dir=str(logs / stage.name),
        skip_completed=False,
    )
    try:
        with _looking(look):
            executor.run()
    except BrokenProcessPool as error:
        raise ArrieroError(
            f"{stage.name}: a process died, as for want of memory: run the same command again with fewer --workers "
            f"than {workers}; what is done is kept"
        ) from error


def run_slurm(stages: Sequence[Stage], logs: Path, workers: int, **options: Any) -> None:
    """Hand all stages to Slurm, as jobs that wait for each other.

    Args:
        logs: a folder that all nodes see.
        workers: most tasks of a stage at a time; -1 for no limit.
        options: of datatrove's `SlurmPipelineExecutor`: partition, time, mem_per_cpu_gb, env_command.
    """
    last: PipelineExecutor | None = None
    for stage in stages:
        last = SlurmPipelineExecutor(
            [RunStage(stage)],
            tasks=stage.tasks,
            workers=workers,
            depends=last,
            skip_completed=False,
            job_name=f"corpus-{stage.name}",
            logging_dir=str(logs / stage.name),
            mail_type="NONE",
            **options,
        )
    if last is not None:
        last.run()


def run_ray(stage: Stage, logs: Path, workers: int, memory_gb: int) -> None:
    """Do a stage on the Ray cluster that this process is connected to, or a local one.

    Raises:
        ArrieroError: a task failed, which datatrove only writes down.
    """
    RayPipelineExecutor(
        [RunStage(stage)],
        tasks=stage.tasks,
        workers=workers,
        mem_per_cpu_gb=memory_gb,
        logging_dir=str(logs / stage.name),
        skip_completed=False,
    ).run()
    if not stage.complete:
        raise ArrieroError(
            f"{stage.name}: tasks failed on Ray, and the logs in {logs / stage.name} say why: mend that, and run the "
            "same command again"
        )


@contextlib.contextmanager
def _looking(look: Callable[[], None]) -> Iterator[None]:
    """Call a function again and again while the block runs, and once more."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_EVERY_S):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        look()
