"""Who watches a run: writes its diary, shows its progress, measures validation loss, lets it speak.

B rows, T tokens a row.
"""

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from arriero.train.carbon import EnergyMeter
from arriero.train.loop import StepResult
from arriero.train.run_log import RunLog

QUIET_SECONDS = 10.0
"""Between lines where the error stream is no terminal."""
_TOLD = {"loss": 4, "perplexity": 2, "accuracy": 3, "exact_match": 3}
"""What is said of a validation, and with how many decimals."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What a step's time is measured by."""

    steps: int
    """Steps of the run."""
    batch_tokens: int | None
    """Tokens of a step, on all ranks; None: those that have a loss, which differ from step to step."""
    flops_per_token: float
    peak_flops: float | None
    """Operations a second that all devices together could do; None where it isn't known."""


class RunWatcher:
    """The loop's watcher on the main rank; on the others `log` and `meter` are None and it stays silent."""

    def __init__(
        self,
        log: RunLog | None,
        pace: Pace,
        *,
        meter: EnergyMeter | None = None,
        source_tokens: Callable[[], Mapping[str, int]] = dict,
        validate: Callable[[], dict[str, Any]] | None = None,
        sample: Callable[[], Sequence[tuple[str, str]]] | None = None,
    ) -> None:
        """Watch a run.

        Args:
            source_tokens: tokens seen so far by source.
            validate: the numbers of a validation, computed by all ranks together.
            sample: (prompt, text) pairs that the model writes now.
        """
        self.log, self.pace, self.meter = log, pace, meter
        self.source_tokens, self.validate, self.sample = source_tokens, validate, sample
        self.began, self.skipped, self.spoke, self.tokens = time.monotonic(), 0, 0.0, 0
        self._open = ExitStack()
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        if self.log is not None:
            self._bar = self._open.enter_context(_bar())
            self._task = self._bar.add_task("training", total=self.pace.steps, numbers="")
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def on_step(self, result: StepResult) -> None:
        """Write the step's line and show it."""
        self.skipped += result.skipped
        if self.log is None:
            return
        tokens = self.pace.batch_tokens or result.count
        self.tokens = result.step * tokens if self.pace.batch_tokens else self.tokens + tokens
        rate = tokens / result.seconds
        mfu = None if self.pace.peak_flops is None else rate * self.pace.flops_per_token / self.pace.peak_flops
        self.log.write(
            "step",
            result.step,
            loss=result.loss,
            lr=result.lr,
            grad_norm=result.grad_norm,
            tokens=self.tokens,
            seconds=time.monotonic() - self.began,
            tokens_per_second=rate,
            mfu=mfu,
            memory_bytes=peak_memory(),
            skipped=self.skipped,
            source_tokens=dict(self.source_tokens()),
            **result.metrics,
        )
        if self.meter is not None:
            self.log.write("energy", result.step, joules=self.meter.joules(), source=self.meter.source)
        self._show(result, rate, mfu)

    def on_event(self, step: int, event: str, detail: str) -> None:
        """Write it down, and say it."""
        if self.log is None:
            return
        if event == "resumed":
            self._resume(step)
        self.log.write("event", step, event=event, detail=detail)
        if event != "checkpoint":
            self._say(f"{event}: {detail}")

    def on_validation(self, step: int) -> float | None:
        """Measure, on all ranks; write down and say the result; let the model speak. Returns the loss."""
        numbers = self.validate() if self.validate is not None else None
        loss = None if numbers is None else float(numbers["loss"])
        spoken = self.sample() if self.sample is not None else ()
        if self.log is None:
            return loss
        if numbers is not None:
            self.log.write("validation", step, **numbers)
            told = [f"{name} {numbers[name]:.{digits}f}" for name, digits in _TOLD.items() if name in numbers]
            self._say(f"step {step}: validation {', '.join(told)}")
        for prompt, text in spoken:
            self.log.write("sample", step, prompt=prompt, text=text)
        return loss

    def _resume(self, step: int) -> None:
        """Forget what the run wrote after `step`, and go on counting from there."""
        assert self.log is not None
        self.log.forget_after(step)
        if last := self.log.last("step"):
            self.began, self.skipped = time.monotonic() - last["seconds"], last["skipped"]
            self.tokens = last["tokens"]

    def _show(self, result: StepResult, rate: float, mfu: float | None) -> None:
        share = "" if mfu is None else f"  {mfu:.0%} of peak"
        numbers = f"loss {result.loss:.4f}  lr {result.lr:.2e}  |g| {result.grad_norm:.2f}  {rate:,.0f} tok/s{share}"
        if self._bar is not None and self._bar.console.is_terminal:
            self._bar.update(self._task, completed=result.step, numbers=numbers)
        elif time.monotonic() - self.spoke > QUIET_SECONDS or result.step == self.pace.steps:
            self.spoke = time.monotonic()
            self._say(f"step {result.step}/{self.pace.steps}  {numbers}")

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _bar() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=not console.is_terminal)


def peak_memory() -> int:
    """Bytes: of the GPU's memory where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
