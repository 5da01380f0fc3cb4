"""The settings of where a corpus is made: here, on Slurm or on Ray."""

from dataclasses import dataclass
from typing import Literal

from arriero.common.errors import ArrieroError


@dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    """Where the work is done; the corpus is the same everywhere."""

    executor: Literal["local", "slurm", "ray"] = "local"
    """Processes of this machine, jobs of a Slurm cluster, or tasks of a Ray cluster."""
    workers: int | None = None
    """Tasks at a time; default: one for each core, on a cluster no limit."""
    partition: str | None = None
    """Slurm's partition."""
    time: str = "24:00:00"
    """Slurm's limit for a job."""
    memory: int = 4
    """GB for each task on a cluster."""
    setup: str | None = None
    """A shell command that makes arriero available in a Slurm job, such as 'source venv/bin/activate'."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ArrieroError(f"workers: expected 1 or more, got {self.workers}")
        if self.memory < 1:
            raise ArrieroError(f"memory: expected 1 GB or more, got {self.memory}")
        if self.executor == "slurm" and not self.partition:
            raise ArrieroError("partition: expected the name of a Slurm partition, got none")
