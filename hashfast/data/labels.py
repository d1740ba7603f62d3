"""Label checks, done once a run so that no loss has to do them every step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Labels = Tensor | np.ndarray | Sequence


def as_labels(labels: Labels) -> Tensor:
    """Class ids as int64 ``[n]`` or multi-hot as float32 ``[n, classes]``; range is not checked.

    Raises TypeError for float or bool class ids, ValueError for any other shape and for
    multi-hot values other than 0 and 1.
    """
    labels = torch.as_tensor(np.asarray(labels) if isinstance(labels, list | tuple) else labels)
    if labels.ndim == 1:
        if labels.numel() == 0:
            return labels.long()
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(
                f"class ids have dtype {_dtype(labels)}; expected integers: convert with .long(), "
                "or pass multi-hot labels of shape [n, classes]"
            )
        return labels.long()
    if labels.ndim != 2 or labels.shape[1] < 2:
        raise ValueError(
            f"labels have shape {list(labels.shape)}; expected class ids [n] or multi-hot "
            "[n, classes]" + ("; use labels.flatten()" if labels.ndim == 2 else "")
        )
    wrong = (labels != 0) & (labels != 1)  # true for NaN as well
    if wrong.any():
        row, column = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"multi-hot labels must be 0 or 1; got {labels[row, column].item()} at row {row}, "
            f"class {column}"
        )
    return labels.float()


def check_labels(labels: Labels, num_classes: int) -> Tensor:
    """Labels in the form the losses take: int64 ids ``[n]`` or float32 multi-hot ``[n, classes]``.

    ``labels`` is a tensor, array or list of integer class ids in ``0 .. num_classes-1``, or a 0/1
    matrix of any dtype with ``num_classes`` columns (a row may be all zero). Raises TypeError for
    float or bool ids and ValueError for a wrong shape, width or value, naming the first bad row.
    """
    labels = as_labels(labels)
    if labels.ndim == 2:
        if labels.shape[1] != num_classes:
            raise ValueError(
                f"multi-hot labels have {labels.shape[1]} columns; expected {num_classes} classes"
            )
        return labels
    wrong = (labels < 0) | (labels >= num_classes)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        hint = ""
        if labels.min() == 1 and labels.max() == num_classes:
            hint = "; ids seem to start at 1: subtract 1"
        raise ValueError(
            f"label {labels[row].item()} at row {row} is out of range; expected class ids "
            f"0 to {num_classes - 1} ({num_classes} classes){hint}"
        )
    return labels


def _dtype(labels: Tensor) -> str:
    return str(labels.dtype).removeprefix("torch.")
