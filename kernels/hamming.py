"""Triton Hamming top-k, histogram and range: distances are counted, then rows are placed.

A first scan counts the distances of every segment of the rows. Sums of these tell where each of
its rows belongs, and a second scan puts them there. Nothing is copied to the host, except for the
size of a range.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hashfast.kernels.hamming_scan import (
    NO_LABELS,
    WORKSPACE,
    Scan,
    as_labels,
    before,
    distances_of,
    queries_and_segment,
    rows_in,
)

PADDING_DISTANCE = 2**31 - 1

# One block of rows in so many is scanned for a first bound of the k-th distance, in databases of
# at least so many rows, of which the sample holds a few times k.
SAMPLE = 16
SAMPLED_ROWS = 1 << 16

# A key is distance << 40 | row.
ROW_BITS = 40
LAST_KEY = torch.iinfo(torch.int64).max


@triton.jit
def place_kernel(
    query, database, allowed, cuts, starts, tie_starts, ends, keys,
    num_queries, num_rows, rows_each, segments,
    WORDS: tl.constexpr, BLOCK_QUERIES: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """Puts the keys of rows nearer than `cuts` [q] from starts [q, segments] on, in row order.

    Those just at the cut go from tie_starts [q, segments] on, if there are any, before ends [q].
    """
    queries, segment = queries_and_segment(num_queries, BLOCK_QUERIES)
    in_queries = queries < num_queries
    cut = tl.load(cuts + queries, mask=in_queries, other=0)
    place = tl.load(starts + queries * segments + segment, mask=in_queries, other=0)
    if tie_starts is not None:
        tie = tl.load(tie_starts + queries * segments + segment, mask=in_queries, other=0)
    first = segment * rows_each
    last = tl.minimum(first + rows_each, num_rows)
    while first < last:
        rows = first + tl.arange(0, BLOCK_ROWS)
        in_rows = rows_in(rows, last, allowed)
        distances = distances_of(
            query, database, queries, rows, in_queries, in_rows, WORDS, BLOCK_QUERIES, BLOCK_ROWS
        )
        inside = in_queries[:, None] & in_rows[None, :]
        near = inside & (distances < cut[:, None])
        hits = near.to(tl.int32)
        if tie_starts is not None:
            equal = inside & (distances == cut[:, None])
            hits += equal.to(tl.int32) << 16  # both are numbered in one scan
        if tl.max(hits) > 0:
            key = (distances.to(tl.int64) << 40) | rows[None, :]
            order = tl.cumsum(hits, axis=1) - hits
            total = tl.sum(hits, axis=1)
            to = place[:, None] + (order & 0xFFFF)
            place += total & 0xFFFF
            if tie_starts is not None:
                end = tl.load(ends + queries, mask=in_queries, other=0)
                to = tl.where(near, to, tie[:, None] + (order >> 16))
                near |= equal & (to < end[:, None])
                tie += total >> 16
            tl.store(keys + to, key, mask=near)
        first += BLOCK_ROWS


def _place(
    scan: Scan,
    keys: Tensor,
    segments: int,
    rows_each: int,
    cuts: Tensor,
    starts: Tensor,
    tie_starts: Tensor | None = None,
    ends: Tensor | None = None,
) -> None:
    with torch.cuda.device_of(keys):  # Triton launches on the current device
        place_kernel[(scan.query_blocks * segments,)](
            scan.query, scan.database, scan.allowed, cuts, starts, tie_starts, ends, keys,
            len(scan.query), len(scan.database), rows_each, segments,
            WORDS=scan.words, **scan.blocks,
        )  # fmt: skip


def _bins_below(counts: Tensor, k: int) -> Tensor:
    """The distance of the k-th row, int32 [q], for counts [q, bins]; bins where there is none."""
    return (counts.cumsum(1) < k).sum(1, dtype=torch.int32)


def _nearest_keys(query: Tensor, database: Tensor, k: int, allowed: Tensor | None) -> Tensor:
    """Keys int64 [q, k] in order, LAST_KEY where there are fewer rows."""
    q, n, bins = len(query), len(database), 8 * query.shape[1] + 1
    scan = Scan(query, database, allowed)
    block, bounds = scan.blocks["BLOCK_ROWS"], None
    if n >= max(SAMPLED_ROWS, 4 * SAMPLE * k):
        sampled = query.new_zeros((q, bins, 1), dtype=torch.int64)
        scan.count(sampled, *scan.cut(SAMPLE * block, n), step=SAMPLE * block)
        bounds = _bins_below(sampled.squeeze(2), k)
    segments, rows_each = scan.cut(block, WORKSPACE // (8 * bins * q))
    counts = query.new_zeros((q, bins, segments), dtype=torch.int64)
    scan.count(counts, segments, rows_each, bounds=bounds)
    cuts = _bins_below(counts.sum(2), k)
    nearer = torch.arange(bins, device=query.device).unsqueeze(1) < cuts[:, None, None]
    near = counts.where(nearer, 0).sum(1)
    equal = cuts.long().clamp(max=bins - 1)[:, None, None].expand(q, 1, segments)
    equal = counts.gather(1, equal).squeeze(1)
    start = torch.arange(q, device=query.device).unsqueeze(1) * k
    keys = query.new_full((q, k), LAST_KEY, dtype=torch.int64)
    tie_starts = start + near.sum(1, keepdim=True) + before(equal)
    _place(scan, keys, segments, rows_each, cuts, start + before(near), tie_starts, start + k)
    return keys.sort(dim=1).values


def topk(query: Tensor, database: Tensor, k: int, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
    """(distances int32 [q, k], ids int64 [q, k]) as the reference in hashfast/ops/hamming.py."""
    distances = query.new_full((len(query), k), PADDING_DISTANCE, dtype=torch.int32)
    ids = query.new_full((len(query), k), -1, dtype=torch.int64)
    if not len(database):
        return distances, ids
    some = max(1, WORKSPACE // (8 * (8 * query.shape[1] + 1)))
    for start in range(0, len(query), some):
        part = slice(start, start + some)
        keys = _nearest_keys(query[part], database, k, allowed)
        there = keys != LAST_KEY
        distances[part] = distances[part].where(~there, (keys >> ROW_BITS).int())
        ids[part] = ids[part].where(~there, keys & ((1 << ROW_BITS) - 1))
    return distances, ids


def histogram(
    query: Tensor, database: Tensor, query_labels: Tensor | None, database_labels: Tensor | None
) -> Tensor:
    """int64 [q, bins] as the reference in hashfast/ops/hamming.py."""
    counts = query.new_zeros((len(query), 8 * query.shape[1] + 1, 1), dtype=torch.int64)
    if len(query) and len(database):
        labels = NO_LABELS
        if query_labels is not None and database_labels is not None:
            labels = as_labels(query_labels, database_labels)
        scan = Scan(query, database)
        scan.count(counts, *scan.cut(scan.blocks["BLOCK_ROWS"], len(database)), labels=labels)
    return counts.squeeze(2)


def _no_wider(radius: int, query: Tensor) -> int:
    """A radius that fits int32 and finds the same."""
    return max(-1, min(radius, 8 * query.shape[1]))


def _within(scan: Scan, radius: int) -> tuple[Tensor, int, int]:
    """Rows within the radius, int64 [q, segments], the segments and the rows of each."""
    segments, rows_each = scan.cut(scan.blocks["BLOCK_ROWS"], len(scan.database))
    q = len(scan.query)
    counts = scan.query.new_zeros((q, 1, segments), dtype=torch.int64)
    bounds = counts.new_full((q,), radius, dtype=torch.int32)
    scan.count(counts, segments, rows_each, bounds=bounds)
    return counts.squeeze(1), segments, rows_each


def range_count(query: Tensor, database: Tensor, radius: int, allowed: Tensor | None) -> Tensor:
    """int64 [q] as the reference in hashfast/ops/hamming.py."""
    if not len(query) or not len(database):
        return query.new_zeros(len(query), dtype=torch.int64)
    return _within(Scan(query, database, allowed), _no_wider(radius, query))[0].sum(1)


def _total(limits: Tensor, counts: Tensor) -> int:
    """The last of limits int64 [q + 1], which are refused unless they are those of counts [q]."""
    if limits.dtype != torch.int64 or limits.shape != (len(counts) + 1,):
        raise RuntimeError(f"hamming_range: limits must be int64 [{len(counts) + 1}]")
    wrong = (limits[0] != 0) | (limits[1:] < limits[:-1]).any()
    others = (limits.diff() != counts).any()
    total, is_wrong, is_other = torch.stack([limits[-1], wrong, others]).tolist()
    if is_wrong:
        raise RuntimeError("hamming_range: limits must start at 0 and not decrease")
    if is_other:
        raise RuntimeError("hamming_range: limits are not those of these codes and this radius")
    return total


def range_fill(
    query: Tensor, database: Tensor, radius: int, limits: Tensor, allowed: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(distances int32, ids int64) as the reference in hashfast/ops/hamming.py.

    Raises RuntimeError when limits are others than those of the hits, as the other versions do.
    """
    if not len(query) or not len(database):
        keys = query.new_empty(_total(limits, query.new_zeros(len(query))), dtype=torch.int64)
        return keys.int(), keys
    scan, radius = Scan(query, database, allowed), _no_wider(radius, query)
    counts, segments, rows_each = _within(scan, radius)
    total = _total(limits, counts.sum(1))
    keys = query.new_empty(total, dtype=torch.int64)
    if not total:
        return keys.int(), keys
    starts = limits[:-1, None] + before(counts)
    cuts = counts.new_full((len(query),), radius + 1, dtype=torch.int32)
    _place(scan, keys, segments, rows_each, cuts, starts)
    # Rows are in order, query by query.
    distances, ids = keys >> ROW_BITS, keys & ((1 << ROW_BITS) - 1)
    rank = torch.arange(len(query), device=query.device) * (8 * query.shape[1] + 1)
    rank = rank.repeat_interleave(limits.diff(), output_size=total)
    order = (rank + distances).sort(stable=True).indices
    return distances[order].int(), ids[order]
