"""Block masks, their lists, and the butterfly."""

import pytest
import torch

from arriero.common.errors import ArrieroError
from arriero.kernels.block_mask import BlockLists, BlockMask, butterfly


def members(lists: BlockLists, head: int, line: int) -> list[int]:
    start, end = lists.starts[head, line : line + 2].tolist()
    return lists.members[start:end].tolist()


def test_lists_are_the_true_entries_of_rows_and_columns():
    blocks = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0)) < 0.4
    blocks[1] = False
    blocks[2, 3] = True
    mask = BlockMask(blocks, size=16)
    for head in range(3):
        for i in range(4):
            assert members(mask.rows, head, i) == blocks[head, i].nonzero()[:, 0].tolist()
        for j in range(6):
            assert members(mask.columns, head, j) == blocks[head, :, j].nonzero()[:, 0].tolist()


def test_token_by_token_a_block_fills_its_square():
    mask = BlockMask(torch.tensor([[True, False], [False, True]]), size=16)
    visible = mask.visible(20, 30)
    assert visible.shape == (1, 20, 30)
    assert visible[0, :16, :16].all()
    assert visible[0, 16:, 16:].all()
    assert not visible[0, :16, 16:].any()


def test_butterfly_pairs_the_numbers_that_differ_in_one_bit():
    assert butterfly(4).int().tolist() == [[1, 1, 1, 0], [1, 1, 0, 1], [1, 0, 1, 1], [0, 1, 1, 1]]
    for power in range(6):
        assert (butterfly(2**power).sum(1) == 1 + power).all()
    assert torch.equal(butterfly(11), butterfly(16)[:11, :11])
    assert torch.equal(butterfly(11), butterfly(11).T)


def test_butterfly_is_the_flattened_product_of_the_fourier_factors():
    blocks, reach = 16, butterfly(16).long()
    product = torch.linalg.matrix_power(reach, 4)  # every block reaches every other in log2 n steps
    assert (product > 0).all()
    assert not (torch.linalg.matrix_power(reach, 3) > 0).all()
    assert int(reach.sum()) == blocks * 5


@pytest.mark.parametrize(
    ("blocks", "size", "message"),
    [
        (torch.ones(2, 2), 16, "blocks: expected bool .* got torch.float32"),
        (torch.ones(2, dtype=torch.bool), 16, r"blocks: expected bool .* shape \(2,\)"),
        (torch.ones(0, 2, dtype=torch.bool), 16, "blocks: expected bool"),
        (torch.ones(2, 2, dtype=torch.bool), 48, "size: expected a power of two from 16 on, got 48"),
        (torch.ones(2, 2, dtype=torch.bool), 8, "size: expected a power of two from 16 on, got 8"),
    ],
)
def test_bad_masks_are_named(blocks, size, message):
    with pytest.raises(ArrieroError, match=message):
        BlockMask(blocks, size=size)


def test_a_mask_must_fit_the_scores():
    mask = BlockMask(torch.ones(2, 3, dtype=torch.bool), size=16)
    mask.check(heads=4, queries=32, keys=33)
    with pytest.raises(ArrieroError, match=r"block_mask: expected 3 × 3 blocks of 16 tokens.* got shape \(2, 3\)"):
        mask.check(heads=4, queries=33, keys=33)
    with pytest.raises(ArrieroError, match=r"block_mask: .* each of 4 heads, got shape"):
        BlockMask(torch.ones(3, 2, 3, dtype=torch.bool), size=16).check(heads=4, queries=32, keys=33)
    with pytest.raises(ArrieroError, match="blocks: expected 1 or more, got 0"):
        butterfly(0)
