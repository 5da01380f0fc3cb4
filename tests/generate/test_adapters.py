"""Rows of one batch with different adapters, or none, say what they would say alone (lora.md, defect 13)."""

import copy

import pytest
import torch

from arriero.common.errors import NotFoundError
from arriero.generate.engine import Engine, Request, SamplingConfig
from arriero.model.adapters import Adapters
from arriero.model.lora_config import LoraConfig
from arriero.model.transformer import Llama
from arriero.tokenizer.tokenizer import Tokenizer

CONFIGS = {
    "qv": LoraConfig(targets=("wq", "wv")),
    "all": LoraConfig(rank=4, rslora=True),
    "dora": LoraConfig(targets=("w1", "w2"), dora=True),
    "words": LoraConfig(targets=("wo", "tok_embeddings")),
    "head": LoraConfig(targets=("wk",), whole=("output",)),
}


@pytest.fixture(scope="module")
def engine(tiny_model: Llama, byte_tokenizer: Tokenizer) -> Engine:
    model = copy.deepcopy(tiny_model)
    adapters = Adapters.of(model)
    for seed, (name, config) in enumerate(CONFIGS.items()):
        adapters.add(name, config, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        for change in adapters.changes(name).values():
            for parameter in change.parameters():
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    adapters.activate(None)
    return Engine(model.eval(), byte_tokenizer)


def _requests(names) -> list[Request]:
    sampling = SamplingConfig(temperature=0.0, max_tokens=12, logprobs=0)
    prompts = [[3, 1, 4, 1, 5], [9, 2, 6]]
    return [Request(prompt_ids=prompt, sampling=sampling, adapter=name) for name in names for prompt in prompts]


def test_mixed_rows_answer_as_alone(engine: Engine):
    requests = _requests([None, *CONFIGS])
    together = engine.generate(requests)
    assert len({answer.ids for answer in together}) > len(CONFIGS)  # they do differ
    for request, answer in zip(requests, together, strict=True):
        (alone,) = engine.generate([request])
        assert answer.ids == alone.ids
        expected = [item.logprob for item in alone.logprobs or ()]
        assert [item.logprob for item in answer.logprobs or ()] == pytest.approx(expected, abs=1e-4)


def test_a_request_without_a_name_takes_the_active_adapter(engine: Engine):
    (named,) = engine.generate(_requests(["all"])[:1])
    (plain,) = engine.generate(_requests([None])[:1])
    Adapters.of(engine.model).activate("all")
    (active,) = engine.generate(_requests([None])[:1])
    Adapters.of(engine.model).activate(None)
    assert active.ids == named.ids != plain.ids


def test_an_unknown_adapter_is_told(engine: Engine):
    with pytest.raises(NotFoundError, match=r"no adapter 'dorra' \(did you mean dora\?\)"):
        engine.generate(_requests(["dorra"]))
