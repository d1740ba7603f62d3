"""A plain Triton kernel that writes all distances: what a search is that keeps them."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_QUERIES, BLOCK_ROWS = 8, 512


@triton.jit
def _set_bits(x):
    """Of unsigned words; LLVM knows these steps as the machine's popcount."""
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return (x * 0x01010101) >> 24


@triton.jit
def distances_kernel(
    query, database, out, num_queries, num_rows,
    WORDS: tl.constexpr, BLOCK_QUERIES: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """out[i, j] of queries int32 [q, WORDS] and codes int32 [n, WORDS]."""
    queries = tl.program_id(1) * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    total = tl.zeros((BLOCK_QUERIES, BLOCK_ROWS), tl.uint32)
    for word in tl.static_range(WORDS):
        ours = tl.load(query + queries * WORDS + word, mask=queries < num_queries, other=0)
        theirs = tl.load(database + rows * WORDS + word, mask=rows < num_rows, other=0)
        total += _set_bits((ours[:, None] ^ theirs[None, :]).to(tl.uint32, bitcast=True))
    to = out + queries[:, None].to(tl.int64) * num_rows + rows[None, :]
    inside = (queries < num_queries)[:, None] & (rows < num_rows)[None, :]
    tl.store(to, total.to(out.dtype.element_ty), mask=inside)


def distances(query: Tensor, database: Tensor) -> Tensor:
    """[q, n] of codes uint8 [q, B] and [n, B], B a multiple of 4; uint8 where that holds them."""
    (q, size), n = query.shape, len(database)
    narrow = torch.uint8 if 8 * size < 256 else torch.int16
    out = torch.empty(q, n, dtype=narrow, device=query.device)
    grid = (triton.cdiv(n, BLOCK_ROWS), triton.cdiv(q, BLOCK_QUERIES))
    distances_kernel[grid](
        query.view(torch.int32),
        database.view(torch.int32),
        out,
        q,
        n,
        WORDS=size // 4,
        BLOCK_QUERIES=BLOCK_QUERIES,
        BLOCK_ROWS=BLOCK_ROWS,
    )
    return out
