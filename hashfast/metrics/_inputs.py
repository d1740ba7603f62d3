"""Checks the codes and labels the metrics are given, in the form the operations take."""

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from hashfast import ops
from hashfast._inputs import Array, Labels, as_codes, check_labels, check_same_width


class Collection(NamedTuple):
    """Codes uint8 [n, B] and what makes them relevant: int64 [n] class ids, or multi-hot rows
    packed into uint8 [n, W]."""

    codes: Tensor
    labels: Tensor

    @classmethod
    def checked(
        cls, codes: Array, labels: Labels, name: str, bits: int | None, device: Any = None
    ) -> Self:
        codes = as_codes(codes, f"{name}_codes", bits)
        labels = _as_labels(labels, f"{name}_labels")
        if len(codes) != len(labels):
            raise ValueError(f"{len(codes)} {name}_codes came with {len(labels)} {name}_labels")
        if len(codes) == 0:
            raise ValueError(f"{name}_codes are empty: there is nothing to average over")
        device = codes.device if device is None else device
        return cls(codes.to(device), labels.to(device))

    def rows(self, rows: slice) -> Self:
        return type(self)(self.codes[rows], self.labels[rows])

    def same(self, other: Self) -> bool:
        return torch.equal(self.codes, other.codes) and torch.equal(self.labels, other.labels)

    def share_a_class(self, other: Self) -> Tensor:
        """Whether each item shares a class with the item of the same row, bool [n]."""
        if self.labels.dim() == 1:
            return self.labels == other.labels
        return (self.labels & other.labels).any(1)


def check_pair(query: Collection, database: Collection) -> None:
    """Raise ValueError unless queries and database have codes and labels of the same kind."""
    check_same_width(query.codes, database.codes)
    if query.labels.shape[1:] != database.labels.shape[1:]:
        raise ValueError(
            "query_labels and database_labels differ in kind or width: "
            "give class ids [n] for both, or multi-hot [n, classes] of the same classes"
        )


def _as_labels(labels: Labels, name: str) -> Tensor:
    labels = check_labels(labels, name=name)
    if labels.ndim == 2:
        # On the CPU NumPy packs several times faster.
        return ops.pack(labels) if labels.is_cuda else torch.from_numpy(ops.pack(labels.numpy()))
    if (labels < 0).any():
        raise ValueError(f"{name} hold the class id {labels.min().item()}; ids start at 0")
    return labels
