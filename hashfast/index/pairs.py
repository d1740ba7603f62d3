"""All pairs of codes within a radius, streamed block by block."""

from collections.abc import Iterator

import torch
from torch import Tensor

from hashfast._inputs import Array, as_codes
from hashfast.index.checks import check_radius, like
from hashfast.ops.hamming import hamming_range_count_op, hamming_range_op

_ROWS = 4096  # codes whose pairs are counted at once
_PAIRS = 1 << 22  # pairs held at once, some 70 bytes each, unless one code has more

Pairs = Iterator[tuple[Array, Array, Array]]


def pairs(codes: Array, radius: int, *, database: Array | None = None) -> Pairs:
    """Stream the pairs of codes that are at most `radius` bits apart.

    Without `database`: every pair (i, j), i < j, of rows of `codes`, once. With it: every pair of a
    row i of `codes` and a row j of `database`. The codes must not change meanwhile. However many
    are equal, memory is that of about 4 million pairs, or of all pairs of one row.

    Args:
        codes: uint8 [n, bytes per code], numpy or torch.
        radius: largest distance in bits, 0 or more.
        database: uint8 [m, bytes per code]; the search runs where it lies.

    Returns:
        An iterator of blocks, none of them empty: rows i int64 [p], rows j int64 [p] and distances
        int32 [p]; all together sorted by (i, distance, j). numpy for numpy codes; torch on their
        device for torch codes.

    Raises:
        TypeError: codes that are not uint8 arrays, or a radius not an integer.
        ValueError: codes not two-dimensional or of different widths, or radius < 0.
    """
    others = as_codes(codes, "codes") if database is None else as_codes(database, "database")
    rows = as_codes(codes, "codes", 8 * others.shape[1], "database has")
    radius = check_radius(radius, others.shape[1])
    return _stream(codes, rows, others, radius, triangle=database is None)


def _stream(original: Array, rows: Tensor, others: Tensor, radius: int, triangle: bool) -> Pairs:
    for top in range(0, len(rows), _ROWS):
        block = rows[top : top + _ROWS].to(others.device)
        first = top if triangle else 0
        candidates = others[first:]
        counts = hamming_range_count_op(block, candidates, radius, None)
        itself = int(triangle)  # a row of the triangle finds itself
        matched = (counts > itself).nonzero().squeeze(1)
        for chosen in _cut(matched, counts[matched]):
            found = counts[chosen]
            limits = torch.nn.functional.pad(found.cumsum(0), (1, 0))
            distances, j = hamming_range_op(block[chosen], candidates, radius, limits, None)
            i, j = (top + chosen).repeat_interleave(found, output_size=len(j)), first + j
            if triangle:
                above = j > i
                i, j, distances = i[above], j[above], distances[above]
            if len(i):
                one, other, bits = like(original, i, j, distances)
                yield one, other, bits


def _cut(rows: Tensor, counts: Tensor) -> Iterator[Tensor]:
    """Parts of `rows` that have at most _PAIRS pairs, or are a single row."""
    ends, start, done = counts.cumsum(0), 0, 0
    while start < len(rows):
        end = max(start + 1, int(torch.searchsorted(ends, done + _PAIRS, right=True)))
        yield rows[start:end]
        start, done = end, int(ends[end - 1])
