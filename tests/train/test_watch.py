"""The watcher: what it writes of steps, events and validations, and where it goes on after a resumption."""

import json
import math
from pathlib import Path

import pytest

from arriero.train.loop import StepResult
from arriero.train.run_log import RunLog
from arriero.train.watch import Pace, RunWatcher

PACE = Pace(steps=10, batch_tokens=100, flops_per_token=50.0, peak_flops=1e5)


class Meter:
    source = "estimated"

    def joules(self) -> float:
        return 7.0


def step(number: int, **changes) -> StepResult:
    values = {"loss": 2.0, "count": 90, "lr": 0.1, "grad_norm": 1.0, "seconds": 0.5, "skipped": False, "metrics": {}}
    return StepResult(step=number, **(values | changes))


def lines(folder: Path, kind: str) -> list[dict]:
    every = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in every if line["kind"] == kind]


def watcher(folder: Path, **options) -> RunWatcher:
    return RunWatcher(RunLog(folder), PACE, **options)


def test_a_step_is_written_with_its_rate_and_utilisation(tmp_path: Path) -> None:
    with watcher(tmp_path, meter=Meter(), source_tokens=lambda: {"plays": 60, "law": 40}) as watching:
        watching.on_step(step(3, metrics={"margin": 0.25}))
    (line,) = lines(tmp_path, "step")
    assert line["tokens"] == 300
    assert line["tokens_per_second"] == 200
    assert line["mfu"] == pytest.approx(200 * 50 / 1e5)
    assert line["source_tokens"] == {"plays": 60, "law": 40}
    assert line["margin"] == 0.25
    assert line["memory_bytes"] > 1e6
    assert lines(tmp_path, "energy")[0]["joules"] == 7.0


def test_skipped_steps_add_up_and_their_loss_is_null(tmp_path: Path) -> None:
    with watcher(tmp_path) as watching:
        watching.on_step(step(1, loss=math.nan, grad_norm=math.inf, skipped=True))
        watching.on_step(step(2))
    first, second = lines(tmp_path, "step")
    assert (first["loss"], first["grad_norm"]) == (None, None)
    assert [first["skipped"], second["skipped"]] == [1, 1]


def test_resuming_forgets_later_steps_and_counts_on(tmp_path: Path) -> None:
    with watcher(tmp_path) as watching:
        watching.began -= 100
        watching.on_step(step(1, skipped=True))
        watching.on_step(step(2, skipped=True))
    with watcher(tmp_path) as watching:
        watching.on_event(1, "resumed", "from step 1")
        watching.on_step(step(2))
    first, second = lines(tmp_path, "step")
    assert [first["skipped"], second["skipped"]] == [1, 1]
    assert second["seconds"] >= first["seconds"] >= 100


def test_validation_and_samples_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = {"loss": 1.5, "perplexity": math.exp(1.5), "by_source": {"plays": {"loss": 1.5, "tokens": 9, "bytes": 9}}}
    with watcher(tmp_path, validate=lambda: numbers, sample=lambda: [("Once", " [upon] a time")]) as watching:
        watching.on_validation(4)
    assert lines(tmp_path, "validation")[0]["by_source"] == numbers["by_source"]
    assert lines(tmp_path, "sample")[0]["text"] == " [upon] a time"
    assert "step 4: validation loss 1.5000, perplexity 4.48" in capsys.readouterr().err


def test_progress_goes_to_the_error_stream_and_the_last_step_is_always_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with watcher(tmp_path) as watching:
        for number in range(1, 11):
            watching.on_step(step(number))
        watching.on_event(10, "checkpoint", "step 10")
        watching.on_event(10, "spike", "loss 9 [after] a mean of 2")
    said = capsys.readouterr()
    assert said.out == ""
    told = said.err.splitlines()
    assert [line.split()[1] for line in told if line.startswith("step")] == ["1/10", "10/10"]
    assert told[-1] == "spike: loss 9 [after] a mean of 2"


def test_other_ranks_take_part_and_stay_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    called = []
    watching = RunWatcher(
        None, PACE, validate=lambda: called.append("validate"), sample=lambda: called.append("s") or []
    )
    with watching:
        watching.on_step(step(1))
        watching.on_event(1, "spike", "")
        watching.on_validation(1)
    assert called == ["validate", "s"]
    assert capsys.readouterr() == ("", "")
