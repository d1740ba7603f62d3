"""What Hamming searches must find, by unpacking every bit: shared by the tests of search."""

import numpy as np

PADDING_DISTANCE, PADDING_ID = 2**31 - 1, -1


def random_codes(n, size=8, seed=0, values=256):
    return np.random.default_rng(seed).integers(0, values, (n, size), dtype=np.uint8)


def all_distances(query, database):
    """Ones against zeros and zeros against ones; float32 counts are exact below 2**24."""
    ours, theirs = (np.unpackbits(codes, axis=1).astype(np.float32) for codes in (query, database))
    return (ours @ (1 - theirs).T + (1 - ours) @ theirs.T).astype(np.int32)


def brute_force(query, database, k, allowed=None):
    """The k nearest, ordered by (distance, row), padded. allowed: bool [n]."""
    distances = np.full((len(query), k), PADDING_DISTANCE, np.int32)
    rows = np.full((len(query), k), PADDING_ID, np.int64)
    for i, (found, order) in enumerate(_rankings(query, database, allowed)):
        order = order[:k]
        distances[i, : len(order)], rows[i, : len(order)] = found[order], order
    return distances, rows


def brute_force_range(query, database, radius, allowed=None):
    """Limits, distances and rows of those at most `radius` away, ordered as `brute_force` does."""
    limits, distances, rows = [0], [np.empty(0, np.int32)], [np.empty(0, np.int64)]
    for found, order in _rankings(query, database, allowed):
        order = order[found[order] <= radius]
        limits.append(limits[-1] + len(order))
        distances.append(found[order])
        rows.append(order)
    return np.array(limits, np.int64), np.concatenate(distances), np.concatenate(rows)


def _rankings(query, database, allowed):
    for found in all_distances(query, database):
        order = np.argsort(found.astype(np.uint16), kind="stable")  # sorts by radix: far faster
        yield found, order if allowed is None else order[allowed[order]]


def assert_same(found, expected):
    """Equal arrays, dtypes and shapes."""
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, np.ndarray)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_array_equal(one, other)
