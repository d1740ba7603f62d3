"""Measures of the codes themselves: no labels, no ranking."""

import numpy as np
import torch
from torch import Tensor


def quantization_error(outputs: Tensor | np.ndarray) -> float:
    """Mean angle, in radians, between real-valued outputs and their codes sign(u) (HSWD, Figure 5).

    outputs: [n, b], floating point, before or after squashing; 0 means every output is +-c already.
    An output of 0 adds the same to the angle whichever side its bit falls; an all-zero row counts
    pi/2. Computed in float64. Raises TypeError unless floating point, ValueError for another shape,
    no rows, or NaN and infinite values.
    """
    u = torch.as_tensor(outputs).detach()
    if not u.is_floating_point():
        raise TypeError(f"outputs are {u.dtype}; expected the floating-point outputs before sign")
    if u.dim() != 2 or u.numel() == 0:
        raise ValueError(f"outputs have shape {list(u.shape)}; expected [n, bits], not empty")
    u = u.double().abs()
    wrong = ~u.isfinite().all(1)
    if wrong.any():
        raise ValueError(f"outputs hold NaN or infinity, first at row {int(wrong.nonzero()[0])}")
    direction = u / u.norm(dim=1, keepdim=True).clamp(min=torch.finfo(u.dtype).tiny)
    code = u.shape[1] ** -0.5
    # Exact near 0, where the arc cosine of the inner product loses half the digits.
    angle = 2 * torch.atan2((direction - code).norm(dim=1), (direction + code).norm(dim=1))
    return float(angle.mean())


def bit_rates(codes: Tensor, bits: int) -> Tensor:
    """Share of codes in which each bit is 1: uint8 [n, B] -> float64 [bits]."""
    counts = torch.stack([column.bincount(minlength=256) for column in codes.unbind(1)]).double()
    values = torch.arange(256, device=codes.device).unsqueeze(1)
    shifts = torch.arange(7, -1, -1, device=codes.device)
    ones = counts @ ((values >> shifts) & 1).double()
    return ones.flatten()[:bits] / len(codes)


def bit_entropy(rates: Tensor) -> float:
    """Mean over bits of the entropy, in bits, of a bit that is 1 at its rate: 1 is balanced."""
    sides = torch.stack([rates, 1 - rates])
    return float(-torch.special.xlogy(sides, sides).sum(0).mean() / np.log(2))


def bit_balance(rates: Tensor) -> float:
    """1 - mean over bits of |2 rate - 1|: 1 when every bit splits the codes in half, 0 if none."""
    return float(1 - (2 * rates - 1).abs().mean())


def distinct(codes: Tensor) -> int:
    """How many different codes there are: uint8 [n, B], n > 0.

    A word at a time, sorting is many times faster than torch.unique(dim=0).
    """
    words = torch.nn.functional.pad(codes, (0, -codes.shape[1] % 8)).view(torch.int64)
    order = torch.arange(len(codes), device=codes.device)
    for word in words.unbind(1):
        order = order[word[order].argsort(stable=True)]
    ranked = words[order]
    return 1 + int((ranked[1:] != ranked[:-1]).any(1).sum())
