"""Exact Hamming search over packed codes, without building an index."""

from hashfast import ops
from hashfast._inputs import Array, as_codes
from hashfast.index.checks import check_k, check_radius, like


def search(query: Array, database: Array, k: int) -> tuple[Array, Array]:
    """Find the k nearest database codes of every query by Hamming distance, exactly.

    The search runs where the database lies. The database is not copied (memory maps and read-only
    arrays included), except a numpy array with a negative stride, and whatever layout the kernel
    needs for rows that are not contiguous. A query elsewhere is moved to the database's device.

    Args:
        query: uint8 [q, bytes per code], numpy or torch.
        database: uint8 [n, bytes per code], numpy or torch.
        k: neighbours per query, at least 1.

    Returns:
        distances int32 [q, k] in bits and ids int64 [q, k] (rows of the database), each row sorted
        by (distance, id). Where k > n the rest is distance 2**31 - 1 and id -1, with a warning.
        numpy for a numpy query; torch on the query's device for a torch query.

    Raises:
        TypeError: codes that are not uint8 arrays, or k not an integer.
        ValueError: codes not two-dimensional or of different widths, or k < 1.
    """
    queries, codes = as_codes(query, "query"), as_codes(database, "database")
    k = check_k(k, len(codes))
    distances, ids = like(query, *ops.hamming_topk(queries.to(codes.device), codes, k))
    return distances, ids


def range_search(query: Array, database: Array, radius: int) -> tuple[Array, Array, Array]:
    """Find every database code within `radius` bits of every query, the radius included.

    Copies and devices as in `search`.

    Args:
        query: uint8 [q, bytes per code], numpy or torch.
        database: uint8 [n, bytes per code], numpy or torch.
        radius: largest distance in bits, 0 or more. faiss's IndexBinaryFlat keeps d < radius:
            its range_search(query, radius + 1) finds the same codes.

    Returns:
        limits int64 [q + 1], distances int32 and ids int64 [limits[-1]]: the hits of query i are
        distances[limits[i]:limits[i + 1]], sorted by (distance, id).
        numpy for a numpy query; torch on the query's device for a torch query.

    Raises:
        TypeError: codes that are not uint8 arrays, or a radius not an integer.
        ValueError: codes not two-dimensional or of different widths, or radius < 0.
    """
    queries, codes = as_codes(query, "query"), as_codes(database, "database")
    radius = check_radius(radius, codes.shape[1])
    found = ops.hamming_range(queries.to(codes.device), codes, radius)
    limits, distances, ids = like(query, *found)
    return limits, distances, ids
