"""Numbers a search is asked for, and results in the form the query came in."""

import operator
import warnings

import torch

from hashfast._inputs import Array

NO_DISTANCE = 2**31 - 1
NO_ID = -1


def like(original: Array, *results: torch.Tensor) -> tuple[Array, ...]:
    """Hand results back as the caller's query came: numpy, or torch on the query's device."""
    if isinstance(original, torch.Tensor):
        return tuple(result.to(original.device) for result in results)
    return tuple(result.cpu().numpy() for result in results)


def as_integer(value: int, name: str, least: int) -> int:
    """Check a whole number of at least `least`: TypeError or ValueError otherwise."""
    try:
        integer = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; expected an integer") from None
    if integer < least:
        raise ValueError(f"{name} is {integer}; expected at least {least}")
    return integer


def check_radius(radius: int, code_size: int, strict: bool = False) -> int:
    """Largest distance that a search within `radius` bits keeps; -1 for none.

    A `strict` radius is itself left out. Beyond the width of a code a radius finds no more.
    """
    return min(as_integer(radius, "radius", 0) - strict, 8 * code_size)


def warn_if_padded(rows: torch.Tensor, n: int, filtered: bool) -> None:
    """Warn once when fewer codes than asked for were found for the queries, rows int64 [q, k].

    Every query finds as many: of n codes searched, those that are allowed when `filtered`.
    """
    q, k = rows.shape
    if not q or (k <= n and not filtered):
        return
    found = int((rows[0] != NO_ID).sum())
    if found < k:
        reason = f"there are {n} codes to search"
        if filtered:
            reason = f"allowed leaves {found} of {n} codes to search"
        warnings.warn(
            f"k is {k} but {reason}: results are padded with distance {NO_DISTANCE} and id {NO_ID}",
            stacklevel=3,  # the line that called search
        )
