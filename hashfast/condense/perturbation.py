"""Network augmentation: new networks from one, by random directions in its weights."""

from typing import Literal, get_args

import torch
from torch import Generator, Tensor, nn

Norm = Literal["filter", "layer", "weight"]
_EPSILON = 1e-10


@torch.no_grad()
def perturb(
    network: nn.Module,
    magnitude: tuple[float, float] = (0.01, 0.09),
    norm: Norm = "filter",
    directions: int = 1,
    generator: Generator | None = None,
) -> None:
    """Move the weights in place along random directions (IEM, Feng et al., ICASSP, eq. 4).

    theta + a d: d is standard normal and scaled by `rescaled`; a has a random sign and is the same
    number for all weights. Parameters with fewer than two dimensions (biases, norms) and buffers
    stay.

    Args:
        network: any floating-point network, on any device.
        magnitude: (low, high), the range of |a|, drawn uniformly.
        norm: see `rescaled`.
        directions: how many a d to add; Acc-DD (ncsu-dk-lab/Acc-DD, weight_perturbation.py) has 2.
        generator: draws on its own device; None is torch's global CPU generator.

    Raises ValueError for an unknown norm, a magnitude that is not 0 <= low <= high, and fewer than
    one direction.
    """
    low, high = magnitude
    if not 0 <= low <= high:
        raise ValueError(f"magnitude is {magnitude}; expected (low, high) with 0 <= low <= high")
    if directions < 1:
        raise ValueError(f"directions is {directions}; expected at least 1")
    _check(norm)
    device = torch.device("cpu") if generator is None else generator.device
    size, sign = torch.rand(2, directions, generator=generator, device=device)
    steps = (low + (high - low) * size) * torch.where(sign < 0.5, -1, 1)
    for weight in network.parameters():
        moves = [
            rescaled(_normal(weight, generator, device), weight, norm) * step
            for step in steps.to(weight)
        ]
        weight.add_(torch.stack(moves).sum(0))


def rescaled(direction: Tensor, weight: Tensor, norm: Norm = "filter") -> Tensor:
    """The direction at the scale of the weight it moves.

    norm: "filter" gives each output filter d_i of a direction d the norm of the filter w_i of the
    weight, d_i ||w_i|| / (||d_i|| + 1e-10); "layer" does the same for the whole tensor; "weight"
    multiplies d by w. Directions with fewer than two dimensions become 0.

    direction, weight: floating point of the same shape and dtype. Raises ValueError for an unknown
    norm.
    """
    _check(norm)
    if weight.dim() < 2:
        return torch.zeros_like(direction)
    if norm == "weight":
        return direction * weight
    dims = list(range(1 if norm == "filter" else 0, weight.dim()))
    lengths = torch.linalg.vector_norm(direction, dim=dims, keepdim=True) + _EPSILON
    return direction * (torch.linalg.vector_norm(weight, dim=dims, keepdim=True) / lengths)


def _normal(like: Tensor, generator: Generator | None, device: torch.device) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=device).to(like)


def _check(norm: str) -> None:
    if norm not in get_args(Norm):
        raise ValueError(f"norm is {norm!r}; expected one of {', '.join(get_args(Norm))}")
