"""Checks of inputs and small numerics shared by the losses. Nothing here waits for the device."""

import warnings
from itertools import chain

import torch
from torch import Tensor, nn


def check_tensor(name: str, value: object) -> None:
    """Raise TypeError unless an input is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a torch.Tensor")


def check_codes(name: str, codes: Tensor, bits: int) -> None:
    """Raise unless codes, or outputs before sign, are floating point [n, bits]."""
    check_tensor(name, codes)
    if not codes.is_floating_point():
        raise TypeError(
            f"{name} is {codes.dtype}; expected floating-point codes of -1 and +1 "
            f"({name}.float()), or outputs before sign"
        )
    if codes.dim() != 2 or codes.shape[1] != bits:
        raise ValueError(
            f"{name} has shape {list(codes.shape)}; expected [n, {bits}]: build the criterion with "
            "the lengths of the student's and the teacher's codes"
        )


def check_outputs(outputs: Tensor, bits: int) -> None:
    """Raise unless `outputs` is floating point [n, bits]."""
    if not isinstance(outputs, Tensor):
        raise TypeError(
            f"outputs are a {type(outputs).__name__}; expected a torch.Tensor [n, {bits}]"
        )
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


def check_held(module: nn.Module, device: torch.device) -> None:
    """Raise unless the parameters and buffers of a loss are where the outputs are."""
    for name, held in chain(module.named_parameters(), module.named_buffers()):
        if held.device != device:
            raise ValueError(
                f"{name} of {type(module).__name__} is on {held.device}, outputs on {device}: call "
                f"criterion.to({str(device)!r}) first"
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


def balanced_mean(losses: Tensor, pairs: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean over the similar pairs plus mean over the others; a kind that is absent adds 0.

    losses [n, m], pairs bool [n, m]; counted bool [n, m]: the pairs that count, all if None.
    """
    kinds = (pairs, ~pairs) if counted is None else (pairs & counted, ~pairs & counted)
    means = [losses.where(kind, 0).sum() / kind.sum().clamp(min=1) for kind in kinds]
    return means[0] + means[1]


def sign_straight_through(values: Tensor) -> Tensor:
    """sign(values), whose gradient is passed on unchanged."""
    # values - values is exactly 0, so the codes are exactly -1, 0 and +1.
    return values.sign().detach() + (values - values.detach())


def unit_rows(values: Tensor) -> Tensor:
    """Rows divided by their Euclidean norm; a zero row stays zero and has zero gradient."""
    square = values.square().sum(1, keepdim=True)
    defined = square != 0  # NaN stays NaN
    return torch.where(defined, values / square.where(defined, 1).sqrt(), 0)


def safe_sqrt(values: Tensor) -> Tensor:
    """Square root with zero, not infinite, gradient at zero."""
    defined = values != 0
    return torch.where(defined, values.where(defined, 1).sqrt(), 0)


def warn_undefined(term: str, rows: int) -> None:
    """Say that a term is 0 because the batch is too small to define it (once per term)."""
    if not torch.compiler.is_compiling():
        warnings.warn(f"{term} is undefined for a batch of {rows}: counted as 0", stacklevel=2)
