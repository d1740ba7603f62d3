"""Checks of inputs and small numerics shared by the losses. Nothing here waits for the device."""

import warnings

import torch
from torch import Tensor


def check_outputs(outputs: Tensor, bits: int) -> None:
    """Raise unless `outputs` is floating point [n, bits]."""
    if not outputs.is_floating_point():
        raise TypeError(
            f"outputs are {outputs.dtype}; expected the floating-point outputs of the hash layer, "
            "before sign"
        )
    if outputs.dim() != 2 or outputs.shape[1] != bits:
        raise ValueError(
            f"outputs have shape {list(outputs.shape)}; expected [n, {bits}]: make the hash layer "
            f"{bits} wide, or build the criterion with the layer's number of bits"
        )


def check_label_form(labels: Tensor, num_classes: int) -> None:
    """Raise unless `labels` are integer class ids [n] or multi-hot [n, num_classes]."""
    if labels.dim() == 1:
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(
                f"labels are {labels.dtype} of shape {list(labels.shape)}; class ids are integers: "
                f"pass labels.long(), or multi-hot labels [n, {num_classes}]"
            )
    elif labels.dim() != 2 or labels.shape[1] != num_classes:
        raise ValueError(
            f"labels have shape {list(labels.shape)}; expected class ids [n] or multi-hot "
            f"[n, {num_classes}]: check num_classes, or squeeze ids of shape [n, 1]"
        )


def check_label_values(labels: Tensor, num_classes: int) -> None:
    """Raise unless ids are below num_classes and multi-hot labels 0 or 1; waits for the device."""
    check_label_form(labels, num_classes)
    if labels.numel() == 0:
        return
    low, high = labels.min().item(), labels.max().item()
    if labels.dim() == 1 and not (low >= 0 and high < num_classes):
        raise ValueError(
            f"labels hold class ids {low} to {high}; num_classes={num_classes} expects ids 0 to "
            f"{num_classes - 1}: renumber the classes from 0 or raise num_classes"
        )
    if labels.dim() == 2 and not ((labels == 0) | (labels == 1)).all():
        raise ValueError(
            f"multi-hot labels hold values from {low} to {high}; expected only 0 and 1: threshold "
            "them first"
        )


def full_precision(values: Tensor) -> Tensor:
    """Half types as float32, others unchanged."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def multi_hot(labels: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """Ids [n] or multi-hot [n, C] as multi-hot [n, C] of `dtype`."""
    if labels.dim() == 1:
        labels = labels[:, None] == torch.arange(num_classes, device=labels.device)
    return labels.to(dtype)


def similar(labels: Tensor, others: Tensor) -> Tensor:
    """Which pairs share a class: bool [n, m] of ids [n], [m] or multi-hot [n, C], [m, C]."""
    if labels.dim() == 1:
        return labels[:, None] == others
    return labels.float() @ others.float().T > 0


def unit_rows(values: Tensor) -> Tensor:
    """Rows divided by their Euclidean norm; a zero row stays zero and has zero gradient."""
    square = values.square().sum(1, keepdim=True)
    defined = square > 0
    return torch.where(defined, values / square.where(defined, 1).sqrt(), 0)


def safe_sqrt(values: Tensor) -> Tensor:
    """Square root with zero, not infinite, gradient at zero."""
    defined = values > 0
    return torch.where(defined, values.where(defined, 1).sqrt(), 0)


def warn_undefined(term: str, rows: int) -> None:
    """Say that a term is 0 because the batch is too small to define it (once per term)."""
    if not torch.compiler.is_compiling():
        warnings.warn(f"{term} is undefined for a batch of {rows}: counted as 0", stacklevel=2)
