"""The drift of packed weights against its definition, computed at once from both models' logits."""

import math
from collections.abc import Iterator

import pytest
import torch

from arriero.model.config import LlamaConfig
from arriero.model.packed import pack_model
from arriero.model.transformer import Llama
from arriero.train.drift import add_up_drifts, compare
from arriero.train.evaluate import Document, DocumentSource, evaluate

SHAPE = {"vocab_size": 70, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96, "max_seq_len": 16}
TEXTS = ([3, 1, 4, 1, 5, 9, 2, 6], [27, 18, 28], [11])


def model_of(seed: int) -> Llama:
    return Llama(LlamaConfig.of(**SHAPE)).init_weights(seed).eval()


def source(name: str = "notes") -> DocumentSource:
    def documents() -> Iterator[Document]:
        for number, ids in enumerate(TEXTS):
            yield Document(ids, len(ids), number + 1)

    return DocumentSource(name=name, documents=documents(), size=len(TEXTS))


def test_it_is_the_definition_and_the_evaluations_are_evaluates():
    full, packed = model_of(0), pack_model(model_of(0), "int4")
    drift = compare(full, packed, source())
    assert drift.full == evaluate(full, source())
    assert drift.packed.nats == pytest.approx(evaluate(packed, source()).nats, rel=1e-6)
    kl = same = 0.0
    for ids in TEXTS[:2]:
        p, q = (model(torch.tensor([ids[:-1]])).detach().double().log_softmax(-1) for model in (full, packed))
        kl += float((p.exp() * (p - q)).sum())
        same += int((p.argmax(-1) == q.argmax(-1)).sum())
    assert drift.kl == pytest.approx(kl, rel=1e-3)
    assert drift.mean_kl == drift.kl / 9 > 0
    assert drift.agreement == same / 9
    assert drift.ratio == pytest.approx(math.exp(drift.packed.loss - drift.full.loss))


def test_a_model_does_not_drift_from_itself():
    drift = compare(model_of(0), model_of(0), source())
    assert (drift.ratio, drift.kl, drift.agreement) == (1.0, 0.0, 1.0)


def test_all_sources_together_count_every_token_once():
    full, packed = model_of(0), pack_model(model_of(0), "int8")
    one = compare(full, packed, source())
    both = add_up_drifts([one, compare(full, packed, source("other"))])
    assert both.full.tokens == 18
    assert both.mean_kl == pytest.approx(one.mean_kl)
    assert both.facts()["drift"]["perplexity_ratio"] == pytest.approx(one.ratio)
