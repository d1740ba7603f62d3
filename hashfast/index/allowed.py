"""Which rows a search may return: every accepted form as the bitmap the operations take."""

from collections.abc import Callable, Sequence, Set

import numpy as np
import torch

from hashfast import ops
from hashfast._inputs import Array, to_tensor
from hashfast.index.ids import Found, as_ids, listed

Allowed = Array | Sequence[int] | Set[int]


def as_bitmap(
    allowed: Allowed | None, n: int, find: Callable[[np.ndarray], Found], device: torch.device
) -> torch.Tensor | None:
    """Turn `allowed` into a bitmap of n rows, uint8 [ceil(n / 8)] on `device`; None for all rows.

    Args:
        allowed: bool [n]; integer ids [m], in any order and with repetitions, or a set of them;
            or uint8 [ceil(n / 8)], what `hashfast.pack` makes of bool [n], passed on as it is.
        n: rows searched.
        find: finds the rows of ids.
        device: where the search runs.

    Raises:
        TypeError: another dtype.
        ValueError: another shape, or an id that is not there.
    """
    if allowed is None:
        return None
    allowed = listed(allowed)
    mask = allowed if isinstance(allowed, Array) else np.asarray(allowed)
    if mask.dtype in (torch.uint8, np.uint8):
        _check_shape(
            mask,
            (n + 7) // 8,
            "a bitmap, hashfast.pack of a bool mask; ids must be of a wider integer type",
        )
        return to_tensor(mask).to(device)
    if mask.dtype in (torch.bool, np.bool_):
        _check_shape(mask, n, "one flag for each code, or a list of ids")
        return to_tensor(ops.pack(mask)).to(device)
    ids = as_ids(allowed, "allowed", "a list or array of ids, or a mask")
    rows, last = find(ids)
    if (last < 0).any():
        raise ValueError(
            f"allowed has id {ids[last < 0][0]}, which none of the {n} codes searched has"
        )
    mask = np.zeros(n, bool)
    mask[rows] = True
    return torch.from_numpy(ops.pack(mask)).to(device)


def _check_shape(mask: Array, size: int, what: str) -> None:
    if mask.shape != (size,):
        raise ValueError(
            f"allowed is {str(mask.dtype).removeprefix('torch.')} {list(mask.shape)}; "
            f"expected [{size}]: {what}"
        )
