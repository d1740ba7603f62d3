"""What the Hamming operations share: distances in plain PyTorch, and checks of their arguments."""

from collections.abc import Iterator

import torch
from torch import Tensor

from hashfast._inputs import check_codes, check_same_width

PADDING_DISTANCE = 2**31 - 1
_CHUNK_BYTES = 1 << 26


def distance_blocks(query: Tensor, database: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Blocks of Hamming distances int32 [rows, n], with the number of their first query."""
    popcount = torch.tensor([i.bit_count() for i in range(256)], device=query.device)
    rows = max(1, _CHUNK_BYTES // max(database.numel() * 8, 1))
    for start in range(0, len(query), rows):
        block = query[start : start + rows].unsqueeze(1) ^ database
        yield start, popcount[block.int()].sum(-1, dtype=torch.int32)


def related(query_labels: Tensor, database_labels: Tensor) -> Tensor:
    """Which pairs share a class, bool [q, n]: equal ids, or a common bit of packed multi-hot."""
    if query_labels.dim() == 1:
        return query_labels.unsqueeze(1) == database_labels
    return (query_labels.unsqueeze(1) & database_labels).any(-1)


def check_pair(query: Tensor, database: Tensor) -> None:
    """Raise TypeError or ValueError unless both are codes of one width on one device."""
    check_codes(query, "query")
    check_codes(database, "database")
    check_same_width(query, database)
    if query.device != database.device:
        raise ValueError(
            f"query is on {query.device} and database on {database.device}: move one of them"
        )


def check_pair_labels(
    op: str, query: Tensor, database: Tensor, query_labels: Tensor, database_labels: Tensor
) -> None:
    """Raise ValueError unless both have one label a code, of the same kind."""
    for role, codes, labels in (
        ("query", query, query_labels),
        ("database", database, database_labels),
    ):
        expected = {1: torch.int64, 2: torch.uint8}.get(labels.dim())
        if labels.dtype != expected or len(labels) != len(codes):
            raise ValueError(
                f"{op}: {role} labels are {labels.dtype} {tuple(labels.shape)}; "
                f"expected int64 [{len(codes)}] ids or uint8 [{len(codes)}, W] packed multi-hot"
            )
    if query_labels.shape[1:] != database_labels.shape[1:]:
        raise ValueError(
            f"{op}: labels of query {tuple(query_labels.shape)} and database "
            f"{tuple(database_labels.shape)} are of different kinds or widths"
        )
