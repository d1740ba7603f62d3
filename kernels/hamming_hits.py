"""Triton ranks of the relevant rows: counts of every distance in every block of rows, added up.

The rank of a row is the number of nearer ones, of equal ones in blocks before, and of equal ones
before it in its block.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hashfast.kernels.hamming_scan import (
    WORKSPACE,
    Labels,
    Scan,
    as_labels,
    before,
    configuration,
    distances_of,
    queries_and_segment,
    related,
)


@triton.jit
def rank_kernel(
    query, database, query_labels, database_labels, left_out, starts, bounds, relevant,
    num_queries, num_rows, bins, segments, found,
    WORDS: tl.constexpr, LABEL_WORDS: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """Sets relevant int8 [q, found] at the ranks, from 0, of rows that share a query's class.

    starts [q, bins, segments]: how many rows come before those of a distance in a segment.
    bounds [q]: the largest distance at those ranks.
    """
    queries, segment = queries_and_segment(num_queries, BLOCK_QUERIES)
    in_queries = queries < num_queries
    rows = segment * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    in_rows = rows < num_rows
    distances = distances_of(
        query, database, queries, rows, in_queries, in_rows, WORDS, BLOCK_QUERIES, BLOCK_ROWS
    )
    inside = in_queries[:, None] & in_rows[None, :]
    inside &= distances <= tl.load(bounds + queries, mask=in_queries, other=-1)[:, None]
    if left_out is not None:
        own = tl.load(left_out + queries, mask=in_queries, other=-1)
        inside &= rows[None, :] != own[:, None]
    shared = related(
        query_labels, database_labels, queries, rows, in_queries, in_rows,
        LABEL_WORDS, BLOCK_QUERIES, BLOCK_ROWS,
    )  # fmt: skip
    at = starts + queries * bins * segments + segment
    value = tl.min(tl.where(inside, distances, bins)).to(tl.int64)
    largest = tl.max(tl.where(inside, distances, -1))
    while value <= largest:
        equal = inside & (distances == value)
        rank = tl.load(at + value * segments, mask=in_queries, other=0)[:, None]
        rank += tl.cumsum(equal.to(tl.int32), axis=1) - 1
        to = relevant + queries[:, None] * found + rank
        tl.store(to, tl.full(to.shape, 1, tl.int8), mask=equal & shared & (rank < found))
        value += 1


def _relevant(scan: Scan, found: int, labels: Labels) -> Tensor:
    """Whether the row of each of the first ranks shares a query's class, int8 [q, found]."""
    q, n, block = len(scan.query), len(scan.database), scan.blocks["BLOCK_ROWS"]
    segments, bins = triton.cdiv(n, block), 8 * scan.query.element_size() * scan.words + 1
    counts = scan.query.new_zeros((q, bins, segments), dtype=torch.int32)
    scan.count(counts, segments, block)
    starts = before(counts.flatten(1))
    bounds = (starts[:, ::segments] < found).sum(1) - 1
    relevant = counts.new_zeros((q, found), dtype=torch.int8)
    with torch.cuda.device_of(relevant):  # Triton launches on the current device
        rank_kernel[(scan.query_blocks * segments,)](
            scan.query, scan.database, labels.query, labels.database, scan.left_out,
            starts, bounds, relevant, q, n, bins, segments, found,
            WORDS=scan.words, LABEL_WORDS=labels.words, **scan.blocks,
        )  # fmt: skip
    return relevant


def hits(
    query: Tensor,
    database: Tensor,
    k: int,
    query_labels: Tensor,
    database_labels: Tensor,
    left_out: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(limits int64 [q + 1], ranks int32) as the reference in hashfast/ops/hamming_hits.py."""
    q, n = len(query), len(database)
    counts = query.new_zeros(q + 1, dtype=torch.int64)
    if not q or not n:
        return counts, query.new_empty(0, dtype=torch.int32)
    ranks = []
    found = min(k, n)
    blocks = triton.cdiv(n, configuration(q)["BLOCK_ROWS"])
    some = max(1, WORKSPACE // (8 * blocks * (8 * query.shape[1] + 1) + found))
    for start in range(0, q, some):
        part = slice(start, start + some)
        own = None if left_out is None else left_out[part]
        scan = Scan(query[part], database, left_out=own)
        relevant = _relevant(scan, found, as_labels(query_labels[part], database_labels))
        counts[start + 1 : start + some + 1] = relevant.sum(1)
        ranks.append((relevant.nonzero()[:, 1] + 1).int())
    return counts.cumsum(0), torch.cat(ranks)
