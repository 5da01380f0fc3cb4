"""A retriever learns to find, its encoder is written for the passages it finds, and nothing on the way is lost."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from arriero.common.errors import ArrieroError, NotFoundError
from arriero.rag.collection import Collection
from arriero.rag.encoder import load_encoder
from arriero.rag.rag_config import QuestionsConfig
from arriero.rag.retriever_config import RetrieverConfig, RetrieverOptimizerConfig
from arriero.rag.retriever_train import prepare_retriever, train_retriever
from arriero.rag.training_set import open_collection
from arriero.train.keep import KeepConfig
from arriero.train.sft_config import EpochsConfig
from tests.rag.rag_room import TOWNS, write_room
from tests.train.tuning import diary, losses

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    return write_room(tmp_path_factory.mktemp("room"))


def config_for(room: Path, **changes) -> RetrieverConfig:
    settings = {
        "collection": room / "documents",
        "questions": QuestionsConfig(questions=(room / "questions.jsonl",), eval_share=0.25),
        "training": EpochsConfig(steps=4, batch=4, validate_every=2, checkpoint_every=2, patience=0),
        "optim": RetrieverOptimizerConfig(lr=3e-3),
        "checkpoints": KeepConfig(asynchronous=False),
        "device": "cpu",
        "negatives": 2,
    }
    return RetrieverConfig(**(settings | changes))


def test_the_query_side_learns_to_find_and_the_collection_stays(room, tmp_path):
    long = EpochsConfig(steps=40, batch=8, validate_every=40, checkpoint_every=40, patience=0)
    everything = QuestionsConfig(questions=(room / "questions.jsonl",), eval_questions=(room / "questions.jsonl",))
    config = config_for(room, training=long, questions=everything)
    assert train_retriever(tmp_path / "run", config) == "finished"
    first, last = diary(tmp_path / "run", "validation")
    assert last["loss"] < first["loss"] - 0.3
    assert last["mrr"] >= first["mrr"]
    assert {"recall_1", "recall_5", "recall_20"} <= last.keys()
    made = tmp_path / "run" / "query_encoder"
    with Collection.open(room / "documents", query_encoder=made, device="cpu") as collection:
        found = [collection.search(f"who is the mayor of {town}?", k=1, mode="dense")[0] for town in TOWNS]
    right = np.mean([town in hit.passage.document for town, hit in zip(TOWNS, found, strict=True)])
    assert right == pytest.approx(last["recall_1"])


def test_both_sides_give_an_encoder_by_which_passages_are_encoded_anew(room, tmp_path):
    train_retriever(tmp_path / "run", config_for(room, sides="both"))
    made = tmp_path / "run" / "encoder"
    encoder = load_encoder(made, device="cpu")
    assert encoder.query is encoder.passage
    fresh = write_room(tmp_path / "other")
    with Collection.open(fresh / "documents", device="cpu") as collection:
        old = collection.search("who is the mayor of lumo?", mode="dense", k=8)
        assert collection.reencode(made) == len(TOWNS)
        found = collection.search("who is the mayor of lumo?", mode="dense", k=8)
        passages = {hit.passage_id: hit.passage.text for hit in found}
        assert {hit.passage_id for hit in old} == set(passages)
    with Collection.open(fresh / "documents", device="cpu") as collection:  # finds its new encoder by itself
        again = collection.search("who is the mayor of lumo?", mode="dense", k=8)
        assert [hit.passage_id for hit in again] == [hit.passage_id for hit in found]
        query = encoder.encode_queries(["who is the mayor of lumo?"])[0]
        for hit in again:
            assert hit.dense == pytest.approx(float(query @ encoder.encode_passages([hit.passage.text])[0]), abs=1e-5)
        assert collection.store.verify() == []
    with (
        Collection.open(fresh / "documents", room / "encoder", device="cpu") as collection,
        pytest.raises(ArrieroError, match="was made with the encoder 'encoder'"),
    ):
        collection.search("who")


def test_an_interrupted_encoding_leaves_everything_as_it_was(room, tmp_path):
    fresh = write_room(tmp_path / "room")

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with Collection.open(fresh / "documents", device="cpu") as collection:
        before = [hit.dense for hit in collection.search("who is the mayor of lumo?", mode="dense")]
        with pytest.raises(KeyboardInterrupt):
            collection.reencode(room / "encoder", stop)
        with pytest.raises(NotFoundError):
            collection.reencode(tmp_path / "absent")
    with Collection.open(fresh / "documents", device="cpu") as collection:
        assert [hit.dense for hit in collection.search("who is the mayor of lumo?", mode="dense")] == before


@pytest.mark.parametrize("sides", ["query", "both"])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(room, tmp_path, sides):
    config = config_for(room, sides=sides)
    train_retriever(tmp_path / "whole", config)
    train_retriever(tmp_path / "parts", replace(config, training=replace(config.training, max_minutes=1e-9)))
    assert len(losses(tmp_path / "parts")) == 1
    train_retriever(tmp_path / "parts", config)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    made = ("query_encoder" if sides == "query" else "encoder") + "/model.safetensors"
    assert (tmp_path / "whole" / made).read_bytes() == (tmp_path / "parts" / made).read_bytes()


def test_questions_that_no_passage_answers_are_left_out(room, tmp_path):
    lines = (room / "questions.jsonl").read_text() + '{"question": "why?", "answers": []}\n'
    lines += '{"question": "who?", "answers": ["nobody"]}\n'
    (tmp_path / "more.jsonl").write_text(lines)
    questions = QuestionsConfig(questions=(tmp_path / "more.jsonl",), eval_share=0.0)
    config = config_for(room, questions=questions)
    with open_collection(config) as collection:
        prepared = prepare_retriever(config, collection)
    assert (prepared.unanswered, len(prepared.training)) == (2, len(TOWNS))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"negatives": -1}, "negatives: expected 0 or more"),
        ({"scale": 0.0}, "scale: expected"),
        ({"training": EpochsConfig(rows=2)}, "the loss is over all passages"),
    ],
)
def test_settings_that_mean_nothing_are_refused(room, changes, message):
    with pytest.raises(ArrieroError, match=message):
        config_for(room, **changes)


def test_nothing_to_learn_from_is_told(room, tmp_path):
    (tmp_path / "none.jsonl").write_text('{"question": "who?", "answers": ["nobody"]}\n')
    config = config_for(room, questions=QuestionsConfig(questions=(tmp_path / "none.jsonl",), eval_share=0.0))
    with open_collection(config) as collection, pytest.raises(ArrieroError, match="are they of these documents"):
        prepare_retriever(config, collection)
