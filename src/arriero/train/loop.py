"""The one training loop: pretraining, fine-tuning, reward models, retrievers bring a batch iterator and a loss.

A step adds up the gradients of its micro-batches, and of all ranks, as sums; divides once, by what the sums counted
(the tokens with a loss, say); clips; and lets AdamW move. So 8 micro-batches of 1 row are 1 of 8 rows, whatever they
hold. A step whose gradients are not finite is skipped and counted; a loss far above those before it raises an alarm,
and on demand the model of the last checkpoint comes back, while the data goes on behind what caused it.
"""

import math
import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from arriero.common.errors import ArrieroError
from arriero.train.loop_config import LoopConfig
from arriero.train.optimizer import build_optimizer, scale_gradients
from arriero.train.optimizer_config import OptimizerConfig
from arriero.train.parallel import Layout, hold_parts
from arriero.train.schedule import ScheduleConfig


@dataclass(frozen=True)
class Loss:
    """What a loss function makes of one micro-batch."""

    total: Tensor
    """Sum of the losses, fp32, differentiable."""
    count: int
    """By how many losses the sum, added to those of all micro-batches and ranks, is divided."""
    metrics: Mapping[str, float | Tensor]
    """Sums to be divided likewise, for the log."""


End = Literal["finished", "stopped early", "interrupted", "out of time"]
"""How a run came to its end."""
M = TypeVar("M", bound=nn.Module)
"""What learns: a Llama, or several in one module."""
B = TypeVar("B")
"""A micro-batch: what the loss function understands."""
B_co = TypeVar("B_co", covariant=True)
LossFunction = Callable[[M, B], Loss]


class Batches(Protocol[B_co]):
    """An endless iterator of micro-batches that knows where it is."""

    def __iter__(self) -> Iterator[B_co]: ...
    def __next__(self) -> B_co: ...
    def state_dict(self) -> dict[str, Any]:
        """The place between two micro-batches, for a checkpoint; it fits into JSON."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from that place."""


@dataclass(frozen=True)
class StepResult:
    """What one step came to."""

    step: int
    """Steps done, this one included."""
    loss: float
    """Mean over what the step's losses counted, on all ranks."""
    count: int
    lr: float
    grad_norm: float
    seconds: float
    """Of this step alone."""
    skipped: bool
    """Whether its gradients were not finite."""
    metrics: dict[str, float]


class Watcher(Protocol):
    """Who is told what happens; every method is called on every rank."""

    def on_step(self, result: StepResult) -> None:
        """A step is done."""

    def on_event(self, step: int, event: str, detail: str) -> None:
        """Something worth a line in the diary: resumed, a spike, gradients that are not finite, how it ended."""

    def on_validation(self, step: int) -> float | None:
        """It is time to validate: the loss by which the best checkpoint is told, if there is one."""


class Store(Protocol):
    """Where checkpoints are kept: `train/checkpoint.py`."""

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]) -> None:
        """Keep them as they are now; writing may go on in the background."""

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Take the newest whole checkpoint into model and optimizer: its progress, or None where there is none."""

    def wait(self) -> None:
        """Until what is being written is written."""

    def pin(self, step: int) -> None:
        """Have the checkpoint of this step stay until another one is pinned."""


class Loop(Generic[M, B]):
    """A run in progress: the model, its optimizer, its place in the data and in the steps."""

    def __init__(
        self,
        model: M,
        batches: Batches[B],
        loss_function: LossFunction[M, B],
        *,
        config: LoopConfig,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
        layout: Layout,
        watcher: Watcher,
        store: Store | None = None,
        tidy: Callable[[], None] | None = None,
        halt: Callable[[StepResult], str | None] | None = None,
        lr_factors: Mapping[str, float] | None = None,
    ) -> None:
        """A run before its first step.

        Args:
            tidy: is called after each step.
            halt: is asked after each step, on every rank alike; a text ends the run, and says why.
            lr_factors: of the learning rate of parameters whose names begin so; 1 of the others.
        """
        self.model, self.batches, self.loss_function = model, batches, loss_function
        self.config, self.clip, self.peak, self.schedule = config, optimizer.clip, optimizer.lr, schedule
        self.layout, self.watcher, self.store, self.tidy, self.halt = layout, watcher, store, tidy, halt
        hold_parts(model)  # a forward pass before may have left whole copies, which an optimizer must not take
        self.optimizer = build_optimizer(model, optimizer, lr_factors)
        self.step = 0
        self.saved: int | None = None
        self.best: tuple[int, float] | None = None
        """Step and loss of the best validation, with `keep_best` or `patience`."""
        self.stale = 0
        self.losses: deque[float] = deque(maxlen=config.spike_window)

    def resume(self) -> bool:
        """Take up the store's last checkpoint: all goes on as if nothing had stopped. Whether there was one."""
        progress = None if self.store is None else self.store.load(self.model, self.optimizer)
        if progress is None:
            return False
        self._restore(progress, with_data=True)
        self.watcher.on_event(self.step, "resumed", f"from step {self.step}")
        return True

    def run(self) -> End:
        """Train until the last step, Ctrl-C or `max_minutes`; a checkpoint is kept either way."""
        limit = math.inf if self.config.max_minutes is None else time.monotonic() + 60 * self.config.max_minutes
        end: End = "finished"
        self.model.train()
        with _interruptible() as interrupted:
            while self.step < self.config.steps and end == "finished":
                if self._out_of_patience:
                    end = "stopped early"
                    break
                result = self._train_step()
                self._look_up(result)
                if self.tidy is not None:
                    self.tidy()
                if self.halt is not None and (reason := self.halt(result)):
                    self.watcher.on_event(self.step, "halt", reason)
                    end = "stopped early"
                elif self.layout.any(interrupted()):
                    end = "interrupted"
                elif self.layout.any(time.monotonic() > limit):
                    end = "out of time"
        self._save()
        if self.store is not None:
            self.store.wait()
        self.watcher.on_event(self.step, end, f"after {self.step} of {self.config.steps} steps")
        return end

    def _train_step(self) -> StepResult:
        started = time.perf_counter()
        lr = self.peak * self.schedule.factor(self.step, self.config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        total, count, metrics = self._accumulate()
        if count == 0:
            raise ArrieroError(f"step {self.step + 1}: no token of the batch has a loss; is everything masked?")
        norm = float(scale_gradients(self.model.parameters(), count, self.clip))
        finite = math.isfinite(norm) and math.isfinite(total)
        if finite:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return StepResult(
            step=self.step,
            loss=total / count,
            count=count,
            lr=lr,
            grad_norm=norm,
            seconds=time.perf_counter() - started,
            skipped=not finite,
            metrics={name: value / count for name, value in metrics.items()},
        )

    def _accumulate(self) -> tuple[float, int, dict[str, float]]:
        """Add up gradients, losses, counts and metrics over the step's micro-batches and all ranks."""
        sums: dict[str, Tensor] = {}
        for micro_batch in range(self.config.accumulation):
            self.layout.synchronize_gradients(self.model, last=micro_batch == self.config.accumulation - 1)
            loss = self.loss_function(self.model, next(self.batches))
            loss.total.backward()  # type: ignore[no-untyped-call]
            for name, value in {"": loss.total, "count": loss.count, **loss.metrics}.items():
                value = torch.as_tensor(value, dtype=torch.float64, device=loss.total.device).detach()
                sums[name] = sums[name] + value if name in sums else value
        summed = dict(zip(sums, self.layout.sum(torch.stack(list(sums.values()))).tolist(), strict=True))
        return summed.pop(""), int(summed.pop("count")), summed

    def _look_up(self, result: StepResult) -> None:
        """After a step: log, alarm, validate, save."""
        self.watcher.on_step(result)
        if result.skipped:
            self.watcher.on_event(result.step, "nonfinite", "gradients not finite: step skipped")
        elif self._spiked(result.loss):
            detail = f"loss {result.loss:.3f} after a mean of {statistics.fmean(self.losses):.3f}"
            self.watcher.on_event(result.step, "spike", detail)
            if self.config.on_spike == "rollback":
                self._roll_back()
        else:
            self.losses.append(result.loss)
        last = self.step == self.config.steps
        if self.config.validate_every and (last or self.step % self.config.validate_every == 0):
            self._judge(self.watcher.on_validation(self.step))
        if self.config.checkpoint_every and self.step % self.config.checkpoint_every == 0:
            self._save()

    def _judge(self, loss: float | None) -> None:
        """Keep the best model so far, and count how long it has been that."""
        if loss is None or not (self.config.keep_best or self.config.patience):
            return
        if math.isfinite(loss) and (self.best is None or loss < self.best[1]):
            self.best, self.stale = (self.step, loss), 0
            if self.store is not None and self.config.keep_best:
                self.store.pin(self.step)
                self._save()
        else:
            self.stale += 1

    @property
    def _out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.stale

    def _spiked(self, loss: float) -> bool:
        if not self.config.spike_sigmas or len(self.losses) < 10:
            return False
        spread = max(statistics.stdev(self.losses), 1e-3 * statistics.fmean(self.losses))
        return loss > statistics.fmean(self.losses) + self.config.spike_sigmas * spread

    def _roll_back(self) -> None:
        """Model, optimizer and step of the last checkpoint; the data goes on behind what made the spike."""
        progress = None if self.store is None else self.store.load(self.model, self.optimizer)
        if progress is None:
            self.watcher.on_event(self.step, "warning", "no checkpoint yet to roll back to")
            return
        spiked = self.step
        self._restore(progress, with_data=False)
        self.watcher.on_event(spiked, "rollback", f"to step {self.step}")

    def _save(self) -> None:
        if self.store is None or self.saved == self.step:
            return
        progress = {
            "step": self.step,
            "losses": list(self.losses),
            "best": self.best,
            "stale": self.stale,
            "batches": self.batches.state_dict(),
            "generators": _generator_states(),
        }
        self.store.save(self.step, self.model, self.optimizer, progress)
        self.saved = self.step
        self.watcher.on_event(self.step, "checkpoint", f"step {self.step}")

    def _restore(self, progress: dict[str, Any], with_data: bool) -> None:
        self.step = self.saved = progress["step"]
        self.losses = deque(progress["losses"], maxlen=self.config.spike_window)
        self.stale = progress.get("stale", 0)
        if best := progress.get("best"):
            self.best = (int(best[0]), float(best[1]))
            if self.store is not None and self.config.keep_best:
                self.store.pin(self.best[0])
        if with_data:
            self.batches.load_state_dict(progress["batches"])
            _set_generator_states(progress["generators"])


def _generator_states() -> dict[str, str]:
    """PyTorch's default generators of this process, in hexadecimal."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return {name: state.numpy().tobytes().hex() for name, state in states.items()}


def _set_generator_states(states: dict[str, str]) -> None:
    tensors = {name: torch.tensor(list(bytes.fromhex(state)), dtype=torch.uint8) for name, state in states.items()}
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C (or a scheduler's SIGTERM) is noted, for the step to end first; a second Ctrl-C ends at once."""
    asked = False

    def note(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    if threading.current_thread() is not threading.main_thread():  # only the main thread may take signals
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
