"""Bad input: one line that names the argument, what was expected, and what came."""

import pytest
import torch
from torch import Tensor

from arriero.common.errors import ArrieroError
from arriero.kernels.attention import attention
from arriero.kernels.block_mask import BlockMask
from arriero.kernels.documents import Documents


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


TWO = Documents.from_segments(torch.zeros(1, 2))
FOUR = Documents.from_segments(torch.zeros(1, 4))
SQUARE = BlockMask(torch.ones(1, 1, dtype=torch.bool), size=16)
BAD = [
    ({"q": zeros(4, 2, 8)}, r"q: expected 4 dimensions.*\(4, 2, 8\)"),
    ({"q": zeros(1, 4, 3, 8)}, "q: expected heads in a multiple of the 2 KV heads, got 3"),
    ({"k": zeros(2, 4, 2, 8)}, r"k: expected shape \(1, tokens, KV heads, 8\).*\(2, 4, 2, 8\)"),
    ({"k": zeros(1, 4, 2, 6)}, r"k: expected shape .*\(1, 4, 2, 6\)"),
    ({"v": zeros(1, 3, 2, 8)}, r"v: expected k's shape \(1, 4, 2, 8\), got \(1, 3, 2, 8\)"),
    ({"k": zeros(1, 4, 0, 8), "v": zeros(1, 4, 0, 8)}, "multiple of the 0 KV heads"),
    ({"k": zeros(1, 4, 2, 8, dtype=torch.float16)}, "k: expected q's dtype torch.float32, got torch.float16"),
    ({"v": zeros(1, 4, 2, 8).to("meta")}, "v: expected q's device cpu, got meta"),
    ({"q": zeros(1, 4, 2, 8, dtype=torch.int64)}, "q: expected dtype .* got torch.int64"),
    ({"q": zeros(1, 2, 2, 8), "documents": TWO}, "documents: expected as many keys as queries, got 4 keys and 2"),
    ({"documents": TWO}, "documents: expected those of 1 rows of 4 tokens, got those of 1 rows of 2 tokens"),
    ({"documents": FOUR, "key_lengths": torch.ones(1).long()}, "key_lengths: expected None together with packed doc"),
    ({"documents": FOUR, "block_mask": SQUARE}, "block_mask: expected None together with packed documents"),
    ({"key_lengths": torch.ones(3).long()}, r"key_lengths: expected shape \(1,\), got \(3,\)"),
    ({"key_lengths": torch.ones(1)}, "key_lengths: expected int64 or int32, got torch.float32"),
    ({"key_lengths": torch.ones(1).long().to("meta")}, "key_lengths: expected q's device cpu, got meta"),
    ({"key_lengths": torch.tensor([5])}, "key_lengths: expected 0 to k's 4 tokens, got 5"),
    ({"key_lengths": torch.tensor([-1]).int()}, "key_lengths: expected 0 to k's 4 tokens, got -1"),
    ({"key_mask": torch.ones(1, 3).bool()}, r"key_mask: expected shape \(1, 4\), got \(1, 3\)"),
    ({"key_mask": torch.ones(1, 4)}, "key_mask: expected bool, true where there is a key, got torch.float32"),
    ({"block_mask": BlockMask(torch.ones(2, 1).bool(), size=16)}, "block_mask: expected 1 × 1 blocks of 16 tokens"),
    ({"window": 0}, "window: expected 1 token or more, got 0"),
    ({"softcap": 0.0}, "softcap: expected a number above 0, got 0.0"),
    ({"softcap": float("nan")}, "softcap: expected a number above 0, got nan"),
    ({"dropout": 1.0}, "dropout: expected a share from 0 up to 1, got 1.0"),
    ({"seed": -1}, r"seed: expected 0 to 2\^63 - 1, got -1"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_input_is_named(change, message):
    good = {"q": zeros(1, 4, 2, 8), "k": zeros(1, 4, 2, 8), "v": zeros(1, 4, 2, 8)}
    with pytest.raises(ArrieroError, match=message) as caught:
        attention(**(good | change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("implementation", ["reference", "tiled", "sdpa", "triton"])
@pytest.mark.parametrize("length", [-1, 5])
def test_key_lengths_are_checked_before_any_implementation(implementation, length):
    if implementation == "triton":
        pytest.importorskip("triton")
    with pytest.raises(ArrieroError, match=f"^key_lengths: expected 0 to k's 4 tokens, got {length}$"):
        attention(*(zeros(2, 4, 2, 8),) * 3, key_lengths=torch.tensor([4, length]), implementation=implementation)
