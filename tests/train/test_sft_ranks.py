"""Fine-tuning on several processes: gradients, losses, samples and the adapter are those of one."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from arriero.train.sft import sft
from tests.train.tuning import GRADIENTS, config_for, diary, launch, losses, watched, write_base, write_chats

TENSOR = {"parallel": {"tensor": 2}}
TWO: dict[str, dict[str, Any]] = {
    "sharded": {"recompute": "full"},
    "sharded, nf4": {"quantise": "nf4"},
    "tensor and sequence, tied": {"recompute": "full", "tied": True, **TENSOR},
}
TWO_MORE: dict[str, dict[str, Any]] = {
    "sharded, tied": {"tied": True},
    "sharded, all kept": {"recompute": "none"},
    "sharded, int8": {"quantise": "int8"},
    "sharded, dora": {"lora": {"dora": True}},
    "sharded, pissa": {"lora": {"init": "pissa"}},
    "sharded, output": {"lora": {"whole": ["output"]}, "tied": True},
    "sharded, all weights": {"method": "full"},
    "sharded, packed": {"pack": True},
    "tensor and sequence": {**TENSOR},
    "tensor, all kept": {"recompute": "none", **TENSOR},
    "tensor, pissa": {"lora": {"init": "pissa"}, **TENSOR},
    "tensor, all weights": {"method": "full", **TENSOR},
    "tensor without sequence": {"parallel": {"tensor": 2, "sequence": False}},
}
FOUR: dict[str, dict[str, Any]] = {
    "sharded × tensor": {"recompute": "none", **TENSOR},
    "sharded × tensor, tied": {"tied": True, **TENSOR},
    "sharded × tensor, full": {"recompute": "full", **TENSOR},
    "replicas × tensor": {"parallel": {"tensor": 2, "replicate": 2}},
    "replicas × sharded, nf4": {"quantise": "nf4", "parallel": {"replicate": 2}},
}
LAUNCHES = ((TWO, 2), (TWO_MORE, 2), (FOUR, 4))
"""Runs that share their processes, which are costly to start."""
REFUSED = {
    "quantised": ({"quantise": "nf4"}, "layers.0.attention.wq is quantised and cannot be divided"),
    "dora": ({"lora": {"dora": True}}, "the adapter of layers.0.attention.wq cannot be divided"),
    "dropout": ({"lora": {"dropout": 0.1}}, "the adapter of layers.0.attention.wq cannot be divided"),
    "output": ({"lora": {"targets": ["wq", "output"]}}, "the adapter of output cannot be divided"),
    "whole": ({"lora": {"whole": ["tok_embeddings"]}}, "the adapter of tok_embeddings cannot be divided"),
    "one head": ({"heads": 1}, "expected a divisor of n_kv_heads = 1, got 2"),
}
CASES = [
    pytest.param(number, name, marks=[pytest.mark.slow] if number else [], id=f"{name} on {world}")
    for number, (runs, world) in enumerate(LAUNCHES)
    for name in runs
]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> "Room":
    return Room(tmp_path_factory.mktemp("ranks"))


class Room:
    """Bases, data, and the runs made of them, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[str] = []
        """What became of the runs of the first launch, the refused ones among them."""
        self.data = write_chats(folder / "chats.jsonl")
        self.base, self.tied = write_base(folder / "base"), write_base(folder / "tied", tied=True)
        self.one_head = write_base(folder / "one-head", n_kv_heads=1)
        self.together, self.alone = cache(self._together), cache(self._alone)

    def order(self, name: str, changes: dict[str, Any], **more: Any) -> dict[str, Any]:
        """A run as `launch` takes it."""
        changes = dict(changes)
        base = self.tied if changes.pop("tied", False) else self.base
        base = self.one_head if changes.pop("heads", None) else base
        return {"run": str(self.folder / name), "base": str(base), "data": str(self.data), "changes": changes, **more}

    def _together(self, number: int) -> Path:
        runs, world = LAUNCHES[number]
        orders = [self.order(f"{number}/{name}", changes) for name, changes in runs.items()]
        if number == 0:
            orders += [self.order(f"refused/{name}", {**changes, **TENSOR}) for name, (changes, _) in REFUSED.items()]
            orders.append(self.order("interrupted", {}, interrupt=3))
        for done in launch(orders, world):
            assert done.returncode == 0, done.stderr[-3000:]
            told = done.stdout.splitlines()
            assert told[: len(runs)] == ["finished"] * len(runs)
            self.told = told if number == 0 else self.told
        return self.folder / str(number)

    def _alone(self, number: int, name: str) -> Path:
        changes = LAUNCHES[number][0][name].items()
        order = self.order(f"alone/{number}/{name}", {k: v for k, v in changes if k not in ("parallel", "recompute")})
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            config = config_for(Path(order["base"]), self.data, **order["changes"])
            assert watched(Path(order["run"]), config) == "finished"
        finally:
            torch.set_num_threads(threads)
        return Path(order["run"])


def made(run: Path) -> dict[str, torch.Tensor]:
    files = [*run.glob("adapter/*.safetensors"), *run.glob("model/*.safetensors")]
    return load_file(files[0])


@pytest.mark.parametrize(("number", "name"), CASES)
def test_processes_learn_as_one(room: Room, number: int, name: str) -> None:
    run, one = room.together(number) / name, room.alone(number, name)
    assert losses(run) == pytest.approx(losses(one), abs=1e-5)
    own, expected = load_file(run / GRADIENTS), load_file(one / GRADIENTS)
    assert own.keys() == expected.keys(), "other parameters learn"
    assert any(gradient.abs().max() > 1e-3 for gradient in expected.values())
    for key, gradient in expected.items():
        torch.testing.assert_close(own[key], gradient, atol=1e-5, rtol=0)
    validations = [[line["loss"] for line in diary(folder, "validation")] for folder in (run, one)]
    assert validations[0] == pytest.approx(validations[1], abs=1e-5)


@pytest.mark.parametrize(("number", "name"), CASES)
def test_samples_and_what_is_exported_are_those_of_one_process(room: Room, number: int, name: str) -> None:
    run, one = room.together(number) / name, room.alone(number, name)
    spoken = [[line["text"] for line in diary(folder, "sample")] for folder in (run, one)]
    assert spoken[0] == spoken[1]
    own, expected = made(run), made(one)
    assert own.keys() == expected.keys()
    for key, tensor in expected.items():  # AdamW makes more of a gradient's last bits than there is in them
        torch.testing.assert_close(own[key], tensor, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_divided_is_refused_in_one_line(room: Room, name: str) -> None:
    room.together(0)
    line = room.told[len(TWO) + list(REFUSED).index(name)]
    assert line.startswith("refused: tensor: ")
    assert REFUSED[name][1] in line
    assert not (room.folder / "refused" / name).exists()


def test_what_two_processes_began_one_ends(room: Room) -> None:
    room.together(0)
    assert room.told[-1] == "interrupted"
    run = room.folder / "interrupted"
    assert list(losses(run)) == [1, 2, 3]
    assert sft(run, config_for(room.base, room.data)) == "finished"
    assert losses(run) == pytest.approx(losses(room.alone(0, "sharded")), abs=1e-5)
