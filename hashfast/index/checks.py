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


def check_k(k: int, n: int) -> int:
    """Check the number of neighbours asked of n codes; more than n is padded, with one warning."""
    k = as_integer(k, "k", 1)
    if k > n:
        warnings.warn(
            f"k is {k} but there are {n} codes to search: results are padded with "
            f"distance {NO_DISTANCE} and id {NO_ID}",
            stacklevel=3,  # the line that called search
        )
    return k


def check_radius(radius: int, code_size: int) -> int:
    """Check a search radius in bits; beyond the width of a code it finds no more."""
    return min(as_integer(radius, "radius", 0), 8 * code_size)
