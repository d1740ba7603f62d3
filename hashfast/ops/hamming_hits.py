"""Ranks of the relevant items in Hamming rankings: all that mAP with ties by id depends on."""

from collections.abc import Iterator

import torch
from torch import Tensor

from hashfast.ops._hamming import (
    PADDING_DISTANCE,
    check_pair,
    check_pair_labels,
    distance_blocks,
    related,
)
from hashfast.ops._op import Op


def _reference(
    query: Tensor,
    database: Tensor,
    k: int,
    query_labels: Tensor,
    database_labels: Tensor,
    left_out: Tensor | None,
) -> tuple[Tensor, Tensor]:
    row = torch.arange(len(database), device=query.device)
    counts = [query.new_zeros(1, dtype=torch.int64)]
    ranks = [query.new_empty(0, dtype=torch.int64)]
    for start, block in distance_blocks(query, database):
        rows = slice(start, start + len(block))
        hit = related(query_labels[rows], database_labels)
        if left_out is not None:
            own = row == left_out[rows].unsqueeze(1)
            block = block.masked_fill(own, PADDING_DISTANCE)  # the last rank moves no other
            hit &= ~own
        order = block.argsort(dim=1, stable=True)[:, :k]
        hits = hit.gather(1, order)
        counts.append(hits.sum(1))
        ranks.append(hits.nonzero()[:, 1] + 1)
    return torch.cat(counts).cumsum(0), torch.cat(ranks).int()


def _fake(query, database, k, query_labels, database_labels, left_out):
    hits = torch.library.get_ctx().new_dynamic_size()
    limits = query.new_empty(query.shape[0] + 1, dtype=torch.int64)
    return limits, query.new_empty(hits, dtype=torch.int32)


def _examples(device: str, dtype: torch.dtype) -> Iterator[tuple]:
    generator = torch.Generator().manual_seed(0)

    def draw(low: int, high: int, *shape: int, dtype: torch.dtype) -> Tensor:
        return torch.randint(low, high, shape, generator=generator, dtype=dtype).to(device)

    for q, n, width in (
        (1, 1, 1),
        (3, 50, 1),
        (7, 333, 4),
        (70, 1000, 8),
        (2, 65, 5),
        (3, 0, 2),
        (0, 9, 2),
    ):
        query = draw(0, 256, q, width, dtype=torch.uint8)
        database = draw(0, 256, n, width, dtype=torch.uint8)
        ids = [draw(-1, 3, rows, dtype=torch.int64) for rows in (q, n)]
        several = [
            (1 << draw(0, 12, rows, 3, dtype=torch.int64)).to(torch.uint8) for rows in (q, n)
        ]
        left_out = draw(-1, n, q, dtype=torch.int64)
        yield query, database, 10, *ids, None
        yield query, database, max(n, 1), *ids, left_out
        yield query, database, n // 2 + 1, *several, left_out
        yield query, database, n + 1, *several, None
    yield query[:0], query, 3, ids[0][:0], ids[0], None


hamming_hits_op = Op(
    "hamming_hits(Tensor query, Tensor database, int k, Tensor query_labels, "
    "Tensor database_labels, Tensor? left_out) -> (Tensor, Tensor)",
    reference=_reference,
    fake=_fake,
    examples=_examples,
    compiled=("cpu", "cuda"),
    triton="hashfast.kernels.hamming_hits:hits",
)


def hamming_hits(
    query: Tensor,
    database: Tensor,
    k: int,
    query_labels: Tensor,
    database_labels: Tensor,
    left_out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Ranks of the database codes that share a class with a query, among its k nearest.

    Every query ranks the database by (distance, id). query uint8 [q, B], database uint8 [n, B], on
    one device; n < 2**31. Labels: int64 [q] and [n] class ids (any equal ones share a class, -1
    too), or uint8 [q, W] and [n, W] packed multi-hot rows (any common bit). left_out: int64 [q],
    the database row that a query's ranking leaves out, or -1 for none.
    Returns (limits int64 [q + 1], ranks int32): the ranks of query i, from 1 and ascending, are at
    [limits[i], limits[i + 1]). Raises TypeError or ValueError when codes, k, labels or left_out do
    not fit.
    """
    check_pair(query, database)
    if k <= 0:
        raise ValueError(f"hamming_hits: k is {k}; it must be at least 1")
    check_pair_labels("hamming_hits", query, database, query_labels, database_labels)
    if left_out is not None and (
        left_out.dtype != torch.int64 or left_out.shape != query.shape[:1]
    ):
        raise ValueError(
            f"hamming_hits: left_out is {left_out.dtype} {tuple(left_out.shape)}; "
            f"expected one database row or -1 a query, int64 [{len(query)}]"
        )
    return hamming_hits_op(query, database, k, query_labels, database_labels, left_out)
