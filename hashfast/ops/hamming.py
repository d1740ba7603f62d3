"""Packed-code Hamming search: exact top-k, distance histogram and range, by XOR and popcount.

Codes are uint8 [n, ceil(b / 8)] as `pack` makes them. Results are ordered by (distance, id), so
they do not depend on the backend, the number of threads or how a database is cut into shards.
"""

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
from hashfast.ops.codes import pack, unpack


def _rows_allowed(allowed: Tensor | None, n: int) -> Tensor | None:
    """The rows that a bitmap lets through, int64; None for all."""
    if allowed is None:
        return None
    return unpack(allowed.unsqueeze(0), n)[0].gt(0).nonzero().squeeze(1)


def _topk_reference(
    query: Tensor, database: Tensor, k: int, allowed: Tensor | None
) -> tuple[Tensor, Tensor]:
    some = _rows_allowed(allowed, len(database))
    if some is not None:
        distances, ids = _topk_reference(query, database[some], k, None)
        if len(some):
            ids = torch.where(ids < 0, ids, some[ids.clamp(min=0)])
        return distances, ids
    n = len(database)
    found = min(k, n)
    distances = query.new_full((len(query), k), PADDING_DISTANCE, dtype=torch.int32)
    ids = query.new_full((len(query), k), -1, dtype=torch.int64)
    for start, block in distance_blocks(query, database):
        # Distance first, then id: one key orders both.
        key = block.long() * n + torch.arange(n, device=query.device)
        key = key.topk(found, dim=1, largest=False, sorted=True).values
        rows = slice(start, start + len(block))
        distances[rows, :found] = (key // max(n, 1)).int()
        ids[rows, :found] = key % max(n, 1)
    return distances, ids


def _topk_fake(query, database, k, allowed):
    shape = (query.shape[0], k)
    return query.new_empty(shape, dtype=torch.int32), query.new_empty(shape, dtype=torch.int64)


def _histogram_reference(
    query: Tensor,
    database: Tensor,
    query_labels: Tensor | None,
    database_labels: Tensor | None,
) -> Tensor:
    bins = 8 * query.shape[1] + 1
    out = torch.zeros(len(query), bins, dtype=torch.int64, device=query.device)
    for start, block in distance_blocks(query, database):
        rows = slice(start, start + len(block))
        counted = torch.ones_like(block, dtype=torch.int64)
        if query_labels is not None and database_labels is not None:
            counted = related(query_labels[rows], database_labels).long()
        out[rows].scatter_add_(1, block.long(), counted)
    return out


def _as_distance(radius: int, query: Tensor) -> int:
    """The radius among the distances that there are, or -1: others may not fit in an int32."""
    return max(-1, min(radius, 8 * query.shape[1]))


def _range_count_reference(
    query: Tensor, database: Tensor, radius: int, allowed: Tensor | None
) -> Tensor:
    rows = _rows_allowed(allowed, len(database))
    codes = database if rows is None else database[rows]
    radius = _as_distance(radius, query)
    parts = [(block <= radius).sum(1) for _, block in distance_blocks(query, codes)]
    return torch.cat(parts) if parts else query.new_empty(0, dtype=torch.int64)


def _range_reference(
    query: Tensor, database: Tensor, radius: int, limits: Tensor, allowed: Tensor | None
) -> tuple[Tensor, Tensor]:
    rows = _rows_allowed(allowed, len(database))
    codes = database if rows is None else database[rows]
    radius = _as_distance(radius, query)
    parts = []
    for _, block in distance_blocks(query, codes):
        row, column = (block <= radius).nonzero(as_tuple=True)
        distance = block[row, column]
        order = distance.sort(stable=True).indices
        order = order[row[order].sort(stable=True).indices]
        parts.append((distance[order], column[order]))
    if not parts:
        return query.new_empty(0, dtype=torch.int32), query.new_empty(0, dtype=torch.int64)
    distances, ids = (torch.cat(part) for part in zip(*parts, strict=True))
    return distances, ids if rows is None else rows[ids]


def _range_fake(query, database, radius, limits, allowed):
    size = torch.library.get_ctx().new_dynamic_size()
    return query.new_empty(size, dtype=torch.int32), query.new_empty(size, dtype=torch.int64)


def _codes(*shape: int, generator: torch.Generator, device: str) -> Tensor:
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).to(device)


def _pairs(device: str) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for q, n, width in ((1, 1, 1), (3, 50, 2), (7, 333, 4), (5, 1000, 8), (4, 90, 16), (2, 65, 5)):
        yield (
            _codes(q, width, generator=generator, device=device),
            _codes(n, width, generator=generator, device=device),
        )
    far = torch.zeros(3, 64, dtype=torch.uint8, device=device)
    yield far, torch.full((9, 64), 255, dtype=torch.uint8, device=device)
    yield far[:0], far
    yield far, far[:0]


def _topk_examples(device: str, dtype: torch.dtype) -> Iterator[tuple]:
    for query, database in _pairs(device):
        for k in (1, 10, 70, 400):
            yield query, database, k, None
            yield query, database, k, _every_third(database)


def _histogram_examples(device: str, dtype: torch.dtype) -> Iterator[tuple]:
    for query, database in _pairs(device):
        yield query, database, None, None
        ids = [torch.arange(len(x), device=device) % 3 for x in (query, database)]
        yield query, database, *ids
        multi_hot = [(1 << i).to(torch.uint8).unsqueeze(1).repeat(1, 2) for i in ids]
        yield query, database, *multi_hot


def _range_count_examples(device: str, dtype: torch.dtype) -> Iterator[tuple]:
    for query, database in _pairs(device):
        for radius in (-1, 4 * query.shape[1] - 1, 8 * query.shape[1]):
            yield query, database, radius, None
            yield query, database, radius, _every_third(database)


def _range_examples(device: str, dtype: torch.dtype) -> Iterator[tuple]:
    for query, database, radius, allowed in _range_count_examples(device, dtype):
        limits = _limits(query, database, radius, allowed)
        yield query, database, radius, limits, allowed


def _every_third(database: Tensor) -> Tensor:
    return pack(torch.arange(len(database), device=database.device) % 3 == 0)


def _limits(query: Tensor, database: Tensor, radius: int, allowed: Tensor | None) -> Tensor:
    counts = hamming_range_count_op(query, database, radius, allowed)
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


hamming_topk_op = Op(
    "hamming_topk(Tensor query, Tensor database, int k, Tensor? allowed) -> (Tensor, Tensor)",
    reference=_topk_reference,
    fake=_topk_fake,
    examples=_topk_examples,
    compiled=("cpu", "cuda"),
    triton="hashfast.kernels.hamming:topk",
)

hamming_histogram_op = Op(
    "hamming_histogram(Tensor query, Tensor database, Tensor? query_labels, "
    "Tensor? database_labels) -> Tensor",
    reference=_histogram_reference,
    fake=lambda query, database, query_labels, database_labels: query.new_empty(
        query.shape[0], 8 * query.shape[1] + 1, dtype=torch.int64
    ),
    examples=_histogram_examples,
    compiled=("cpu", "cuda"),
    triton="hashfast.kernels.hamming:histogram",
)

hamming_range_count_op = Op(
    "hamming_range_count(Tensor query, Tensor database, int radius, Tensor? allowed) -> Tensor",
    reference=_range_count_reference,
    fake=lambda query, database, radius, allowed: query.new_empty(
        query.shape[0], dtype=torch.int64
    ),
    examples=_range_count_examples,
    compiled=("cpu", "cuda"),
    triton="hashfast.kernels.hamming:range_count",
)

hamming_range_op = Op(
    "hamming_range(Tensor query, Tensor database, int radius, Tensor limits, Tensor? allowed) "
    "-> (Tensor, Tensor)",
    reference=_range_reference,
    fake=_range_fake,
    examples=_range_examples,
    compiled=("cpu", "cuda"),
    triton="hashfast.kernels.hamming:range_fill",
)


def _check_allowed(allowed: Tensor | None, database: Tensor) -> None:
    if allowed is None:
        return
    expected = ((len(database) + 7) // 8,)
    if allowed.dtype != torch.uint8 or allowed.shape != expected:
        raise ValueError(
            f"allowed is {allowed.dtype} {tuple(allowed.shape)}; expected uint8 {expected}, "
            f"what pack makes of a bool mask of the {len(database)} codes"
        )
    if allowed.device != database.device:
        raise ValueError(
            f"allowed is on {allowed.device} and database on {database.device}: move one of them"
        )


def hamming_topk(
    query: Tensor, database: Tensor, k: int, allowed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The k nearest database codes of every query, exactly, ordered by (distance, id).

    query uint8 [q, B], database uint8 [n, B], on one device. allowed: uint8 [ceil(n / 8)], what
    `pack` makes of a bool mask [n]; other rows are left out. Returns (distances int32 [q, k],
    ids int64 [q, k]); when fewer than k are found the rest is (2**31 - 1, -1), as faiss pads.
    Raises TypeError or ValueError when codes, k or the bitmap do not fit.
    """
    check_pair(query, database)
    _check_allowed(allowed, database)
    if k <= 0:
        raise ValueError(f"hamming_topk: k is {k}; it must be at least 1")
    return hamming_topk_op(query, database, k, allowed)


def hamming_histogram(
    query: Tensor,
    database: Tensor,
    query_labels: Tensor | None = None,
    database_labels: Tensor | None = None,
) -> Tensor:
    """How many database codes lie at each Hamming distance: int64 [q, 8 B + 1].

    query uint8 [q, B], database uint8 [n, B]. With labels only pairs that share a class are
    counted: int64 [q] and [n] class ids (any equal ones, -1 too), or uint8 [q, W] and [n, W] packed
    multi-hot rows (any common bit). Raises TypeError or ValueError when codes or labels do not fit.
    """
    check_pair(query, database)
    if (query_labels is None) != (database_labels is None):
        raise ValueError("hamming_histogram: give labels for both query and database, or neither")
    if query_labels is not None and database_labels is not None:
        check_pair_labels("hamming_histogram", query, database, query_labels, database_labels)
    return hamming_histogram_op(query, database, query_labels, database_labels)


def hamming_range(
    query: Tensor, database: Tensor, radius: int, allowed: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Every database code within `radius` (distance <= radius) of each query.

    query uint8 [q, B], database uint8 [n, B], allowed as in `hamming_topk`. Returns (limits
    int64 [q + 1], distances int32, ids int64): the hits of query i are at
    [limits[i], limits[i + 1]), ordered by (distance, id).
    A negative radius finds nothing. Raises TypeError or ValueError when codes or the bitmap do
    not fit.
    """
    check_pair(query, database)
    _check_allowed(allowed, database)
    limits = _limits(query, database, radius, allowed)
    return limits, *hamming_range_op(query, database, radius, limits, allowed)
