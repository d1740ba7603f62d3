"""Checks what `evaluate` is given and brings it into the form the operations take."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from hashfast import ops

Codes = np.ndarray | Tensor
Labels = np.ndarray | Tensor | Sequence

_LABEL_BYTES = 8


class Collection(NamedTuple):
    """Codes uint8 [n, B] and what makes them relevant: int64 [n] class ids, or multi-hot rows
    packed into uint8 [n, W] with W a multiple of 8."""

    codes: Tensor
    labels: Tensor

    @classmethod
    def checked(cls, codes: Codes, labels: Labels, name: str, device: Any = None) -> Self:
        codes = _as_codes(codes, f"{name}_codes")
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


def check_pair(query: Collection, database: Collection, bits: int | None) -> int:
    """Check that queries and database belong together; returns the number of bits of a code."""
    width, expected = query.codes.shape[1], database.codes.shape[1]
    if width != expected:
        raise ValueError(
            f"query_codes have {width} bytes per code ({8 * width} bits); database_codes have "
            f"{expected} ({8 * expected} bits)"
        )
    if query.labels.shape[1:] != database.labels.shape[1:]:
        raise ValueError(
            "query_labels and database_labels differ in kind or width: "
            "give class ids [n] for both, or multi-hot [n, classes] of the same classes"
        )
    bits = 8 * width if bits is None else bits
    if not 8 * width - 8 < bits <= 8 * width:
        raise ValueError(f"bits is {bits}, which does not fit codes of {width} bytes")
    padding = 0xFF >> (8 - (8 * width - bits))
    if padding and any((side.codes[:, -1] & padding).any() for side in (query, database)):
        raise ValueError(
            f"bits is {bits}, but some of the last {8 * width - bits} bits of the codes are set: "
            "pad with zero bits, as hashfast.pack does"
        )
    return bits


def share_a_class(query_labels: Tensor, labels: Tensor) -> Tensor:
    """Which of `labels` [q, k] or [q, k, W] share a class with their row of `query_labels`."""
    if query_labels.dim() == 1:
        return labels == query_labels.unsqueeze(1)
    query_words, words = query_labels.view(torch.int64), labels.view(torch.int64)
    shared = torch.zeros(labels.shape[:2], dtype=torch.bool, device=labels.device)
    for word in range(words.shape[2]):
        shared |= (words[..., word] & query_words[:, None, word]) != 0
    return shared


def _as_codes(codes: Codes, name: str) -> Tensor:
    if not isinstance(codes, np.ndarray | Tensor):
        raise TypeError(
            f"{name} is a {type(codes).__name__}; expected packed codes, a uint8 array or tensor "
            "[n, bytes per code]"
        )
    if codes.dtype not in (np.uint8, torch.uint8):
        hint = ""
        if codes.dtype in (np.int8, torch.int8):
            hint = "; int8 codes of sentence-transformers: encode with precision='ubinary'"
        raise TypeError(
            f"{name} are {str(codes.dtype).removeprefix('torch.')}; expected packed codes, uint8 "
            f"[n, bytes per code]: use hashfast.pack(outputs){hint}"
        )
    if codes.ndim != 2 or codes.shape[1] == 0:
        raise ValueError(f"{name} have shape {list(codes.shape)}; expected [n, bytes per code]")
    return _tensor(codes)


def _as_labels(labels: Labels, name: str) -> Tensor:
    labels = _tensor(labels)
    if labels.ndim == 2:
        wrong = (labels != 0) & (labels != 1)
        if wrong.any():
            row, column = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"{name} [n, classes] are multi-hot and hold 0 or 1; got "
                f"{labels[row, column].item()} at row {row}, column {column}; class ids are [n]"
            )
        packed = ops.pack(labels != 0)
        return torch.nn.functional.pad(packed, (0, -packed.shape[1] % _LABEL_BYTES))
    if labels.ndim != 1:
        raise ValueError(
            f"{name} have shape {list(labels.shape)}; expected class ids [n] or multi-hot "
            "[n, classes]"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"{name} [n] are class ids and must be integers; got {labels.dtype}")
    if (labels < 0).any():
        raise ValueError(f"{name} hold the class id {labels.min().item()}; ids start at 0")
    return labels.long()


def _tensor(values: Labels) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach()
    values = np.ascontiguousarray(values)
    # torch warns about read-only arrays, such as memory maps, even where nothing writes.
    return torch.from_numpy(values if values.flags.writeable else values.copy())
