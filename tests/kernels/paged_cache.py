"""A cache of keys and values in pages, the same contiguous, and the comparison that tests of decoding make."""

import torch
from torch import Tensor

from arriero.kernels.options import Options
from arriero.kernels.reference import attention_reference
from tests.kernels.qkv import random_qkv


class PagedCache:
    """Rows of keys and values, contiguous and in shuffled pages; NaN wherever no row has a key."""

    def __init__(
        self,
        lengths: list[int] = [50, 0, 1, 32],  # noqa: B006
        *,
        queries: int = 1,
        heads: int = 2,
        kv_heads: int = 1,
        dim: int = 16,
        page: int = 16,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        garbage: int = -1,
    ):
        pages = max(-(-length // page) for length in lengths) + 1
        shape = (len(lengths), queries, pages * page, heads, kv_heads, dim)
        self.q, self.k, self.v = (x.detach().to(device) for x in random_qkv(*shape, dtype=dtype))
        self.lengths = torch.tensor(lengths, device=device)
        total = sum(-(-length // page) for length in lengths) + 3
        order = iter(torch.randperm(total, generator=torch.Generator().manual_seed(1)).tolist())
        self.table = torch.full((len(lengths), pages), garbage, device=device)
        self.k_pages, self.v_pages = self.k.new_full((2, total, page, kv_heads, dim), torch.nan)
        for row, length in enumerate(lengths):
            for first in range(0, length, page):
                number, part = next(order), slice(first, min(first + page, length))
                self.table[row, first // page] = number
                self.k_pages[number, : part.stop - first] = self.k[row, part]
                self.v_pages[number, : part.stop - first] = self.v[row, part]

    @property
    def paged(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return self.q, self.k_pages, self.v_pages, self.table, self.lengths

    def check(self, out: Tensor, **options) -> None:
        """`out` errs at most twice as much as PyTorch does in the same dtype."""
        asked = Options(key_lengths=self.lengths, **options)
        assert out.dtype == self.q.dtype
        exact = attention_reference(self.q.double(), self.k.double(), self.v.double(), asked)[0]
        same_dtype = attention_reference(self.q, self.k, self.v, asked, dtype=self.q.dtype)[0]
        error, allowed = ((x.double() - exact).abs().max().item() for x in (out, same_dtype))
        assert error <= 2 * allowed + 1e-5  # false for NaN
        assert (out[self.lengths == 0] == 0).all()
