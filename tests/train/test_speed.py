"""Operations a token takes, and a second allows."""

import platform
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from arriero.model.config import LlamaConfig
from arriero.model.presets import PRESETS
from arriero.train.speed import flops_per_token, measure_matmul, peak_flops


def test_matrices_count_as_pytorch_counts_them() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 96, "dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "hidden_dim": 80}
    config = LlamaConfig.of(**sizes, max_seq_len=64)
    peer = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=96,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=80,
            attn_implementation="eager",
        )
    )
    tokens = torch.zeros(1, 16, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        peer(tokens, labels=tokens, use_cache=False).loss.backward()
    # the peer's rotary table and its attention without a causal mask, which costs twice ours
    uncounted = 6 * config.n_layers * config.n_heads * config.head_dim * 16
    assert counter.get_total_flops() / 16 == pytest.approx(flops_per_token(config, 16) + uncounted, rel=0.01)


def test_llama_7b_takes_about_six_operations_a_parameter() -> None:
    # 6.738e9 parameters, 32,000 x 4,096 of which are looked up
    assert flops_per_token(PRESETS["llama-7b"], 1) == pytest.approx(6 * (6.738e9 - 32000 * 4096), rel=1e-3)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another library keeps memory by itself")
def test_memory_that_was_freed_is_kept() -> None:
    script = (
        "import ctypes, torch; from arriero.train.speed import keep_freed_memory; keep_freed_memory(); "
        "fields = [(name, ctypes.c_size_t) for name in 'arena a b c hblkhd d e uordblks fordblks keepcost'.split()]; "
        "info = ctypes.CDLL(None).mallinfo2; info.restype = type('I', (ctypes.Structure,), {'_fields_': fields}); "
        "len(torch.ones(2**25)); print(info().fordblks)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 4 * 2**25, "memory that was freed went back to the system"


def test_a_cpu_is_measured_and_an_unknown_device_is_not() -> None:
    assert measure_matmul(size=64, seconds=0.01) > 1e6
    assert peak_flops(torch.device("meta"), 2) is None
