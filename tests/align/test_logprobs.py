"""Log-probabilities and values of given answers: together what each alone gives, and at the sampler's temperature."""

import pytest
import torch

from arriero.align.logprobs import answer_logprobs, answer_values, lay_answers
from arriero.generate.engine import Engine, Request, SamplingConfig
from arriero.model.heads import VALUE, add_head
from arriero.model.source import load_model
from tests.train.shard_folders import EOS
from tests.train.tuning import write_base

PROMPTS = [[5, 6, 7], [EOS, 9, EOS, 11, 12], [3]]
ANSWERS = [[20, 21, EOS], [30], [40, 41, 42, 43]]


@pytest.fixture
def loaded(tmp_path):
    loaded = load_model(str(write_base(tmp_path / "base", tied=True)), device="cpu", dtype="float32")
    add_head(loaded.model, VALUE, seed=1)
    return loaded


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_answers_end_to_end_have_the_log_probabilities_of_each_alone_without_padding(loaded, temperature):
    found, entropies = answer_logprobs(loaded.model, lay_answers(PROMPTS, ANSWERS), temperature)
    expected, spread = [], []
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        logits = loaded.model(torch.tensor([[*prompt, *answer]]))[0].double() / temperature
        every = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1]
        expected += [float(every[i, token]) for i, token in enumerate(answer)]
        spread += (-(every.exp() * every).sum(-1)).tolist()
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    assert entropies.tolist() == pytest.approx(spread, abs=1e-4)


@torch.no_grad()
def test_an_eos_in_the_prompt_hides_nothing_and_pad_may_be_eos(loaded):
    """What counts is told by places, never by ids: with pad = eos = 2 and tied embeddings nothing is lost."""
    row = lay_answers(PROMPTS, ANSWERS)
    assert row.targets.tolist() == [token for answer in ANSWERS for token in answer]
    assert row.tokens[0, row.places + 1].tolist() == row.targets.tolist()
    assert answer_values(loaded.model, row, VALUE).shape == row.targets.shape


@torch.no_grad()
def test_values_are_of_the_state_before_each_token(loaded):
    values = answer_values(loaded.model, lay_answers(PROMPTS, ANSWERS), VALUE)
    other = [[*ANSWERS[0][:1], 99, 98], *ANSWERS[1:]]
    changed = answer_values(loaded.model, lay_answers(PROMPTS, other), VALUE)
    torch.testing.assert_close(changed[:2], values[:2])
    assert not torch.isclose(changed[2], values[2])


@torch.no_grad()
def test_what_the_engine_samples_from_is_what_is_compared(loaded):
    sampling = SamplingConfig(temperature=0.7, max_tokens=8, seed=3, logprobs=0, logprobs_of="sampler")
    said = Engine(loaded.model, loaded.tokenizer).generate([Request(prompt_ids=PROMPTS[1], sampling=sampling)])[0]
    found, _ = answer_logprobs(loaded.model, lay_answers([PROMPTS[1]], [said.ids]), 0.7)
    assert found.tolist() == pytest.approx([token.logprob for token in said.logprobs], abs=1e-4)
