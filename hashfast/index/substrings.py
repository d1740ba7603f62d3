"""Which substrings of the codes a multi-index hash has tables for."""

import math
from collections.abc import Sequence

# Nanoseconds, measured: a bucket or a code fetched from memory, and a byte read in sequence.
_BUCKET, _FETCH, _BYTE = 25.0, 15.0, 0.14
_K = 10
_MOST_WIDTH = 26  # a table has 4 bytes a bucket
MOST_TABLES = 64


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
    radius = min(_nearest_distance(n, bits, _K), bits // 5)
    if tables is not None:
        return _widths(n, bits, tables)
    choices = [_widths(n, bits, m) for m in range(1, min(MOST_TABLES, -(-bits // 4)) + 1)]
    costs = [_cost(n, radius, code_size, widths, copies) for widths in choices]
    least = min(costs)
    return next(w for w, cost in zip(choices, costs, strict=True) if cost <= 1.15 * least)


def _widths(n: int, bits: int, tables: int) -> tuple[int, ...]:
    most = min(_MOST_WIDTH, max(4, n.bit_length()))
    covered = min(bits, tables * most)
    return tuple((covered + i) // tables for i in range(tables - 1, -1, -1))


def _nearest_distance(n: int, bits: int, k: int) -> int:
    """Within which distance of a query k of n uniform codes are to be expected."""
    within, wanted = 0, (k << bits) // max(n, 1)
    for distance in range(bits + 1):
        within += math.comb(bits, distance)
        if within >= wanted:
            return distance
    return bits


def _cost(n: int, radius: int, code_size: int, widths: Sequence[int], copies: bool) -> float:
    """Nanoseconds to visit the buckets that hold every code within the radius."""
    total, m = 0.0, len(widths)
    for step in range(radius + 1):
        weight, table = divmod(step, m)
        width = widths[table]
        read = _BYTE * code_size if copies or not table else _FETCH
        total += math.comb(width, weight) * (_BUCKET + n / 2**width * read)
    return total
