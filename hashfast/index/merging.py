"""Results of several parts of the codes joined into those of all codes.

Equal distances keep the order of the parts, and within a part the order that it gave. So where each
part's results are ordered by (distance, row), and the parts follow one another in the rows, the
joined ones are those of all codes to the bit, whatever ids the rows have.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from hashfast import _distributed
from hashfast.index.checks import NO_DISTANCE, NO_ID

_ROWS = torch.contiguous_format
Hits = tuple[Tensor, Tensor, Tensor]
"""limits int64 [q + 1], distances int32 and ids int64 [limits[-1]], as of range_search."""


def merge_topk(parts: Sequence[tuple[Tensor, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of all parts out of the nearest of each. Never waits for a GPU.

    Args:
        parts: distances int32 [q, k_i] and ids int64 [q, k_i] of each, padded or not: its k
            nearest, or all where it has fewer.
        k: neighbours wanted.

    Returns:
        distances int32 [q, k] and ids int64 [q, k], padded with distance 2**31 - 1 and id -1 where
        the parts together have fewer.
    """
    if len(parts) == 1:
        return padded(*parts[0], k)
    distances, ids = (torch.cat(columns, dim=1) for columns in zip(*parts, strict=True))
    distances, order = distances.sort(dim=1, stable=True)
    return padded(distances[:, :k], ids.gather(1, order[:, :k]), k)


def merge_ranges(parts: Sequence[Hits]) -> Hits:
    """The hits in all parts out of those in each."""
    if len(parts) == 1:
        return parts[0]
    limits, distances, ids = zip(*parts, strict=True)
    counts = torch.stack([bounds.diff() for bounds in limits])
    queries = torch.arange(counts.shape[1], device=counts.device)
    query = torch.cat([queries.repeat_interleave(count) for count in counts])
    distance = torch.cat(distances)
    order = ((query << 32) | distance).argsort(stable=True)
    return _limits(counts.sum(0)), distance[order], torch.cat(ids)[order]


def join_ranges(blocks: Sequence[Hits]) -> Hits:
    """The hits of blocks of queries that follow one another."""
    limits, distances, ids = zip(*blocks, strict=True)
    counts = torch.cat([bounds.diff() for bounds in limits])
    return _limits(counts), torch.cat(distances), torch.cat(ids)


def padded(distances: Tensor, ids: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Results [q, m] as [q, k], of k >= m neighbours."""
    if distances.shape[1] == k:
        return distances, ids
    missing = (0, k - distances.shape[1])
    return pad(distances, missing, value=NO_DISTANCE), pad(ids, missing, value=NO_ID)


def gather_topk(distances: Tensor, ids: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`merge_topk` of the parts of all processes, [q, m <= k] of each; in every process."""
    q, m = distances.shape
    if not _distributed.is_distributed() or not q * m:
        return padded(distances, ids, k)
    # Both at once: few queries wait for the network's delays only.
    sent = torch.cat([distances, ids.contiguous().view(torch.int32)], dim=1)
    parts = _distributed.gather_rows(sent, [q] * _distributed.world()).split(q)
    # A slice of one row is contiguous as it is, but may begin in the middle of an int64.
    return merge_topk(
        [(p[:, :m], p[:, m:].clone(memory_format=_ROWS).view(torch.int64)) for p in parts], k
    )


def gather_ranges(limits: Tensor, distances: Tensor, ids: Tensor) -> Hits:
    """`merge_ranges` of the parts of all processes; in every process."""
    q = len(limits) - 1
    if not _distributed.is_distributed() or not q:
        return limits, distances, ids
    counts = _distributed.gather_rows(limits.diff(), [q] * _distributed.world()).split(q)
    sizes = [int(count.sum()) for count in counts]
    gathered = [_distributed.gather_rows(column, sizes).split(sizes) for column in (distances, ids)]
    return merge_ranges(list(zip(map(_limits, counts), *gathered, strict=True)))


def _limits(counts: Tensor) -> Tensor:
    return pad(counts.cumsum(0), (1, 0))
