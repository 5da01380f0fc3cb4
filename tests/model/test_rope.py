"""Rotary positions: turns of pairs, relative, in fp32; test_transformer holds the scalings against transformers."""

import math

import pytest
import torch

from arriero.model.config import LlamaConfig, RopeScaling
from arriero.model.rope import frequencies, rotate, rotation

CONFIG = {"vocab_size": 10, "dim": 32, "n_layers": 1, "n_heads": 2}


def test_pairs_turn_by_position_times_frequency():
    config = LlamaConfig.of(**CONFIG)
    x = torch.zeros(1, 3, 2, 16)
    x[..., 2] = 1.0  # dim 2 pairs with dim 10, at frequency 10000^(−4/16)
    turned = rotate(x, rotation(config, torch.tensor([[0, 1, 5]])))
    for t, position in enumerate((0, 1, 5)):
        angle = position * 10000 ** (-4 / 16)
        assert turned[0, t, 0, 2].item() == pytest.approx(math.cos(angle), abs=1e-6)
        assert turned[0, t, 1, 10].item() == pytest.approx(math.sin(angle), abs=1e-6)
    assert (turned[..., [0, 1, 3, 9, 11]] == 0).all()


def test_scores_depend_on_the_distance_alone():
    config = LlamaConfig.of(**CONFIG)
    q, k = torch.randn(2, 1, 1, 2, 16, generator=torch.Generator().manual_seed(0))

    def score(query: int, key: int) -> torch.Tensor:
        at = [rotation(config, torch.tensor([[position]])) for position in (query, key)]
        return (rotate(q, at[0]) * rotate(k, at[1])).sum(-1)

    torch.testing.assert_close(score(9, 4), score(1009, 1004), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(score(9, 4), score(9, 5), atol=1e-2)


def test_tables_are_fp32_and_the_result_has_the_input_dtype():
    turn = rotation(LlamaConfig.of(**CONFIG), torch.tensor([[4000]]))
    assert {table.dtype for table in turn} == {torch.float32}
    x = torch.randn(1, 1, 2, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    turned = rotate(x, turn)
    assert turned.dtype == torch.bfloat16
    torch.testing.assert_close(turned, rotate(x.float(), turn).bfloat16())


def test_llama3_keeps_short_waves_and_stretches_long_ones():
    scaling = RopeScaling(kind="llama3", factor=8.0, original_max_seq_len=8192)
    plain = frequencies(LlamaConfig.of(**CONFIG, head_dim=128, rope_theta=500000.0), torch.device("cpu"))
    scaled = frequencies(
        LlamaConfig.of(**CONFIG, head_dim=128, rope_theta=500000.0, rope_scaling=scaling), torch.device("cpu")
    )
    waves = 2 * math.pi / plain
    short, long = waves < 8192 / 4, waves > 8192
    torch.testing.assert_close(scaled[short], plain[short])
    torch.testing.assert_close(scaled[long], plain[long] / 8)
    middle = ~short & ~long
    assert middle.any()
    assert ((scaled[middle] < plain[middle]) & (scaled[middle] > plain[middle] / 8)).all()


def test_dynamic_frequencies_are_each_rows_own():
    scaling = RopeScaling(kind="dynamic", factor=4.0, original_max_seq_len=8)
    config = LlamaConfig.of(**CONFIG, rope_scaling=scaling)
    positions = torch.arange(12).expand(2, 12)
    cos, sin = rotation(config, positions, torch.tensor([12, 6]))
    long_cos, _ = rotation(config, positions[:1])
    short_cos, short_sin = rotation(LlamaConfig.of(**CONFIG), positions[:1])
    torch.testing.assert_close(cos[:1], long_cos)
    torch.testing.assert_close((cos[1:], sin[1:]), (short_cos, short_sin))
    assert not torch.allclose(cos[0], cos[1])
