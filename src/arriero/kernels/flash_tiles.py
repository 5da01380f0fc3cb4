"""What the Triton kernels have in common: where a tile lies, what it may see, what dropout keeps.

A kernel's program owns one tile (a block of queries, or of keys) of one sequence and head, and walks along the tiles of
the other side that it may see. A sequence is a row of the batch, or a document packed in one. Places (`t` of queries,
`s` of keys) count from the sequence's start; `position` = t + keys − queries is where query t stands among the keys.

Offsets are 64-bit where they grow with the batch or the length: tensors may have more than 2³¹ elements.
"""

import math

import triton
import triton.language as tl
from torch import Tensor

LOG2_E, LN_2 = tl.constexpr(math.log2(math.e)), tl.constexpr(math.log(2))
"""exp(x) = exp2(x · log₂ e): the hardware's exponential is that of base 2."""
INTERPRETED: bool = triton.knobs.runtime.interpret
"""Whether the kernels run in Triton's interpreter, on the CPU; settled when they are decorated."""
COUNTS = ("sequences", "queries", "keys", "heads", "group", "longest_bucket", "keys_bucket")
"""Arguments that change often: their being 1, or divisible by 16, makes no version of the kernel of its own."""
TUNED_BY = ["longest_bucket", "keys_bucket", "HEAD_DIM", "CAUSAL", "WINDOW", "SOFTCAP", "DROPOUT", "DOCUMENTS", "SIZE"]
"""Arguments for whose every combination the autotuner looks for the best tiles."""
LONGEST_STRIDE = 2**22
"""Elements from one token to the next, at most: within a tile, of 256 tokens at most, offsets are 32-bit."""


def loadable(x: Tensor) -> Tensor:
    """`x` (B, T, H, D) with strides that `load_tile` can take; itself, but for outlandish ones."""
    return x if x.stride(3) == 1 and x.stride(1) < LONGEST_STRIDE else x.contiguous()


def bucket(length: int) -> int:
    """Lengths that share an autotuning: those up to the same power of two, 16 to 8192."""
    return min(max(1 << (length - 1).bit_length(), 16), 8192)


def tile_configs(tiles: list[tuple[int, int, int, int]]) -> list[triton.Config]:
    """From (queries, keys, warps, stages) to the autotuner's configurations."""
    return [triton.Config({"BLOCK_M": m, "BLOCK_N": n}, num_warps=warps, num_stages=st) for m, n, warps, st in tiles]


@triton.jit
def locate_program(
    heads, documents, sequences, tokens, BLOCK: tl.constexpr, DOCUMENTS: tl.constexpr, LAST_FIRST: tl.constexpr
):
    """(sequence, head, block of its tokens) of this program; a head's programs are neighbours, to share the L2 cache.

    The blocks with the most to do should come first: under a causal mask the last queries, or the first keys.
    """
    blocks = tl.num_programs(0) // heads  # of a head: of all documents, or of one row
    if not DOCUMENTS:
        blocks = blocks // sequences
    block = tl.program_id(0) % blocks
    if LAST_FIRST:
        block = blocks - 1 - block
    head = tl.program_id(0) // blocks % heads
    sequence = tl.program_id(0) // blocks // heads
    if DOCUMENTS:
        sequence, block = locate_block(block, documents, sequences, tokens, BLOCK)
    return sequence, head, block


@triton.jit
def locate_sequence(
    i, documents, n_documents, key_lengths, queries, keys, DOCUMENTS: tl.constexpr, RAGGED: tl.constexpr
):
    """(row, first token, queries, keys) of sequence `i`; `documents` is the table of `Documents`."""
    row = i
    first = 0
    if DOCUMENTS:
        row = tl.load(documents + i)
        first = tl.load(documents + n_documents + i)
        queries = tl.load(documents + 2 * n_documents + i)
        keys = queries
    if RAGGED:
        keys = tl.maximum(tl.minimum(tl.load(key_lengths + i).to(tl.int32), keys), 0)
    return row, first, queries, keys


@triton.jit
def locate_block(slot, documents, n_documents, tokens, BLOCK: tl.constexpr):
    """(document, number of its block of tokens) for `slot`, one of rows · tokens // BLOCK + n_documents.

    The slots from n₀ // BLOCK + i on are document i's, if n₀ tokens come before it: enough for its blocks, and at most
    one too many, whose tokens lie beyond its end.
    """
    low = 0
    high = n_documents - 1
    while low < high:
        middle = (low + high + 1) // 2
        if _first_slot(middle, documents, n_documents, tokens, BLOCK) <= slot:
            low = middle
        else:
            high = middle - 1
    return low, slot - _first_slot(low, documents, n_documents, tokens, BLOCK)


@triton.jit
def _first_slot(i, documents, n_documents, tokens, BLOCK: tl.constexpr):
    return (tl.load(documents + i) * tokens + tl.load(documents + n_documents + i)) // BLOCK + i


@triton.jit
def tile_offset(row, head, token, stride_row, stride_head, stride_token):
    """Elements from a tensor's start to [row, token, head, 0], in 64 bits."""
    offset = tl.cast(row, tl.int64) * stride_row
    offset += tl.cast(head, tl.int64) * stride_head
    return offset + tl.cast(token, tl.int64) * stride_token


@triton.jit
def load_tile(
    start, token, stride_token, limit, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, LIMITED: tl.constexpr = True
):
    """The tile (tokens, BLOCK_D) at pointer `start`; 0 for tokens from `limit` on, and for dims from HEAD_DIM on.

    `token` counts from the tile's start, so that its product with the stride fits 32 bits. Without LIMITED, all tokens
    are known to be below `limit`.
    """
    dim = tl.arange(0, BLOCK_D)
    place = start + token[:, None] * stride_token + dim[None, :]
    if LIMITED and HEAD_DIM < BLOCK_D:
        tile = tl.load(place, mask=(token < limit)[:, None] & (dim < HEAD_DIM)[None, :], other=0.0)
    elif LIMITED:
        tile = tl.load(place, mask=(token < limit)[:, None], other=0.0)
    elif HEAD_DIM < BLOCK_D:
        tile = tl.load(place, mask=(dim < HEAD_DIM)[None, :], other=0.0)
    else:
        tile = tl.load(place)
    return tile


@triton.jit
def store_tile(start, token, stride_token, limit, tile, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Write what `load_tile` would read, in the tensor's own dtype."""
    dim = tl.arange(0, BLOCK_D)
    mask = (token < limit)[:, None] & (dim < HEAD_DIM)[None, :]
    tl.store(start + token[:, None] * stride_token + dim[None, :], tile.to(start.dtype.element_ty), mask=mask)


@triton.jit
def key_range(t_start, queries, keys, BLOCK_M: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """The keys [low, high) that some query of the tile at `t_start` may see."""
    first = t_start + keys - queries  # the position of the tile's first query
    last = tl.minimum(t_start + BLOCK_M, queries) - 1 + keys - queries
    low = 0
    high = keys
    if CAUSAL:
        high = tl.minimum(high, last + 1)
    if WINDOW > 0:
        low = tl.maximum(low, first - WINDOW + 1)
        if not CAUSAL:
            high = tl.minimum(high, last + WINDOW)
    return low, tl.maximum(high, low)


@triton.jit
def key_interior(t_start, queries, keys, BLOCK_M: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """The keys [low, high) that every query of the tile at `t_start` sees; none if high ≤ low."""
    first = t_start + keys - queries
    last = tl.minimum(t_start + BLOCK_M, queries) - 1 + keys - queries
    low = 0
    high = keys
    if CAUSAL:
        high = tl.minimum(high, first + 1)
    if WINDOW > 0:
        low = tl.maximum(low, last - WINDOW + 1)
        if not CAUSAL:
            high = tl.minimum(high, first + WINDOW)
    return low, high


@triton.jit
def query_range(s_start, queries, keys, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """The queries [low, high) that may see some key of the tile at `s_start`."""
    shift = queries - keys  # from a position to a query's place
    last = tl.minimum(s_start + BLOCK_N, keys) - 1
    low = 0
    high = tl.where(s_start < keys, queries, 0)
    if CAUSAL:
        low = tl.maximum(low, s_start + shift)
    if WINDOW > 0:
        high = tl.minimum(high, last + WINDOW + shift)
        if not CAUSAL:
            low = tl.maximum(low, s_start - WINDOW + 1 + shift)
    return low, tl.maximum(high, low)


@triton.jit
def query_interior(s_start, queries, keys, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """The queries [low, high) that see every key of the tile at `s_start`; none if high ≤ low.

    Places beyond the last query count too: with q and dO of 0 they add nothing.
    """
    shift = queries - keys
    last = s_start + BLOCK_N - 1
    low = 0
    high = 2**30
    if CAUSAL:
        low = tl.maximum(low, last + shift)
    if WINDOW > 0:
        high = tl.minimum(high, s_start + WINDOW + shift)
        if not CAUSAL:
            low = tl.maximum(low, last - WINDOW + 1 + shift)
    return low, high


@triton.jit
def tile_bounds(
    low, high, inner_low, inner_high, starts, members, starts_offset, own, BLOCK: tl.constexpr, SIZE: tl.constexpr
):
    """Numbers of tiles (a, b, c, d): from a to b and c to d those seen in part, from b to c those seen as a whole.

    Tile n begins at token n · BLOCK; under a mask of blocks of SIZE tokens, tiles are numbered through the list of the
    line that token `own` of the other side is in (`tile_start`).
    """
    UNIT: tl.constexpr = SIZE if SIZE > 0 else BLOCK
    a = low // UNIT
    d = tl.cdiv(high, UNIT)
    b = tl.minimum(tl.cdiv(inner_low, UNIT), d)
    c = tl.maximum(tl.minimum(tl.maximum(inner_high, 0) // UNIT, d), b)
    if SIZE > 0:
        first = tl.load(starts + starts_offset + own // SIZE)
        last = tl.load(starts + starts_offset + own // SIZE + 1)
        a = first_at_least(members, first, last, a) * (SIZE // BLOCK)
        b = first_at_least(members, first, last, b) * (SIZE // BLOCK)
        c = first_at_least(members, first, last, c) * (SIZE // BLOCK)
        d = first_at_least(members, first, last, d) * (SIZE // BLOCK)
    return a, b, c, d


@triton.jit
def tile_start(n, members, BLOCK: tl.constexpr, SIZE: tl.constexpr):
    """The token at which tile `n` begins, as `tile_bounds` numbers them."""
    start = n * BLOCK
    if SIZE > 0:
        start = tl.load(members + n // (SIZE // BLOCK)) * SIZE + n % (SIZE // BLOCK) * BLOCK
    return start


@triton.jit
def first_at_least(members, begin, end, block):
    """Place in the rising list `members[begin:end]` of the first member that is `block` or above; `end` if none is."""
    while begin < end:
        middle = (begin + end) // 2
        if tl.load(members + middle) < block:
            begin = middle + 1
        else:
            end = middle
    return begin


@triton.jit
def visible(t, s, queries, keys, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """Which queries `t` see which keys `s`, broadcast against each other: `t[:, None], s[None, :]`, or turned round."""
    ahead = s - (t + keys - queries)  # of the query's position
    seen = (t < queries) & (s < keys)
    if CAUSAL:
        seen = seen & (ahead <= 0)
    if WINDOW > 0:
        seen = seen & (ahead > -WINDOW)
        if not CAUSAL:
            seen = seen & (ahead < WINDOW)
    return seen


@triton.jit
def cap(scores, softcap):
    """softcap · tanh(scores / softcap), with tanh(x) = 2 / (1 + exp(−2x)) − 1 kept from overflowing."""
    exponential = tl.exp2(tl.abs(scores) / softcap * (-2.0 * LOG2_E))  # a constant on the left fails in the interpreter
    capped = softcap * (1.0 - exponential) / (1.0 + exponential)
    return tl.where(scores < 0, -capped, capped)


@triton.jit
def dropout_keep(seed, threshold, stream, t, s):
    """Which weights stay: `arriero.kernels.dropout.dropout_keep`, for `t` and `s` broadcast against each other."""
    place = t * 0 + s * 0  # (queries, keys) of zeros
    word, _, _, _ = tl.philox(seed, place + s, place + t, place + stream, place)
    return word.to(tl.uint32, bitcast=True).to(tl.int64) >= threshold
