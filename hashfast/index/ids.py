"""Ids of codes: what counts as one, and the rows they stand for."""

from collections.abc import Sequence, Set
from typing import NamedTuple

import numpy as np
import torch

from hashfast._inputs import Array


class Found(NamedTuple):
    """Rows that ids stand for: int64 rows with any of m ids, and the last row [m] of each or -1."""

    rows: np.ndarray
    last: np.ndarray


def listed(ids: Array | Sequence[int] | Set[int]) -> Array | Sequence[int]:
    """A set as a list, for arguments in which the order of ids does not count."""
    return list(ids) if isinstance(ids, Set) else ids


def as_ids(
    ids: Array | Sequence[int], name: str = "ids", forms: str = "a list or array of ids"
) -> np.ndarray:
    """Integers [m] as int64: TypeError for another dtype, ValueError for another shape or size.

    `forms` says in messages what is expected.
    """
    array = ids.detach().cpu().numpy() if isinstance(ids, torch.Tensor) else np.asarray(ids)
    if array.ndim == 0 and not isinstance(ids, Array):
        raise TypeError(f"{name} has type {type(ids).__name__}; expected {forms}")
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; expected a list of ids, [m]")
    if array.size and array.dtype.kind not in "iu":
        beyond = [id for id in ids if isinstance(id, int) and not -(2**63) <= id < 2**63]
        if beyond:
            raise ValueError(f"{name} has {beyond[0]}; expected int64, -2**63 to 2**63 - 1")
        raise TypeError(f"{name} is {array.dtype}; expected integers")
    wide = array.astype(np.int64)
    if array.dtype.kind == "u" and (wide < 0).any():
        raise ValueError(f"{name} go up to {array.max()}; expected int64, at most {2**63 - 1}")
    return wide


def find_row_numbers(wanted: np.ndarray, n: int) -> Found:
    """Find ids among n codes whose ids are their row numbers."""
    last = np.where((wanted >= 0) & (wanted < n), wanted, -1)
    return Found(last[last >= 0], last)


def find_ids(wanted: np.ndarray, held: np.ndarray) -> Found:
    """Find ids among codes whose ids, in row order, are `held`; an id may have several rows."""
    last = np.full(len(wanted), -1, np.int64)
    if not len(wanted):
        return Found(last, last)
    distinct, which = np.unique(wanted, return_inverse=True)
    at = np.minimum(np.searchsorted(distinct, held), len(distinct) - 1)
    rows = np.flatnonzero(distinct[at] == held)
    last_of = np.full(len(distinct), -1, np.int64)
    last_of[at[rows]] = rows  # of several rows the last one stays
    return Found(rows, last_of[which])
