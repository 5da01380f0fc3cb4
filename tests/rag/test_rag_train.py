"""Training end to end: both models learn from answers alone, and what comes out is a RAG model that may be moved."""

import json
import math
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from arriero.common.errors import ArrieroError, FormatError, NotFoundError
from arriero.rag import collapse
from arriero.rag.collection import Collection
from arriero.rag.decode import decode
from arriero.rag.decoding_config import DecodingConfig
from arriero.rag.encoder import load_encoder, load_query_encoder
from arriero.rag.generators import load_generator
from arriero.rag.rag_model import MANIFEST, load_rag
from arriero.rag.rag_train import RAG, build_learner, prepare_rag, spread, train_rag
from arriero.rag.retrieve import documents_for
from arriero.rag.seq2seq_generator import Seq2SeqGenerator
from arriero.rag.training_set import open_collection
from arriero.report.curves import charts
from arriero.report.run import read_run
from arriero.train.watch import RunWatcher
from tests.rag.rag_room import TOWNS, config_for, write_room
from tests.rag.test_seq2seq_generator import make, words
from tests.train.tuning import diary, losses

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    return write_room(tmp_path_factory.mktemp("room"))


@pytest.mark.parametrize(("kind", "method"), [("sequence", "lora"), ("token", "full")])
def test_the_loss_falls_and_the_model_is_read_again(room, tmp_path, kind, method):
    lr = 1e-2 if method == "lora" else 3e-3
    config = config_for(
        room, kind=kind, method=method, optim={"lr": lr}, training={"steps": 15, "validate_every": 15, "batch": 6}
    )
    assert train_rag(tmp_path / "run", config) == "finished"
    steps = losses(tmp_path / "run")
    assert np.mean([steps[n] for n in (13, 14, 15)]) < steps[1] - 1
    model = load_rag(tmp_path / "run" / RAG, device="cpu")
    assert (model.kind, model.k, model.scale, model.encoder) == (kind, 3, 20.0, None)
    (tmp_path / "run" / RAG).rename(tmp_path / "moved")
    for file in (tmp_path / "moved").rglob("*.json"):
        assert not re.search(r'"(/|[A-Z]:)[^"]*pytest', file.read_text()), file
    model = load_rag(tmp_path / "moved", model=str(room / "base"), device="cpu")
    with Collection.open(room / "documents", query_encoder=model.query_encoder, device="cpu") as collection:
        questions = [f"who is the mayor of {town}?" for town in TOWNS[:3]]
        found = documents_for(collection, questions, 3, mode="dense", scale=model.scale)
        answers = decode(model.generator, questions, found, DecodingConfig(kind=kind, decoding="greedy", max_tokens=6))
    assert all(answer.best.text for answer in answers)


def test_what_is_exported_is_what_was_trained(room, tmp_path):
    config = config_for(room)
    train_rag(tmp_path / "run", config)
    base = load_encoder(room / "encoder", device="cpu")
    trained = load_query_encoder(tmp_path / "run" / RAG / "query_encoder", base)
    assert trained.fingerprint == base.fingerprint
    change = np.abs(trained.encode_queries(["who is the mayor"]) - base.encode_queries(["who is the mayor"])).max()
    assert change > 1e-4
    validations = diary(tmp_path / "run", "validation")
    assert [line["step"] for line in validations] == [0, 2, 4]
    retrieval = {"retrieval_distinct", "retrieval_entropy", "retrieval_kept"}
    assert {"loss", "answer_found", "exact_match", "f1"} | retrieval <= validations[0].keys()
    assert len(diary(tmp_path / "run", "sample")) == 3 * 2
    assert validations[0]["retrieval_kept"] == 1
    step = diary(tmp_path / "run", "step")[0]
    assert 0 < step["prior_entropy"] <= math.log(3) + 1e-6
    assert step["unique_documents"] > 0


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_an_encoder_decoder_learns_with_all_its_weights(room, tmp_path, kind):
    model = make(kind)
    model.config.update({"dropout": 0.0, "dropout_rate": 0.0})  # as BART and T5 call it
    model.save_pretrained(tmp_path / "base")
    words().save_pretrained(tmp_path / "base")
    changes = {"optim": {"lr": 1e-3}, "training": {"steps": 8, "batch": 6, "validate_every": 8}}
    config = config_for(room, model=str(tmp_path / "base"), method="full", **changes)
    assert train_rag(tmp_path / "run", config) == "finished"
    steps = losses(tmp_path / "run")
    assert steps[8] < steps[1] - 1
    trained = load_rag(tmp_path / "run" / RAG, device="cpu").generator
    assert isinstance(trained, Seq2SeqGenerator)
    before = load_generator(str(tmp_path / "base"), device="cpu").model.state_dict()
    assert max((tensor - before[name]).abs().max() for name, tensor in trained.model.state_dict().items()) > 1e-3
    with pytest.raises(ArrieroError, match="give --method full"):
        train_rag(tmp_path / "other", replace(config, method="lora"))


def test_the_report_shows_what_retrieval_came_to(room, tmp_path):
    train_rag(tmp_path / "run", config_for(room, training={"steps": 2}))
    shown = {chart.title: chart.unit for chart in charts([read_run(tmp_path / "run")])}
    assert shown["Loss"] == "nats a question"
    assert {"Exact match", "Distinct documents", "Entropy of p(z|x)"} <= shown.keys()


def test_a_frozen_retriever_stays_and_only_the_generator_learns(room, tmp_path):
    config = config_for(room, retrieval={"freeze_retriever": True})
    with open_collection(config) as collection:
        learner = build_learner(config, collection)[0]
    assert not any(parameter.requires_grad for parameter in learner.query.parameters())
    train_rag(tmp_path / "run", config)
    assert load_rag(tmp_path / "run" / RAG, device="cpu").query_encoder is None
    assert not (tmp_path / "run" / RAG / "query_encoder").exists()


def test_a_run_that_was_stopped_goes_on_bit_for_bit(room, tmp_path):
    config = config_for(room)
    train_rag(tmp_path / "whole", config)
    train_rag(tmp_path / "parts", replace(config, training=replace(config.training, max_minutes=1e-9)))
    assert len(losses(tmp_path / "parts")) == 1
    train_rag(tmp_path / "parts", config)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    for name in ("generator/adapter_model.safetensors", "query_encoder/model.safetensors"):
        whole, parts = ((tmp_path / run / RAG / name).read_bytes() for run in ("whole", "parts"))
        assert whole == parts


def test_passages_encoded_anew_are_the_same_ones_after_a_stop(room, tmp_path, monkeypatch):
    config = config_for(room, retrieval={"reencode_every": 2}, training={"steps": 5})
    train_rag(tmp_path / "whole", config)
    for stop in (2, 3):  # at the step when passages are encoded anew, and after it
        run = tmp_path / f"stopped{stop}"
        with monkeypatch.context() as patch:
            interrupt_after(patch, stop)
            assert train_rag(run, config) == "interrupted"
        assert train_rag(run, config) == "finished"
        assert losses(run) == losses(tmp_path / "whole")


def interrupt_after(patch: pytest.MonkeyPatch, step: int) -> None:
    """Ctrl-C once a step is written down."""
    whole = RunWatcher.on_step

    def on_step(self, result) -> None:
        whole(self, result)
        if result.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    patch.setattr(RunWatcher, "on_step", on_step)


def test_questions_are_chosen_from_all_places():
    assert spread(list(range(10)), 3) == [0, 3, 6]
    assert spread(list(range(2)), 3) == [0, 1]
    assert spread([], 3) == []


def test_a_longer_run_writes_the_model_again(room, tmp_path):
    config = config_for(room, training={"steps": 2})
    train_rag(tmp_path / "run", config)
    before = (tmp_path / "run" / RAG / "query_encoder" / "model.safetensors").read_bytes()
    longer = replace(config, training=replace(config.training, steps=6))
    assert train_rag(tmp_path / "run", longer, allow=("training.steps",)) == "finished"
    assert (tmp_path / "run" / RAG / "query_encoder" / "model.safetensors").read_bytes() != before
    assert load_rag(tmp_path / "run" / RAG, device="cpu").k == 3


def test_questions_that_come_to_find_the_same_are_told(room, tmp_path, monkeypatch):
    monkeypatch.setattr(collapse, "_LEAST_DISTINCT", 2.0)  # twice as many as before would be a collapse too
    train_rag(tmp_path / "run", config_for(room, questions={"eval_share": 0.0}))
    events = [line for line in diary(tmp_path / "run", "event") if line["event"] == "warning"]
    assert [line["step"] for line in events] == [0, 2, 4]
    assert "retrieval collapses: questions find" in events[0]["detail"]


def test_micro_batches_are_parts_of_one_step(room, tmp_path):
    for rows in (1, 4):
        config = config_for(room, training={"rows": rows, "steps": 2})
        train_rag(tmp_path / f"run{rows}", config)
    one, four = (losses(tmp_path / f"run{rows}") for rows in (1, 4))
    assert one == pytest.approx(four, abs=1e-4)


@pytest.mark.slow
def test_bfloat16_is_for_the_generator_alone(room, tmp_path):
    config = config_for(room, dtype="bfloat16", training={"steps": 2})
    train_rag(tmp_path / "half", config)
    train_rag(tmp_path / "whole", replace(config, dtype="float32"))
    half, whole = (diary(tmp_path / run, "step")[0] for run in ("half", "whole"))
    assert half["prior_entropy"] == pytest.approx(whole["prior_entropy"], abs=1e-6)
    assert half["loss"] == pytest.approx(whole["loss"], rel=1e-2)
    assert half["loss"] != whole["loss"]


def test_learning_rates_are_separate(room, tmp_path):
    config = config_for(room, retriever_lr=1e-12, training={"steps": 2})
    train_rag(tmp_path / "run", config)
    base = load_encoder(room / "encoder", device="cpu")
    trained = load_query_encoder(tmp_path / "run" / RAG / "query_encoder", base)
    np.testing.assert_allclose(trained.encode_queries(["who"]), base.encode_queries(["who"]), atol=1e-6)


def test_passages_encoded_anew_give_an_encoder_for_both_sides(room, tmp_path):
    config = config_for(room, retrieval={"reencode_every": 2})
    train_rag(tmp_path / "run", config)
    model = load_rag(tmp_path / "run" / RAG, device="cpu")
    assert model.query_encoder is None
    assert model.encoder is not None
    encoder = load_encoder(model.encoder, device="cpu")
    assert encoder.query is encoder.passage
    base = load_encoder(room / "encoder", device="cpu")
    assert np.abs(encoder.encode_passages(["who"]) - base.encode_passages(["who"])).max() > 1e-4
    with (
        Collection.open(room / "documents", model.encoder, device="cpu") as collection,
        pytest.raises(ArrieroError, match="was made with the encoder 'encoder'"),
    ):
        collection.search("who")


def test_questions_without_answers_are_counted_and_titles_held_out_whole(room, tmp_path):
    lines = (room / "questions.jsonl").read_text() + json.dumps({"question": "why?", "answers": []})
    (tmp_path / "more.jsonl").write_text(lines)
    config = config_for(room, questions={"questions": (tmp_path / "more.jsonl",)})
    with open_collection(config) as collection:
        prepared = prepare_rag(config, collection)
    assert (prepared.unanswered, len(prepared.training), len(prepared.held_out)) == (1, 6, 2)
    assert prepared.question_tokens > 3 * 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retrieval": {"k": 0}}, "k: expected 1 or more"),
        ({"retrieval": {"reencode_every": 5, "freeze_retriever": True}}, "a frozen retriever"),
        ({"retriever_lr": 0.0}, "retriever_lr: expected"),
        ({"quantise": "nf4", "method": "full"}, "quantise: nf4"),
        ({"questions": {"questions": ()}}, "no questions given"),
        ({"parallel": {"tensor": 2}}, "tensor: the two models"),
    ],
)
def test_settings_that_mean_nothing_are_refused(room, changes, message):
    with pytest.raises(ArrieroError, match=message):
        config_for(room, **changes)


def test_the_other_of_the_two_models_is_refused_by_both_names(room, tmp_path):
    train_rag(tmp_path / "run", config_for(room, training={"steps": 1}))
    folder = tmp_path / "run" / RAG
    assert load_rag(folder, kind="sequence", device="cpu").kind == "sequence"
    with pytest.raises(ArrieroError, match="was trained as RAG-Sequence, not as RAG-Token"):
        load_rag(folder, kind="token")
    with pytest.raises(NotFoundError, match=r"expected rag\.json"):
        load_rag(tmp_path / "run")
    facts = json.loads((folder / MANIFEST).read_text())
    for damage in ({"kind": "both"}, {"k": 0}, {"scale": "x"}, {"version": 9}):
        (folder / MANIFEST).write_text(json.dumps(facts | damage))
        with pytest.raises(FormatError, match=r"rag\.json"):
            load_rag(folder)


def test_gradients_come_from_answers_to_both_models(room):
    config = config_for(room)
    with open_collection(config) as collection:
        prepared = prepare_rag(config, collection)
        from arriero.rag.rag_batches import lay_out_questions
        from arriero.rag.rag_learner import rag_loss

        batch = lay_out_questions(prepared.training, prepared.targets(prepared.training), [0, 1])
        rag_loss(prepared.learner, batch).total.backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in prepared.learner.query.parameters())
        learning = [p for p in prepared.learner.generator.parameters() if p.requires_grad]
        assert all(p.grad is not None for p in learning)
        empty = lay_out_questions(prepared.training, prepared.targets(prepared.training), [])
        loss = rag_loss(prepared.learner, empty)
        assert (loss.count, float(loss.total.detach())) == (0, 0.0)
        assert torch.isfinite(loss.total)
