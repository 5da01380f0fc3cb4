"""Scalar heads as parts of a model: their start, their count, and how checkpoints keep them."""

import pytest
import torch

from arriero.common.errors import ArrieroError
from arriero.model.adapters import Adapters, adapter_on
from arriero.model.heads import SCORE, VALUE, add_head, head_of, read_head
from arriero.model.lora_config import LoraConfig
from arriero.model.transformer import Llama
from arriero.train.checkpoint import gather_state


def test_a_head_begins_normal_with_one_over_the_root_of_its_inputs(tiny):
    wide = Llama(tiny)
    weights = torch.cat([add_head(wide, f"h{seed}", seed=seed).weight[0] for seed in range(60)])
    assert weights.std().item() == pytest.approx((tiny.dim + 1) ** -0.5, rel=0.06)
    assert abs(weights.mean().item()) < 0.02


def test_the_same_seed_is_the_same_head(tiny):
    one, other = Llama(tiny), Llama(tiny)
    assert torch.equal(add_head(one, SCORE, seed=4).weight, add_head(other, SCORE, seed=4).weight)


def test_a_head_reads_hidden_states_in_fp32(tiny, make_model):
    model = make_model(tiny)
    head = add_head(model, SCORE)
    hidden = model.hidden(torch.arange(6)[None])
    expected = hidden.double() @ head.weight[0].double()
    torch.testing.assert_close(read_head(model, SCORE, hidden).double(), expected, rtol=1e-5, atol=1e-5)
    assert read_head(model, SCORE, hidden.bfloat16()).dtype == torch.float32


def test_a_head_is_no_part_of_the_parameters_of_the_model_itself(tiny):
    model = Llama(tiny)
    before = model.n_params
    add_head(model, VALUE)
    assert model.n_params == before


def test_unknown_and_repeated_heads_are_errors(tiny):
    model = Llama(tiny)
    with pytest.raises(ArrieroError, match="no head 'score'"):
        head_of(model, SCORE)
    add_head(model, SCORE)
    with pytest.raises(ArrieroError, match="already"):
        add_head(model, SCORE)


def test_a_checkpoint_of_an_adapter_has_its_heads_trained_or_not(tiny):
    model = Llama(tiny)
    Adapters.of(model).add("reward", LoraConfig(rank=2))
    add_head(model, SCORE)
    add_head(model, VALUE).requires_grad_(False)
    state = gather_state(model, None)
    assert {"model.heads.score.weight", "model.heads.value.weight"} <= state.keys()
    assert not any("tok_embeddings" in name for name in state)


def test_adapter_on_gives_back_what_was_on_even_after_an_error(tiny):
    model = Llama(tiny)
    with adapter_on(model, None):
        assert model.adapters is None
    adapters = Adapters.of(model)
    adapters.add("one", LoraConfig(rank=2))
    adapters.add("two", LoraConfig(rank=2))
    with pytest.raises(ZeroDivisionError), adapter_on(model, "one"):
        assert adapters.active == "one"
        raise ZeroDivisionError
    assert adapters.active == "two"
    with adapter_on(model, None):
        assert adapters.active is None
