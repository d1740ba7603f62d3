"""Distributional quantisation: one Wasserstein term that replaces a method's own (paper: HSWD).

Doan, Yang, Li: One Loss for Quantization: Deep Hashing with Discrete Wasserstein Distributional
Matching, CVPR 2022; released code khoadoan106/single_loss_quantization.
"""

from typing import Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hashfast import ops
from hashfast.losses._functional import check_outputs, full_precision, safe_sqrt, unit_rows

# Weight of HSWD and SWD beside the similarity loss.
DISTRIBUTION_WEIGHT = 0.1
# Projected values held at a time by SWD (float32 values, their order and temporaries: ~25 MB).
_PROJECTED_VALUES = 2**20


class HSWD(nn.Module):
    """Hash Sliced-Wasserstein distance of a batch to the uniform distribution on {-1, +1}^bits.

    Each column is sorted and compared with a sorted column of -1 and +1; the result is the mean
    squared difference over rows and columns. Drop-in: `HSWD(bits=64)(outputs)`.

    Args:
        bits: number of columns.
        target: "random" draws the number of -1 of each column from Binomial(n, 1/2) at each call
            (from torch's global generator); "balanced" fixes it at n / 2, which has lower variance
            (the median of an odd batch is pulled to 0); "signs" takes the signs of the batch
            itself, a column sorted by itself, so that every output is pulled to its own sign.
        root: return the square root, eq. 7 of the paper, instead of its square, which the released
            code uses. The gradient at distance 0 is 0.

    Call: outputs [n, bits], floating point -> scalar (float32 for half types); an empty batch gives
    0. Raises TypeError or ValueError for other outputs. Agrees with `quantization_swdc_loss` of the
    released code for the same numbers of -1, and with `quantization_swdc_signed_loss` ("signs").
    """

    def __init__(
        self,
        bits: int,
        target: Literal["random", "balanced", "signs"] = "random",
        root: bool = False,
    ) -> None:
        super().__init__()
        if target not in ("random", "balanced", "signs"):
            raise ValueError(f"unknown target {target!r}; choose 'random' or 'balanced' or 'signs'")
        self.bits, self.target, self.root = bits, target, root

    def forward(self, outputs: Tensor) -> Tensor:
        check_outputs(outputs, self.bits)
        if self.target == "signs":
            squared = _distance_to_signs(outputs)
        else:
            seed = None
            if self.target == "random":
                seed = torch.randint(2**63 - 1, (), dtype=torch.int64, device=outputs.device)
            squared = ops.binary_wasserstein(outputs, seed=seed, mean=True)[0]
        return safe_sqrt(squared) if self.root else squared

    def extra_repr(self) -> str:
        return f"bits={self.bits}, target={self.target!r}, root={self.root}"


def _distance_to_signs(outputs: Tensor) -> Tensor:
    """Sorting keeps the signs in order, so each output meets its own; sign(0) is 0."""
    outputs = full_precision(outputs)
    if outputs.shape[0] == 0:
        return outputs.sum()
    with torch.autocast(outputs.device.type, enabled=False):
        return (outputs - outputs.detach().sign()).square().mean()


class SWD(nn.Module):
    """Sliced-Wasserstein distance of a batch to random +-1 codes, along random directions.

    Outputs and as many uniform random codes are projected on `num_projections` random unit
    vectors, sorted, and compared: the mean squared difference. Directions and codes are drawn at
    each call from torch's global generator. Memory is bounded for any batch and `num_projections`
    (projections are taken a chunk at a time). Drop-in: `SWD(bits=64)(outputs)`.

    Args:
        bits: number of columns.
        num_projections: the paper finds 1,000 to 10,000 best.
        root: return the square root, eq. 6 of the paper; the released code returns its square.

    Call: as HSWD. Agrees with `quantization_swd_loss` of the released code.
    """

    def __init__(self, bits: int, num_projections: int = 10_000, root: bool = False) -> None:
        super().__init__()
        if num_projections < 1:
            raise ValueError(f"num_projections is {num_projections}; expected at least 1")
        self.bits, self.num_projections, self.root = bits, num_projections, root

    def forward(self, outputs: Tensor) -> Tensor:
        check_outputs(outputs, self.bits)
        if outputs.shape[0] == 0:
            return full_precision(outputs).sum()
        with torch.autocast(outputs.device.type, enabled=False):
            outputs = full_precision(outputs)
            coins = torch.randint(2, outputs.shape, device=outputs.device)
            directions = outputs.new_empty(self.num_projections, self.bits).normal_()
            squared = sliced_wasserstein(
                outputs, (2 * coins - 1).to(outputs.dtype), unit_rows(directions)
            )
        return safe_sqrt(squared) if self.root else squared

    def extra_repr(self) -> str:
        return f"bits={self.bits}, num_projections={self.num_projections}, root={self.root}"


def sliced_wasserstein(outputs: Tensor, target: Tensor, directions: Tensor) -> Tensor:
    """Mean squared difference of the sorted projections of two samples.

    outputs, target [n, b], n > 0; directions [L, b], of unit length -> scalar. Source: paper eq. 6
    without the root.
    """
    if not (target.requires_grad or directions.requires_grad):
        return _SlicedWasserstein.apply(outputs, target, directions)
    total = outputs.new_zeros(())
    for part in directions.split(_chunk(outputs)):
        total = total + checkpoint(
            _projected_square, outputs, target, part, use_reentrant=False, preserve_rng_state=False
        )
    return total / directions.shape[0]


def _chunk(outputs: Tensor) -> int:
    """Directions at a time."""
    return max(1, _PROJECTED_VALUES // outputs.shape[0])


def _projected_square(outputs: Tensor, target: Tensor, directions: Tensor) -> Tensor:
    """Sum over directions of the mean squared sorted difference."""
    ours = (directions @ outputs.T).sort(dim=1).values
    theirs = (directions @ target.T).sort(dim=1).values
    return (ours - theirs).square().sum() / outputs.shape[0]


class _SlicedWasserstein(torch.autograd.Function):
    """`sliced_wasserstein` as a function of the outputs alone, projected and sorted only once.

    With the order of the projections fixed, the gradient is linear in the outputs, and summed up
    over the directions it is as small as the outputs: it is computed beside the value.
    """

    @staticmethod
    def forward(ctx, outputs, target, directions):
        total, gradient = outputs.new_zeros(()), torch.zeros_like(outputs)
        for part in directions.split(_chunk(outputs)):
            ours, order = (part @ outputs.T).sort(dim=1)
            gaps = ours.sub_((part @ target.T).sort(dim=1).values)
            total += gaps.square().sum()
            gradient.addmm_(torch.empty_like(gaps).scatter_(1, order, gaps).T, part)
        scale = 1 / (outputs.shape[0] * directions.shape[0])
        ctx.save_for_backward(outputs, directions, gradient.mul_(2 * scale))
        return total * scale

    @staticmethod
    def backward(ctx, grad):
        outputs, directions, gradient = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is asked for: add its zero
            second = directions.T @ directions * (2 / (outputs.shape[0] * directions.shape[0]))
            gradient = gradient + (outputs - outputs.detach()) @ second
        return grad * gradient, None, None


class QuantizationOptions(TypedDict, total=False):
    """Arguments every method takes for its quantisation term.

    quantization: "original" (the method's own term), "hswd" or "swd" (which replace it), "none", or
        a module of your own called with the outputs, as `HSWD(64, target="balanced")`.
    quantization_weight: its weight; by default 0.1 for a distributional term and the method's own
        weight for the original.
    quantization_on: what a distributional term sees: "raw" outputs (the released code) or
        "squashed" by tanh (the paper's text).
    """

    quantization: str | nn.Module
    quantization_weight: float | None
    quantization_on: Literal["raw", "squashed"]


def resolve_quantization(
    choice: str | nn.Module, weight: float | None, bits: int, original_weight: float | None
) -> tuple[str, nn.Module | None, float | None]:
    """The one place where `quantization=` is understood: (name, module, weight).

    module is None where the method's own term, or none, is meant; weight is None where there is no
    term at all. `original_weight` is the method's own weight, None for a method without a term.
    """
    module: nn.Module | None = None
    default: float | None = DISTRIBUTION_WEIGHT
    if isinstance(choice, nn.Module):
        name, module = type(choice).__name__.lower(), choice
    elif choice == "hswd":
        name, module = choice, HSWD(bits)
    elif choice == "swd":
        name, module = choice, SWD(bits)
    elif choice in ("original", "none"):
        name, default = choice, original_weight if choice == "original" else None
    else:
        raise ValueError(
            f"unknown quantization {choice!r}; choose 'original', 'hswd', 'swd', 'none', or pass a "
            "module"
        )
    if weight is not None and default is None:
        raise ValueError(
            f"quantization_weight={weight} has nothing to weigh: quantization={name!r} adds no "
            "term to this method; choose 'hswd' or 'swd', or leave the weight out"
        )
    return name, module, default if weight is None else weight
