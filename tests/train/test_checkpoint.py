"""A checkpoint is whole or not there, is read by any number of ranks, and brings everything back."""

import json
import multiprocessing
import os
import pickle
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import arriero.train.checkpoint as module
from arriero.common.errors import ArrieroError, FormatError
from arriero.model.transformer import Llama
from arriero.train.checkpoint import Checkpoints, gather_state, list_checkpoints
from arriero.train.optimizer import build_optimizer
from arriero.train.optimizer_config import OptimizerConfig
from tests.train.ranks import Run, launch, tiny_config, train

LAYOUTS = {"shard": {}, "tensor": {"tensor": 2}, "replicate": {"replicate": 2}}


def trained(seed: int = 0, **sizes: Any) -> tuple[Llama, torch.optim.Optimizer]:
    """A model after one step with random gradients."""
    model = Llama(tiny_config(**sizes)).init_weights(seed)
    optimizer = build_optimizer(model, OptimizerConfig())
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return model, optimizer


def snapshot(model: Llama, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in gather_state(model, optimizer).items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_after_kill_9_the_losses_are_those_of_an_uninterrupted_run_bit_for_bit(tmp_path: Path) -> None:
    uninterrupted = train(Run())
    run = Run(folder=str(tmp_path), checkpoint_every=4, kill_after=14)
    assert launch([run], 1) == []
    assert {"step-00000004", "step-00000008"} <= set(names(tmp_path))
    resumed = train(replace(run, kill_after=None))
    assert resumed.events[0] == "resumed"
    assert min(resumed.losses) in (9, 13)  # the last checkpoint may have been on its way
    assert resumed.losses == {step: uninterrupted.losses[step] for step in resumed.losses}
    assert resumed.norms == {step: uninterrupted.norms[step] for step in resumed.norms}
    assert resumed.last == uninterrupted.last


@pytest.mark.slow
@pytest.mark.parametrize("saved", ["tensor", "replicate"])
def test_what_4_ranks_saved_is_resumed_on_1_and_2(saved: str, tmp_path: Path) -> None:
    """Each of the resumed runs ends with a checkpoint of its own layout, from which the next goes on."""
    folder = tmp_path / "checkpoints"
    run = Run(folder=str(folder), schedule="constant")
    launch([replace(run, steps=8, **LAYOUTS[saved])], 4)
    (checkpoint,) = list_checkpoints(folder)
    assert names(checkpoint) == [
        "checkpoint.json",
        *(f"shard-0000{i}-model-00001-of-00001.safetensors" for i in (1, 2, 3, 4)),
    ]
    alone = train(replace(run, steps=12))
    two = launch([replace(run, steps=steps, **LAYOUTS[name]) for steps, name in ((16, "tensor"), (20, "shard"))], 2)
    for notes, steps in ((alone, range(9, 13)), (two[0][1], range(13, 17)), (two[1][0], range(17, 21))):
        assert sorted(notes.losses) == list(steps)
    noted = alone.losses | two[0][1].losses | two[1][0].losses
    uninterrupted = train(replace(run, folder=None)).losses
    assert noted == pytest.approx({step: uninterrupted[step] for step in range(9, 21)}, abs=1e-5)


def test_model_and_optimizer_come_back_bit_for_bit(tmp_path: Path) -> None:
    model, optimizer = trained()
    before = snapshot(model, optimizer)
    store = Checkpoints(tmp_path)
    assert store.load(model, optimizer) is None
    store.save(7, model, optimizer, {"step": 7, "losses": [1.5]})
    store.wait()
    other, other_optimizer = trained(seed=1)
    assert Checkpoints(tmp_path).load(other, other_optimizer) == {"step": 7, "losses": [1.5]}
    assert same(snapshot(other, other_optimizer), before)
    fresh = Llama(tiny_config())
    fresh_optimizer = build_optimizer(fresh, OptimizerConfig())
    Checkpoints(tmp_path).load(fresh, fresh_optimizer)
    assert same(snapshot(fresh, fresh_optimizer), before)


def test_large_parts_are_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 60_000)
    model, optimizer = trained()
    store = Checkpoints(tmp_path, asynchronous=False)
    store.save(1, model, optimizer, {"step": 1})
    files = list((tmp_path / "step-00000001").glob("*.safetensors"))
    assert len(files) > 3
    assert all(file.stat().st_size < 90_000 for file in files)
    other, other_optimizer = trained(seed=1)
    store.load(other, other_optimizer)
    assert same(snapshot(other, other_optimizer), snapshot(model, optimizer))


def test_what_changes_after_the_save_is_not_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = module.dcp_save
    monkeypatch.setattr(module, "dcp_save", lambda *args, **kwargs: (time.sleep(0.3), write(*args, **kwargs)))
    model, optimizer = trained()
    before = snapshot(model, optimizer)
    store = Checkpoints(tmp_path)
    store.save(1, model, optimizer, {})
    assert names(tmp_path) == ["step-00000001.part"]  # still being written
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    store.load(model, optimizer)  # waits
    assert same(snapshot(model, optimizer), before)


def test_the_last_ones_stay_and_those_of_every_so_many_steps(tmp_path: Path) -> None:
    model, optimizer = trained()
    store = Checkpoints(tmp_path, keep=2, keep_every=10, asynchronous=False)
    for step in range(5, 35, 5):
        store.save(step, model, optimizer, {"step": step})
        assert f"step-{step:08d}" in names(tmp_path)
    assert names(tmp_path) == [f"step-{step:08d}" for step in (10, 20, 25, 30)]


def test_a_step_saved_already_is_left_as_it_is(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, asynchronous=False)
    store.save(3, *trained(), {"first": True})
    store.save(3, *trained(), {"first": False})
    assert store.load(*trained()) == {"first": True}


def _save_and_hang(folder: Path) -> None:
    model, optimizer = trained()
    store = Checkpoints(folder, asynchronous=False)
    store.save(1, model, optimizer, {"step": 1})
    module.sha256 = lambda path: time.sleep(60)  # type: ignore[assignment,return-value]
    store.save(2, model, optimizer, {"step": 2})


def test_a_save_killed_half_way_leaves_the_one_before(tmp_path: Path) -> None:
    child = multiprocessing.get_context("spawn").Process(target=_save_and_hang, args=(tmp_path,))
    child.start()
    while not list(tmp_path.glob("step-00000002.part/*.safetensors")):
        assert child.is_alive()
        time.sleep(0.05)
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    assert names(tmp_path) == ["step-00000001", "step-00000002.part"]
    model, optimizer = trained(seed=1)
    store = Checkpoints(tmp_path, asynchronous=False)
    assert store.load(model, optimizer) == {"step": 1}
    store.save(2, model, optimizer, {"step": 2})
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


@contextmanager
def full_disk() -> Iterator[None]:
    """Files end at 20 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_is_one_line_and_leaves_the_one_before(asynchronous: bool, tmp_path: Path) -> None:
    model, optimizer = trained()
    store = Checkpoints(tmp_path, asynchronous=asynchronous)
    store.save(1, model, optimizer, {"step": 1})
    store.wait()
    message = r"^\S+/step-00000002: the checkpoint could not be written \(\[Errno 27\] File too large\); the ones "
    with full_disk(), pytest.raises(ArrieroError, match=message) as caught:
        store.save(2, model, optimizer, {"step": 2})
        store.wait()
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["step-00000001"]
    assert store.load(model, optimizer) == {"step": 1}


def damage(kind: str, folder: Path) -> str:
    """The name of what was damaged."""
    shard, manifest = folder / "shard-00001-model-00001-of-00001.safetensors", folder / "checkpoint.json"
    match kind:
        case "missing":
            shard.unlink()
        case "cut":
            os.truncate(shard, shard.stat().st_size - 100)
        case "changed":
            content = bytearray(shard.read_bytes())
            content[-10] ^= 1
            shard.write_bytes(content)
        case "no list":
            manifest.unlink()
        case "cut list":
            os.truncate(manifest, 30)
        case "list of another format":
            manifest.write_text('{"format": "other", "version": 1}')
        case "list with a path":
            facts = json.loads(manifest.read_text())
            facts["files"]["../x"] = facts["files"][shard.name]
            manifest.write_text(json.dumps(facts))
    return manifest.name if "list" in kind else shard.name


@pytest.mark.parametrize(
    "kind", ["missing", "cut", "changed", "no list", "cut list", "list of another format", "list with a path"]
)
def test_damage_is_one_line_that_names_the_file_and_changes_nothing(kind: str, tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, asynchronous=False)
    store.save(1, *trained(), {"step": 1})
    store.save(2, *trained(), {"step": 2})
    damaged = damage(kind, tmp_path / "step-00000002")
    model, optimizer = trained(seed=1)
    before = snapshot(model, optimizer)
    with pytest.raises(FormatError, match=f"step-00000002/{damaged}: ") as caught:
        store.load(model, optimizer)
    assert "\n" not in str(caught.value)
    assert same(snapshot(model, optimizer), before)


@pytest.mark.parametrize("sizes", [{"hidden_dim": 96}, {"n_layers": 3}])
def test_a_checkpoint_of_another_model_is_refused(sizes: dict[str, int], tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, asynchronous=False)
    store.save(1, *trained(), {"step": 1})
    with pytest.raises(ArrieroError, match=r"expected 'model\.layers\..* is the checkpoint one of another model\?"):
        store.load(*trained(**sizes))


class _Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.mkdir, ("exploded",))


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Checkpoints(tmp_path / "checkpoints", asynchronous=False)
    store.save(1, *trained(), {"step": 1})
    (tmp_path / "checkpoints/step-00000001/.metadata").write_bytes(pickle.dumps(_Bomb()))
    assert store.load(*trained()) == {"step": 1}
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("policy", [{"keep": 0}, {"keep_every": -1}])
def test_a_policy_that_keeps_nothing_is_refused(policy: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ArrieroError, match="expected keep of 1 or more"):
        Checkpoints(tmp_path, **policy)  # type: ignore[arg-type]
