"""Numbers a search is asked for, and results in the form the query came in."""

import operator
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hashfast import ops
from hashfast._inputs import Array

NO_DISTANCE = 2**31 - 1
NO_ID = -1
_MAX_K = 2**31 - 1
_NO_MEMORY = re.compile("allocate|out of memory|bad_alloc")  # torch: a RuntimeError
RESULT_BYTES = 12  # a distance int32 and an id int64


def like(original: Array, *results: torch.Tensor) -> tuple[Array, ...]:
    """Hand results back as the caller's query came: numpy, or torch on the query's device."""
    if isinstance(original, torch.Tensor):
        return tuple(result.to(original.device) for result in results)
    return tuple(result.cpu().numpy() for result in results)


def as_integer(value: int, name: str, least: int, most: int | None = None) -> int:
    """Check a whole number of at least `least`, at most `most`: TypeError or ValueError if not."""
    try:
        integer = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; expected an integer") from None
    if integer < least:
        raise ValueError(f"{name} is {integer}; expected at least {least}")
    if most is not None and integer > most:
        raise ValueError(f"{name} is {integer}; expected at most {most}")
    return integer


def as_device(device: str | int | torch.device) -> torch.device:
    """The device, of a GPU with its number: "cuda" alone is the current one.

    Raises ValueError for a GPU that torch does not see.
    """
    named = torch.device(device)
    if named.type != "cuda":
        return named
    seen = torch.cuda.device_count()
    if not seen:
        raise ValueError(
            f"device is {named}, and torch sees no CUDA GPU here: search on the CPU, or see "
            "`hashfast doctor`"
        )
    number = torch.cuda.current_device() if named.index is None else named.index
    if number >= seen:
        raise ValueError(
            f"device is {named}; torch sees {seen} CUDA GPUs, cuda:0 to cuda:{seen - 1}"
        )
    return torch.device("cuda", number)


def check_k(k: int, n: int) -> int:
    """Check the neighbours asked for of n codes: TypeError or ValueError unless 1 to 2**31 - 1."""
    k = as_integer(k, "k", 1)
    if k > _MAX_K:
        raise ValueError(
            f"k is {k}; expected at most {_MAX_K}. There are n = {n} codes to search: no k beyond "
            "that finds more"
        )
    return k


def topk(
    query: torch.Tensor, database: torch.Tensor, k: int, allowed: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """ops.hamming_topk, which raises MemoryError with the sizes when the results do not fit."""
    with enough_memory(len(database), k, len(query)):
        return ops.hamming_topk(query, database, k, allowed)


@contextmanager
def enough_memory(n: int, k: int, queries: int) -> Iterator[None]:
    """Raise `no_memory` of a search where there is too little for it."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not _NO_MEMORY.search(str(error)):
            raise
        raise no_memory(n, k, queries) from error


def no_memory(n: int, k: int, queries: int) -> MemoryError:
    """The error for results that do not fit."""
    return MemoryError(
        f"no memory to search {n} codes for k = {k} neighbours of {queries} queries, whose results "
        f"alone take {RESULT_BYTES * queries * k} bytes: lower k or search for fewer queries at "
        "once"
    )


def check_radius(radius: int, code_size: int, strict: bool = False) -> int:
    """Largest distance that a search within `radius` bits keeps; -1 for none.

    A `strict` radius is itself left out. Beyond the width of a code a radius finds no more.
    """
    return min(as_integer(radius, "radius", 0) - strict, 8 * code_size)


def warn_if_padded(distances: Array, n: int, filtered: bool) -> None:
    """Warn once when fewer codes than asked for were found for the queries, distances [q, k].

    Every query finds as many: of n codes searched, those that are allowed when `filtered`. How many
    these are is not looked up on a GPU, which would have to be waited for: no warning there.
    """
    q, k = distances.shape
    if not q or (k <= n and not filtered):
        return
    found = min(k, n)
    if filtered:
        if isinstance(distances, torch.Tensor) and distances.device.type != "cpu":
            return
        found = int((distances[0] != NO_DISTANCE).sum())
    if found < k:
        reason = f"there are {n} codes to search"
        if filtered:
            reason = f"allowed leaves {found} of {n} codes to search"
        warnings.warn(
            f"k is {k} but {reason}: results are padded with distance {NO_DISTANCE} and id {NO_ID}",
            stacklevel=3,  # the line that called search
        )
