"""Which substrings of the codes a multi-index hash has tables for."""

import math
from collections.abc import Sequence

from hashfast.index.checks import as_integer

# Nanoseconds, measured: a bucket or a code fetched from memory, and a byte read in sequence.
_BUCKET, _FETCH, _BYTE = 25.0, 15.0, 0.14
_K = 10
_MOST_WIDTH = 26  # a table has 4 bytes a bucket
_MOST_TABLES = 64
_MOST_BITS = 4096


def check_tables(bits: int, tables: int | None) -> int | None:
    """The number of tables asked for: TypeError or ValueError unless it and `bits` are possible."""
    as_integer(bits, "bits", 1, _MOST_BITS)
    return None if tables is None else as_integer(tables, "tables", 1, min(bits, _MOST_TABLES))


def choose_widths(
    n: int, bits: int, code_size: int, tables: int | None, copies: bool
) -> tuple[int, ...]:
    """Widths of consecutive substrings for n codes, of as many tables as asked for.

    By default the number of tables that finds the 10 nearest of n uniform codes fastest, or one
    less where that costs 15 % at most: it takes less memory. Of longer codes the nearest are
    hardly ever as far away as those of uniform ones, so that a fifth of the bits is assumed at
    most. A substring has hardly more values than there are codes; of few codes not all bits are
    covered.
    """
    if tables is not None:
        return _widths(n, bits, tables)
    radius = _nearest_distance(n, bits, bits // 5)
    choices = [_widths(n, bits, m) for m in range(1, min(_MOST_TABLES, -(-bits // 4)) + 1)]
    costs = [_cost(n, radius, code_size, widths, copies) for widths in choices]
    least = min(costs)
    return next(w for w, cost in zip(choices, costs, strict=True) if cost <= 1.15 * least)


def _widths(n: int, bits: int, tables: int) -> tuple[int, ...]:
    most = min(_MOST_WIDTH, max(4, n.bit_length()))
    covered = min(bits, tables * most)
    return tuple((covered + i) // tables for i in range(tables - 1, -1, -1))


def _nearest_distance(n: int, bits: int, most: int) -> int:
    """Within which distance of a query 10 of n uniform codes are to be expected; at most `most`."""
    at, within, wanted = 1, 1, (_K << bits) // max(n, 1)
    for distance in range(most):
        if within >= wanted:
            return distance
        at = at * (bits - distance) // (distance + 1)
        within += at
    return most


def _cost(n: int, radius: int, code_size: int, widths: Sequence[int], copies: bool) -> float:
    """Nanoseconds to visit the buckets that hold every code within the radius."""
    total, m = 0.0, len(widths)
    for step in range(radius + 1):
        weight, table = divmod(step, m)
        width = widths[table]
        read = _BYTE * code_size if copies or not table else _FETCH
        total += math.comb(width, weight) * (_BUCKET + n / 2**width * read)
    return total
