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
