"""The best checkpoint, kept however many follow; and the end of a run that no longer gets better."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from arriero.train.checkpoint import Checkpoints, list_checkpoints, read_manifest
from arriero.train.loop import Loop
from tests.train.test_loop import Notes, make_loop


class Scores(Notes):
    """Validations that come to the losses of a list, by their steps."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__()
        self.script = losses

    def on_validation(self, step: int) -> float | None:
        super().on_validation(step)
        return self.script[step - 1]


def scripted(folder: Path, losses: list[float], **config: object) -> tuple[Loop, Scores]:
    """A loop that validates after every step, and keeps one checkpoint beside the best."""
    settings = {"steps": len(losses), "validate_every": 1, "checkpoint_every": 1, "keep_best": True} | config
    loop, _ = make_loop(store=Checkpoints(folder, keep=1), **settings)
    loop.watcher = notes = Scores(losses)
    return loop, notes


def steps(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in list_checkpoints(folder)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """PyTorch's threads cost more than they bring to a model this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_best_checkpoint_stays_however_many_follow(tmp_path: Path) -> None:
    loop, _ = scripted(tmp_path, [5.0, 3.0, 4.0, 4.0, 4.0, 4.0])
    assert loop.run() == "finished"
    assert loop.best == (2, 3.0)
    assert steps(tmp_path) == [2, 6]


def test_a_better_one_takes_its_place(tmp_path: Path) -> None:
    loop, _ = scripted(tmp_path, [5.0, 3.0, 4.0, 2.0, 4.0])
    loop.run()
    assert loop.best == (4, 2.0)
    assert steps(tmp_path) == [4, 5]


def test_the_best_is_saved_between_two_checkpoints(tmp_path: Path) -> None:
    loop, notes = scripted(tmp_path, [5.0, 3.0, 4.0, 4.0], checkpoint_every=0)
    loop.run()
    assert steps(tmp_path) == [2, 4]
    assert [step for step, event in notes.events if event == "checkpoint"] == [1, 2, 4]


def test_the_best_survives_a_resume(tmp_path: Path) -> None:
    first, _ = scripted(tmp_path, [5.0, 3.0, 4.0, 4.0], steps=4)
    first.run()
    again, _ = scripted(tmp_path, [5.0, 3.0, 4.0, 4.0, 3.5, 3.5, 3.5], steps=7)
    assert again.resume()
    assert (again.best, again.stale) == ((2, 3.0), 2)
    again.run()
    assert again.best == (2, 3.0)
    assert steps(tmp_path) == [2, 7]


def test_without_it_only_the_last_ones_stay(tmp_path: Path) -> None:
    loop, _ = scripted(tmp_path, [5.0, 3.0, 4.0, 4.0], keep_best=False)
    loop.run()
    assert loop.best is None
    assert steps(tmp_path) == [4]


@pytest.mark.parametrize("losses", [[5.0, 3.0, 3.0, 3.0, 1.0], [5.0, 3.0, float("nan"), 4.0, 1.0]])
def test_as_many_validations_without_a_lower_loss_end_the_run(tmp_path: Path, losses: list[float]) -> None:
    loop, notes = scripted(tmp_path, losses, patience=2)
    assert loop.run() == "stopped early"
    assert (loop.step, loop.stale, loop.best) == (4, 2, (2, 3.0))
    assert notes.events[-1] == (4, "stopped early")


def test_a_lower_loss_makes_the_count_begin_again(tmp_path: Path) -> None:
    loop, _ = scripted(tmp_path, [5.0, 6.0, 4.0, 6.0, 3.0, 6.0], patience=2)
    assert loop.run() == "finished"
    assert loop.stale == 1


def test_a_loss_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    loop, _ = scripted(tmp_path, [float("nan"), 4.0, float("inf")])
    loop.run()
    assert (loop.best, loop.stale) == ((2, 4.0), 1)


def test_a_run_that_stopped_early_ends_at_once_when_it_is_asked_again(tmp_path: Path) -> None:
    losses = [3.0, 4.0, 4.0, 1.0]
    scripted(tmp_path, losses, patience=2)[0].run()
    again, notes = scripted(tmp_path, losses, patience=2)
    assert again.resume()
    assert again.run() == "stopped early"
    assert (again.step, notes.steps) == (3, [])
    assert steps(tmp_path) == [1, 3]


def test_more_patience_lets_it_go_on(tmp_path: Path) -> None:
    losses = [3.0, 4.0, 4.0, 1.0]
    scripted(tmp_path, losses, patience=2)[0].run()
    again, _ = scripted(tmp_path, losses, patience=3)
    again.resume()
    assert again.run() == "finished"
    assert again.best == (4, 1.0)


def test_patience_needs_no_kept_checkpoint(tmp_path: Path) -> None:
    loop, _ = scripted(tmp_path, [3.0, 4.0, 4.0, 1.0], patience=2, keep_best=False)
    assert loop.run() == "stopped early"
    assert steps(tmp_path) == [3]


def test_the_checkpoint_says_which_is_the_best_and_how_long_ago(tmp_path: Path) -> None:
    scripted(tmp_path, [5.0, 3.0, 4.0])[0].run()
    progress = read_manifest(list_checkpoints(tmp_path)[-1])["progress"]
    assert (progress["best"], progress["stale"]) == ([2, 3.0], 1)


def test_a_resumed_run_with_a_best_one_is_an_uninterrupted_one(tmp_path: Path) -> None:
    losses = [5.0, 3.0, 4.0, 2.0, 4.0, 4.0]
    whole, _ = scripted(tmp_path / "whole", losses)
    whole.run()
    scripted(tmp_path / "parts", losses, steps=3)[0].run()
    again, _ = scripted(tmp_path / "parts", losses, steps=6)
    again.resume()
    again.run()
    assert again.best == whole.best
    assert steps(tmp_path / "parts") == steps(tmp_path / "whole") == [4, 6]


def test_what_is_on_its_way_does_not_sweep_the_old_best_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    save = Checkpoints.save

    def saving(self: Checkpoints, step: int, *rest: object) -> None:
        seen.append(steps(tmp_path))
        save(self, step, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Checkpoints, "save", saving)
    scripted(tmp_path, [5.0, 6.0, 6.0, 3.0])[0].run()
    assert seen[-1] == [1, 3], "the best one went before the next was there"
