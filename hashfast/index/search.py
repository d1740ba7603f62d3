"""Exact Hamming search over packed codes, without building an index."""

from functools import partial

from hashfast import ops
from hashfast._inputs import Array, as_codes
from hashfast.index.allowed import Allowed, as_bitmap
from hashfast.index.checks import check_k, check_radius, like, topk, warn_if_padded
from hashfast.index.ids import find_row_numbers


def search(
    query: Array, database: Array, k: int, allowed: Allowed | None = None
) -> tuple[Array, Array]:
    """Find the k nearest database codes of every query by Hamming distance, exactly.

    The search runs where the database lies. The database is not copied (memory maps and read-only
    arrays included), except a numpy array with a negative stride, and whatever layout the kernel
    needs for rows that are not contiguous. A query elsewhere is moved to the database's device.

    Args:
        query: uint8 [q, bytes per code], numpy or torch.
        database: uint8 [n, bytes per code], numpy or torch.
        k: neighbours per query, 1 to 2**31 - 1; results take 12 bytes each.
        allowed: the rows that may be found: a bool mask [n], integer row numbers [m] or a set of
            them, or uint8 [ceil(n / 8)], the bitmap that `hashfast.pack` makes of a bool mask
            (ready for use, so worth keeping for many searches). Default: all.

    Returns:
        distances int32 [q, k] in bits and ids int64 [q, k] (rows of the database), each row sorted
        by (distance, id). Where fewer than k rows are there or allowed, the rest is distance
        2**31 - 1 and id -1, with a warning. numpy for a numpy query; torch on the query's device
        for a torch query.

    Raises:
        TypeError: codes that are not uint8 arrays, k not an integer, or another dtype of `allowed`.
        ValueError: codes not two-dimensional or of different widths, k out of range, or `allowed`
            of another shape or with a row that the database does not have.
        MemoryError: there is no room for the results.
    """
    queries, codes = as_codes(query, "query"), as_codes(database, "database")
    n = len(codes)
    k = check_k(k, n)
    bitmap = as_bitmap(allowed, n, partial(find_row_numbers, n=n), codes.device)
    found = topk(queries.to(codes.device), codes, k, bitmap)
    distances, ids = like(query, *found)
    warn_if_padded(distances, n, filtered=allowed is not None)
    return distances, ids


def range_search(
    query: Array,
    database: Array,
    radius: int,
    allowed: Allowed | None = None,
    strict: bool = False,
) -> tuple[Array, Array, Array]:
    """Find every database code within `radius` bits of every query, the radius included.

    Copies and devices as in `search`.

    Args:
        query: uint8 [q, bytes per code], numpy or torch.
        database: uint8 [n, bytes per code], numpy or torch.
        radius: largest distance in bits, 0 or more.
        allowed: the rows that may be found, as in `search`. Default: all.
        strict: keep distances below the radius only, as faiss's range_search does.

    Returns:
        limits int64 [q + 1], distances int32 and ids int64 [limits[-1]]: the hits of query i are
        distances[limits[i]:limits[i + 1]], sorted by (distance, id).
        numpy for a numpy query; torch on the query's device for a torch query.

    Raises:
        TypeError: codes that are not uint8 arrays, a radius not an integer, or another dtype of
            `allowed`.
        ValueError: codes not two-dimensional or of different widths, radius < 0, or `allowed` of
            another shape or with a row that the database does not have.
    """
    queries, codes = as_codes(query, "query"), as_codes(database, "database")
    radius, n = check_radius(radius, codes.shape[1], strict), len(codes)
    bitmap = as_bitmap(allowed, n, partial(find_row_numbers, n=n), codes.device)
    found = ops.hamming_range(queries.to(codes.device), codes, radius, bitmap)
    limits, distances, ids = like(query, *found)
    return limits, distances, ids
