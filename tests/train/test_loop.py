"""The loop: sums over micro-batches, skipped steps, alarms, stops, and resuming as if nothing had happened."""

import copy
import dataclasses
import os
import signal
from typing import Any

import pytest
import torch

from arriero.common.errors import ArrieroError
from arriero.kernels.cross_entropy import IGNORED
from arriero.model.config import LlamaConfig
from arriero.model.transformer import Llama
from arriero.train.batch import Batch
from arriero.train.loop import Loop, Loss
from arriero.train.loop_config import LoopConfig
from arriero.train.optimizer_config import OptimizerConfig
from arriero.train.schedule import ScheduleConfig

SHAPE = LlamaConfig.of(vocab_size=64, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, max_seq_len=64)


class OneProcess:
    """A layout of one rank."""

    def synchronize_gradients(self, model, *, last):
        pass

    def sum(self, values):
        return values

    def any(self, flag):
        return flag


class Rows:
    """Micro-batches of `rows` rows from one endless sequence of random ones, some of whose targets have no loss."""

    def __init__(self, rows: int = 2) -> None:
        self.rows, self.next_row = rows, 0

    def __iter__(self):
        return self

    def __next__(self) -> Batch:
        generators = [torch.Generator().manual_seed(self.next_row + i) for i in range(self.rows)]
        self.next_row += self.rows
        text = torch.stack([torch.randint(0, 64, (17,), generator=g) % 5 for g in generators])
        targets = text[:, 1:].clone()
        for row, generator in zip(targets, generators, strict=True):
            row[: int(torch.randint(0, 12, (1,), generator=generator))] = IGNORED
        sources = torch.zeros(self.rows, 16, dtype=torch.int64)
        return Batch(tokens=text[:, :-1], targets=targets, documents=None, sources=sources)

    def state_dict(self) -> dict[str, Any]:
        return {"next_row": self.next_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.next_row = state["next_row"]


class Notes:
    def __init__(self) -> None:
        self.steps, self.events, self.validations = [], [], []

    def on_step(self, result):
        self.steps.append(result)

    def on_event(self, step, event, detail):
        self.events.append((step, event))

    def on_validation(self, step):
        self.validations.append(step)

    @property
    def losses(self) -> list[float]:
        return [result.loss for result in self.steps]


class Memory:
    """Checkpoints in memory, as the loop's store."""

    def __init__(self) -> None:
        self.kept = None

    def save(self, step, model, optimizer, progress):
        self.kept = copy.deepcopy((model.state_dict(), optimizer.state_dict(), progress))

    def load(self, model, optimizer):
        if self.kept is None:
            return None
        weights, moments, progress = copy.deepcopy(self.kept)
        model.load_state_dict(weights)
        optimizer.load_state_dict(moments)
        return progress

    def wait(self):
        pass


def next_token(model: Llama, batch: Batch) -> Loss:
    total, _ = model.loss(batch.tokens, batch.targets)
    return Loss(total, int((batch.targets != IGNORED).sum()), {"half": 0.5 * total.detach()})


def make_loop(store=None, loss=next_token, batches=None, lr=1e-2, halt=None, **config) -> tuple[Loop, Notes]:
    notes = Notes()
    settings = {"steps": 8, "validate_every": 0, "checkpoint_every": 0} | config
    loop = Loop(
        Llama(SHAPE).init_weights(0),
        batches or Rows(),
        loss,
        config=LoopConfig(**settings),
        optimizer=OptimizerConfig(lr=lr),
        schedule=ScheduleConfig(warmup_steps=2),
        layout=OneProcess(),
        watcher=notes,
        store=store,
        halt=halt,
    )
    return loop, notes


def weights(loop: Loop) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in loop.model.parameters()])


def test_it_learns():
    loop, notes = make_loop(steps=60)
    assert loop.run() == "finished"
    assert notes.losses[-1] < 0.6 * notes.losses[0]
    assert notes.steps[0].metrics["half"] == pytest.approx(notes.losses[0] / 2)


def test_eight_micro_batches_of_one_row_are_one_of_eight_though_their_tokens_differ():
    whole, notes = make_loop(batches=Rows(8), steps=3)
    parts, other = make_loop(batches=Rows(1), steps=3, accumulation=8)
    whole.run()
    parts.run()
    assert [step.count for step in notes.steps] == [step.count for step in other.steps]
    assert notes.losses == pytest.approx(other.losses, abs=1e-6)
    torch.testing.assert_close(weights(whole), weights(parts), atol=2e-5, rtol=1e-4)


def test_the_same_run_twice_gives_the_same_bits():
    runs = [make_loop() for _ in range(2)]
    for loop, _ in runs:
        loop.run()
    assert torch.equal(weights(runs[0][0]), weights(runs[1][0]))


def test_resumed_equals_uninterrupted_bit_for_bit():
    whole, notes = make_loop()
    whole.run()
    store = Memory()
    first, before = make_loop(store, checkpoint_every=3)

    def die(result):
        before.steps.append(result)
        if result.step == 5:
            raise KeyboardInterrupt

    first.watcher.on_step = die
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second, after = make_loop(store, checkpoint_every=3)
    assert second.resume()
    assert after.events == [(3, "resumed")]
    second.run()
    assert before.losses[:3] + after.losses == notes.losses
    assert torch.equal(weights(whole), weights(second))


def test_nothing_to_resume_is_no_error():
    loop, notes = make_loop(Memory())
    assert not loop.resume()
    assert notes.events == []


def test_steps_with_gradients_that_are_not_finite_are_skipped_and_counted():
    loop, notes = make_loop(steps=1)
    loop.run()
    before = weights(loop)

    def broken(model, batch):
        loss = next_token(model, batch)
        return dataclasses.replace(loss, total=loss.total * float("nan"))

    loop.config, loop.loss_function = dataclasses.replace(loop.config, steps=2), broken
    loop.run()
    assert notes.steps[1].skipped
    assert (2, "nonfinite") in notes.events
    assert torch.equal(weights(loop), before)


def spiking(at: int):
    """A loss that is a hundredfold once, at the given micro-batch."""
    calls = iter(range(10**6))

    def loss(model, batch):
        made = next_token(model, batch)
        return dataclasses.replace(made, total=made.total * 100) if next(calls) == at else made

    return loss


def test_a_spike_raises_an_alarm():
    loop, notes = make_loop(loss=spiking(20), steps=25)
    loop.run()
    assert [event for event in notes.events if event[1] == "spike"] == [(21, "spike")]


def test_a_spike_rolls_back_to_the_last_checkpoint_and_the_data_goes_on():
    loop, notes = make_loop(Memory(), loss=spiking(20), steps=25, checkpoint_every=10, on_spike="rollback")
    loop.run()
    assert [event for event in notes.events if event[1] in ("spike", "rollback")] == [(21, "spike"), (21, "rollback")]
    assert [result.step for result in notes.steps] == [*range(1, 22), *range(21, 26)]
    assert loop.batches.next_row == 2 * 26


def test_a_spike_before_any_checkpoint_is_a_warning():
    loop, notes = make_loop(loss=spiking(20), steps=22, on_spike="rollback")
    loop.run()
    assert (21, "warning") in notes.events


def test_ctrl_c_ends_after_the_step_with_a_checkpoint():
    store = Memory()
    loop, notes = make_loop(store)
    step = notes.on_step
    notes.on_step = lambda result: (step(result), os.kill(os.getpid(), signal.SIGINT) if result.step == 3 else None)
    before = signal.getsignal(signal.SIGINT)
    assert loop.run() == "interrupted"
    assert loop.step == 3
    assert store.kept[2]["step"] == 3
    assert notes.events[-1] == (3, "interrupted")
    assert signal.getsignal(signal.SIGINT) is before


def test_time_that_is_up_ends_after_the_step_with_a_checkpoint():
    store = Memory()
    loop, _ = make_loop(store, max_minutes=1e-9)
    assert loop.run() == "out of time"
    assert store.kept[2]["step"] == 1


def test_validates_and_saves_at_the_steps_asked_for_and_saves_once_at_the_end():
    loop, notes = make_loop(Memory(), steps=6, validate_every=2, checkpoint_every=3)
    loop.run()
    assert notes.validations == [2, 4, 6]
    assert [step for step, event in notes.events if event == "checkpoint"] == [3, 6]


def test_a_reason_to_halt_ends_the_run_after_the_step_with_a_checkpoint():
    store = Memory()
    loop, notes = make_loop(store, halt=lambda result: "far enough" if result.step == 3 else None, steps=9)
    assert loop.run() == "stopped early"
    assert (loop.step, loop.saved) == (3, 3)
    assert (3, "halt") in notes.events


def test_a_batch_without_any_loss_is_refused():
    def empty(model, batch):
        return Loss(model.loss(batch.tokens, batch.targets)[0], 0, {})

    with pytest.raises(ArrieroError, match="step 1: no token of the batch has a loss"):
        make_loop(loss=empty)[0].run()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps: expected 1 or more, got 0"),
        ({"accumulation": 0}, "accumulation: expected 1 or more"),
        ({"checkpoint_every": -1}, "checkpoint_every: expected 0 or more"),
        ({"spike_window": 5}, "spike_window: expected 10 steps or more"),
        ({"max_minutes": 0.0}, "max_minutes: expected a number above 0"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ArrieroError, match=message):
        LoopConfig(**({"steps": 1} | change))
