"""Near-duplicates: groups of codes linked by small Hamming distances."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from hashfast._inputs import Array, as_codes
from hashfast.index.checks import as_integer, check_radius
from hashfast.index.pairs import pairs

_ROWS = 1 << 13  # codes searched between two steps of the bar: a second for tens of millions
_ONES = np.array([byte.bit_count() for byte in range(256)], np.uint8)


class Duplicates(NamedTuple):
    """Groups of rows, the largest first: group g holds rows[limits[g]:limits[g + 1]].

    limits int64 [groups + 1]. rows int64 [m], each at most once. distances int32 [m] of each row to
    the representative of its group, which is its lowest row and stands first; the rows of a group
    are sorted by (distance, row), so that the last is the farthest. distinct: how many different
    codes there are. identical: rows of groups that have the code of a lower row of their group.
    """

    limits: np.ndarray
    rows: np.ndarray
    distances: np.ndarray
    distinct: int
    identical: int


def near_duplicates(
    codes: Array, radius: int, *, first_new: int = 0, progress: bool = False
) -> Duplicates:
    """Group the codes that lie within `radius` bits of one another, exactly.

    A group is a connected component: a and c are together when both are near b, however far apart
    they are; `distances` shows such chains. Rows before `first_new` are old: they are compared with
    the new ones only, and every group holds a new row. Equal codes are searched once, so that many
    copies cost no more than one, and pairs are joined as they come (union-find with path
    compression): memory grows with the codes, and with the pairs of one block of `pairs`.

    Args:
        codes: uint8 [n, bytes per code], numpy or torch.
        radius: largest distance in bits of a link, 0 or more.
        first_new: number of old rows.
        progress: show a bar on standard error.

    Returns:
        The groups of two rows or more, as numpy arrays: group g is rows[limits[g]:limits[g + 1]],
        its first row represents it, and `distances` are to that one.

    Raises:
        TypeError: codes that are not a uint8 array, or a number that is not an integer.
        ValueError: codes not two-dimensional, or radius or first_new < 0.
    """
    array = as_codes(codes, "codes").cpu().numpy()
    radius = check_radius(radius, array.shape[1])
    first_new = as_integer(first_new, "first_new", 0)
    first, kinds = _distinct(array)
    is_new = np.zeros(len(first), bool)
    is_new[kinds[first_new:]] = True
    parents = np.arange(len(first))
    if radius:  # different codes are at least one bit apart
        for one, other in _links(array[first], radius, is_new, progress):
            _join(parents, one, other)

    groups = _roots(parents, kinds)
    sizes = np.bincount(groups, minlength=len(first))
    reported = np.zeros(len(first), bool)
    reported[groups[first_new:]] = True
    reported &= sizes > 1
    rows = np.flatnonzero(reported[groups])
    groups = groups[rows]
    distances = _ONES[array[rows] ^ array[first[groups]]].sum(1, dtype=np.int32)
    order = np.lexsort((rows, distances, groups, -sizes[groups]))
    sizes = np.bincount(groups, minlength=len(first))[reported]
    limits = np.append(0, np.cumsum(-np.sort(-sizes)))
    identical = len(rows) - len(np.unique(kinds[rows]))
    return Duplicates(limits, rows[order], distances[order], len(first), identical)


def _distinct(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First row of every different code, increasing, and which of these each row has."""
    n, width = codes.shape
    padded = np.zeros((n, -(-width // 8) * 8), np.uint8)
    padded[:, :width] = codes
    words = padded.view(np.uint64)
    order = np.lexsort(words.T)  # stable: the lowest row of equal codes comes first
    ordered = words[order]
    starts = np.append(True, (ordered[1:] != ordered[:-1]).any(1))[:n]
    first = order[starts]
    by_row = np.argsort(first)
    ranks = np.empty_like(by_row)
    ranks[by_row] = np.arange(len(first))
    kinds = np.empty_like(order)
    kinds[order] = ranks[np.cumsum(starts) - 1]
    return first[by_row], kinds


def _links(
    codes: np.ndarray, radius: int, is_new: np.ndarray, progress: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of pairs of codes within the radius, of which at least one is new.

    Some new codes at a time, with one another and with all that come after them: the bar advances
    whether or not there are pairs.
    """
    order = np.argsort(~is_new, kind="stable")  # new codes first
    codes, n, new = codes[order], len(order), int(is_new.sum())
    total = new * (new - 1) // 2 + new * (n - new)
    with tqdm(total=total, unit="pair", unit_scale=True, disable=not progress) as bar:
        for start in range(0, new, _ROWS):
            end = min(start + _ROWS, new)
            some, later = codes[start:end], codes[end:]
            for i, j, _ in pairs(some, radius):
                yield order[start + i], order[start + j]
            for i, j, _ in pairs(some, radius, database=later):
                yield order[start + i], order[end + j]
            size = end - start
            bar.update(size * (size - 1) // 2 + size * len(later))


def _join(parents: np.ndarray, one: np.ndarray, other: np.ndarray) -> None:
    """Unite the sets of each pair; the lowest member of a set is its root."""
    while len(one):
        apart = parents[one] != parents[other]
        one, other = _roots(parents, one[apart]), _roots(parents, other[apart])
        one, other = np.maximum(one, other), np.minimum(one, other)
        np.minimum.at(parents, one, other)  # the lowest of several: fewer rounds


def _roots(parents: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Root of the set of each member; the paths walked are halved at each step."""
    roots = parents[members]
    while ((above := parents[roots]) != roots).any():
        parents[members] = roots = above
    return roots
