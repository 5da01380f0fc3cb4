"""The published sizes have the published numbers of parameters; nothing is allocated."""

import pytest
import torch

from arriero.model.presets import PRESETS
from arriero.model.transformer import Llama

PARAMETERS = {
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-33b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-34b": 33_743_970_304,
    "llama2-70b": 68_976_648_192,
    "smollm2-135m": 134_515_008,
    "tiny-6m": 6_163_712,
    "tiny-15m": 15_537_792,
}


@pytest.mark.parametrize("name", PRESETS)
def test_number_of_parameters(name):
    with torch.device("meta"):
        assert Llama(PRESETS[name]).n_params == PARAMETERS[name]


def test_every_preset_is_counted():
    assert set(PRESETS) == set(PARAMETERS)


@pytest.mark.parametrize(("family", "context", "eps"), [("llama-", 2048, 1e-6), ("llama2-", 4096, 1e-5)])
def test_families_differ_in_context_and_epsilon(family, context, eps):
    configs = [config for name, config in PRESETS.items() if name.startswith(family)]
    assert len(configs) == 4
    assert {(config.max_seq_len, config.norm_eps, config.vocab_size) for config in configs} == {(context, eps, 32000)}
