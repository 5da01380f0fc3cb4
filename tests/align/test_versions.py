"""Versions side by side: the same prompts and seeds, scores, the divergence from the first, safety in numbers."""

import pytest
import torch

from arriero.align.prompts import Prompt
from arriero.align.versions import compare_versions, measure_version
from arriero.common.errors import ArrieroError
from arriero.generate.engine import Engine, Request, SamplingConfig
from arriero.model.adapter_export import export_peft
from arriero.model.adapters import Adapters
from arriero.model.lora_config import LoraConfig
from arriero.model.source import load_model
from tests.train.tuning import write_base

PROMPTS = [Prompt(({"role": "user", "content": text},)) for text in ("hi", "who?", "a llama")]
SAMPLING = SamplingConfig(temperature=1.0, max_tokens=8, seed=3)


class ByLength:
    name = "length"

    def __init__(self, sign: float = 1.0, shift: float = 0.0) -> None:
        self.sign, self.shift = sign, shift

    def score(self, prompts, responses):
        assert all(response.strip() for response in responses)
        return [self.sign * len(response) + self.shift for response in responses]


@pytest.fixture
def base(tmp_path):
    return str(write_base(tmp_path / "base"))


@pytest.fixture
def adapter(base, tmp_path):
    loaded = load_model(base, device="cpu", dtype="float32")
    Adapters.of(loaded.model).add("adapter", LoraConfig(rank=2))
    with torch.no_grad():
        for change in Adapters.of(loaded.model).changes("adapter").values():
            change.b.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(1))
    export_peft(loaded, "adapter", tmp_path / "adapter", base)
    return str(tmp_path / "adapter")


def measure(source, base, **options):
    settings = {"helpfulness": ByLength(), "sampling": SAMPLING, "device": "cpu"} | options
    return measure_version("v", source, base, PROMPTS, **settings)


def test_the_first_version_has_not_diverged_from_itself(base):
    found = measure(base, base)
    assert (found.kl.value, found.kl.error) == (0.0, 0.0)
    assert found.safety is found.violations is None


def test_the_divergence_is_the_sum_over_each_answer_s_tokens(base, adapter):
    found = measure(adapter, base)
    loaded, before = load_model(adapter, device="cpu"), load_model(base, device="cpu")
    expected = []
    for number, prompt in enumerate(PROMPTS):
        ids = loaded.tokenizer.encode_chat(list(prompt.messages))
        request = Request(prompt_ids=ids, sampling=SamplingConfig(temperature=1.0, max_tokens=8, seed=3 + number))
        said = list(Engine(loaded.model, loaded.tokenizer).generate([request])[0].ids)
        tokens = torch.tensor([ids + said])
        with torch.no_grad():
            own, other = (torch.log_softmax(x.model(tokens).double(), -1) for x in (loaded, before))
        places = torch.arange(len(ids) - 1, len(ids) + len(said) - 1)
        expected.append((own - other)[0, places, torch.tensor(said)].sum().item())
    assert found.kl.value == pytest.approx(sum(expected) / len(expected), abs=1e-4)
    assert found.lengths[0] >= 1


def test_a_model_of_its_own_diverges_as_its_adapter_does(base, adapter, tmp_path):
    from arriero.model.export import export_model
    from arriero.model.source import load_merged

    export_model(load_merged(adapter, device="cpu", dtype="float32"), tmp_path / "merged", "f32")
    assert measure(str(tmp_path / "merged"), base).kl.value == pytest.approx(measure(adapter, base).kl.value, abs=1e-3)


def test_violations_are_the_answers_that_the_judge_of_safety_takes_for_unsafe(base):
    assert measure(base, base, safety=ByLength(-1.0)).violations == 1.0
    safe = measure(base, base, safety=ByLength())
    assert safe.violations == 0.0
    assert safe.violations_high > 0, "three answers do not prove it"


def test_an_empty_answer_gets_the_lowest_score_of_the_others(base, monkeypatch):
    import dataclasses

    generate = Engine.generate

    def silent(self, requests):
        said = generate(self, requests)
        return [dataclasses.replace(said[0], text=" "), *said[1:]]

    monkeypatch.setattr(Engine, "generate", silent)
    found = measure(base, base)
    assert found.scores[0] == min(found.scores)
    monkeypatch.setattr(Engine, "generate", lambda self, requests: [silent(self, requests)[0]] * len(requests))
    with pytest.raises(ArrieroError, match="every answer is empty"):
        measure(base, base)


def test_a_version_against_itself_is_a_draw(base):
    found = measure(base, base)
    against = compare_versions(found, found)
    assert (against.ties, against.rate) == (3, 0.5)


def test_no_prompts_are_refused(base):
    with pytest.raises(ArrieroError, match="expected prompts"):
        measure_version("v", base, base, [], helpfulness=ByLength())
