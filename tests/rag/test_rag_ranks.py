"""End-to-end training on two processes learns what one learns."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from arriero.rag.rag_train import RAG, train_rag
from tests.rag.rag_room import config_for, write_room
from tests.train.processes import check_ranks, launch_ranks
from tests.train.tuning import diary

pytest.importorskip("transformers")

CHANGES: dict[str, dict[str, Any]] = {
    "adapters": {"training": {"rows": 1}},
    "all-weights-encoded-anew": {
        "training": {"rows": 1},
        "method": "full",
        "kind": "token",
        "retrieval": {"reencode_every": 2},
    },
}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the runs of two processes in it."""
    room = write_room(tmp_path_factory.mktemp("room"))
    runs = [{"run": room / f"two-{name}", "room": room, "changes": changes} for name, changes in CHANGES.items()]
    check_ranks(launch_ranks("-m", "tests.rag.rag_room", json.dumps(runs, default=str)))
    return room


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CHANGES))
def test_two_processes_learn_what_one_learns(room, name):
    alone = room / f"one-{name}"
    assert train_rag(alone, config_for(room, **CHANGES[name])) == "finished"
    together = room / f"two-{name}"
    for kind, numbers in (
        ("step", ("loss", "grad_norm", "unique_documents", "prior_entropy", "answer_found")),
        ("validation", ("loss", "answer_found", "exact_match", "retrieval_entropy")),
    ):
        for mine, theirs in zip(diary(together, kind), diary(alone, kind), strict=True):
            for number in numbers:
                assert mine[number] == pytest.approx(theirs[number], rel=5e-3, abs=1e-4), (kind, number)
    begun = load_file(room / "encoder" / "model.safetensors")
    found = [load_file(next((run / RAG).glob("*encoder/model.safetensors"))) for run in (together, alone)]
    assert max((tensor - begun[name]).abs().max() for name, tensor in found[0].items()) > 1e-3, "its encoder learnt"
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name], rtol=0, atol=2e-4)
