"""The counts follow the paper's theorems."""

import pytest

from arriero.common.errors import ArrieroError
from arriero.kernels.block_mask import butterfly
from arriero.kernels.io_count import count_standard, count_tiled, count_tiled_backward


def test_standard_attention_grows_with_n_squared():
    assert count_standard(4, 2).total == 4 * 16 + 4 * 8
    assert count_standard(8192, 64).total / count_standard(4096, 64).total == pytest.approx(4, rel=0.02)
    assert count_standard(64, 4096).total / count_standard(64, 2048).total == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("count", [count_tiled, count_tiled_backward])
def test_tiled_attention_grows_with_n_squared_d_squared_over_m(count):
    start = count(4096, 64, 4 * 64 * 64).total
    assert count(8192, 64, 4 * 64 * 64).total / start == pytest.approx(4, rel=0.05)
    assert count(4096, 128, 4 * 64 * 64).total / start == pytest.approx(4, rel=0.05)
    assert count(4096, 64, 2 * 64 * 64).total / start == pytest.approx(2, rel=0.05)


def test_tiles_read_and_write_less_than_scores_do():
    sram = 100 * 1024 // 2  # 100 KB of fp16
    assert count_standard(1024, 64).total > 3 * count_tiled(1024, 64, sram).total


def test_zero_blocks_cost_nothing():
    sram = 4 * 64 * 64  # blocks of 64 by 64
    every = count_tiled(4096, 64, sram)
    sparse = count_tiled(4096, 64, sram, butterfly(64).tolist())
    keys_and_values = 2 * 4096 * 64
    share = butterfly(64).float().mean().item()
    assert sparse.total - keys_and_values == pytest.approx(share * (every.total - keys_and_values))


@pytest.mark.parametrize("sram", [63, 64 * 128 + 1])
def test_sram_outside_the_theorem_is_refused(sram):
    with pytest.raises(ArrieroError, match=f"sram: expected d to N · d elements, 64 to 8192, got {sram}"):
        count_tiled(128, 64, sram)
