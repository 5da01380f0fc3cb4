"""A retriever on two processes has the loss of one: each passage of the batch counts once, whoever brought it."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from arriero.rag.retriever_config import RetrieverConfig
from arriero.rag.retriever_train import train_retriever
from arriero.train.sft_config import EpochsConfig
from tests.rag.rag_room import write_room
from tests.rag.test_retriever_train import config_for
from tests.train.processes import check_ranks, launch_ranks
from tests.train.tuning import diary

pytest.importorskip("transformers")


def config_of(room: Path, sides: str) -> RetrieverConfig:
    """6 questions in steps of 4: the second process has none left in each second step."""
    return config_for(
        room, sides=sides, training=EpochsConfig(steps=6, batch=4, validate_every=2, checkpoint_every=6, patience=0)
    )


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_room(tmp_path_factory.mktemp("room"))


def train_on_two(room: Path, sides: str) -> Path:
    """The run's folder, after two new processes ran it."""
    check_ranks(launch_ranks("-m", "tests.rag.test_retriever_ranks", str(room), sides, timeout=200))
    return room / f"two-{sides}"


@pytest.mark.slow
def test_the_query_side_learns_on_two_processes_what_it_learns_on_one(room):
    one, two = room / "one", train_on_two(room, "query")
    train_retriever(one, config_of(room, "query"))
    for kind, numbers in (("step", ("loss", "grad_norm")), ("validation", ("loss", "mrr"))):
        for mine, theirs in zip(diary(two, kind), diary(one, kind), strict=True):
            for number in numbers:
                assert mine[number] == pytest.approx(theirs[number], rel=1e-3), (kind, number)
    found, expected = (load_file(run / "query_encoder" / "model.safetensors") for run in (two, one))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=2e-4)


@pytest.mark.slow
def test_both_sides_begin_with_the_loss_of_one_process_and_learn(room):
    two = train_on_two(room, "both")
    train_retriever(room / "one-both", config_of(room, "both"))
    for kind in ("step", "validation"):
        assert diary(two, kind)[0]["loss"] == pytest.approx(diary(room / "one-both", kind)[0]["loss"], rel=1e-5)
    # from here on by other gradients: each process moves its own passages alone
    assert diary(two, "validation")[-1]["loss"] < diary(two, "validation")[0]["loss"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    train_retriever(Path(sys.argv[1]) / f"two-{sys.argv[2]}", config_of(Path(sys.argv[1]), sys.argv[2]))
