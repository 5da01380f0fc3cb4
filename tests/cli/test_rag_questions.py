"""`rag questions` from the command line; what becomes of the questions is tested in `tests/rag/test_synthesis.py`."""

import json

import pytest

from arriero.common.errors import ArrieroError
from tests.rag.rag_room import write_room


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return write_room(tmp_path_factory.mktemp("room"))


@pytest.fixture
def written(monkeypatch):
    """What `synthesise` is called with; it counts without a model."""
    from arriero.rag import synthesis

    calls = []

    def count(collection, engine, out, config, *, model):
        calls.append((config, model))
        if config.seed == 9:
            raise ArrieroError("nothing is left of 1 questions")
        return synthesis.SynthesisCounts(passages=7, short=2, written=9, kept=1, dropped={"lost": 8})

    monkeypatch.setattr(synthesis, "synthesise", count)
    return calls


def words(room, *more):
    own = ["--model", str(room / "base"), "--collection", str(room / "documents"), "--device", "cpu"]
    return ["rag", "questions", "out.jsonl", *own, *more]


def test_counts_are_told_with_the_reasons(run, room, written):
    result = run(*words(room, "--per-passage", "2", "--top", "1"))
    assert result.code == 0, result.err
    assert "dropped: retrieval does not bring the passage back" in result.out
    assert "too short to ask about" in result.out
    assert "arriero rag train --questions out.jsonl" in result.out
    config, model = written[0]
    assert (config.per_passage, config.top, model) == (2, 1, str(room / "base"))


def test_json_is_one_line(run, room, written):
    result = run(*words(room, "--json"))
    assert json.loads(result.out)["counts"]["dropped"] == {"lost": 8}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--collection", "absent"), "no collection in absent"),
        (("--per-passage", "0"), "per_passage: expected 1 or more"),
        (("--seed", "9"), "nothing is left"),
    ],
)
def test_what_does_not_suit_is_one_line(run, room, written, more, message):
    result = run(*words(room, *more))
    assert result.code == 2
    assert message in result.err
    assert "Traceback" not in result.err
