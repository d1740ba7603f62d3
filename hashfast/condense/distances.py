"""Distances between two sets of gradients: what gradient matching makes small."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_Pairs = Sequence[tuple[Tensor, Tensor]]
# Keeps the cosine of an all-zero gradient defined: it is 0.
_EPSILON = 1e-6


def gradient_distance(real: Sequence[Tensor], synthetic: Sequence[Tensor], metric: str) -> Tensor:
    """Distance of the gradients of the same parameters on two batches, a scalar.

    real, synthetic: at least one tensor, of the same shapes; differentiable in both. metric, a name
    in `METRICS`:

    - "rows": sum of 1 - cosine over the rows of every tensor flattened to [outputs, rest]; 1-D
      tensors (biases, norms) do not count. DSA's "ours"; also IDC's "cos", of its convolutions.
    - "cos": 1 - cosine of all tensors joined to one vector.
    - "mse": sum of squared differences (no mean, in spite of its name in the released codes).
    - "l1": sum of absolute differences.
    - "l1_mean": sum over all rows of the mean absolute difference in a row.

    A cosine has 1e-6 added to its denominator. Agrees with match_loss in
    VICO-UoE/DatasetCondensation (utils.py) and dist in snu-mllab/Efficient-Dataset-Condensation
    (condense.py).

    Raises ValueError for an unknown metric, nothing to compare, and tensors that do not match.
    """
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}; choose one of {', '.join(METRICS)}")
    shapes = [[list(gradient.shape) for gradient in side] for side in (real, synthetic)]
    if not shapes[0] or shapes[0] != shapes[1]:
        raise ValueError(
            f"real gradients have shapes {shapes[0]}, synthetic ones {shapes[1]}; expected those "
            "of the same parameters, and at least one"
        )
    return METRICS[metric](list(zip(real, synthetic, strict=True)))


def _rows(pairs: _Pairs) -> Tensor:
    pairs = [pair for pair in pairs if pair[0].dim() > 1]
    if not pairs:
        raise ValueError(
            'metric "rows" compares rows and all gradients are 1-D: choose another metric, or '
            "match weights too"
        )
    return _total([_one_minus_cosine(_by_row(a), _by_row(b)).sum() for a, b in pairs])


def _cosine(pairs: _Pairs) -> Tensor:
    real, synthetic = (
        torch.cat([gradient.reshape(-1) for gradient in side]) for side in zip(*pairs, strict=True)
    )
    return _one_minus_cosine(real, synthetic)


def _squares(pairs: _Pairs) -> Tensor:
    return _total([(a - b).square().sum() for a, b in pairs])


def _absolute(pairs: _Pairs) -> Tensor:
    return _total([(a - b).abs().sum() for a, b in pairs])


def _absolute_by_row(pairs: _Pairs) -> Tensor:
    return _total([_by_row((a - b).abs()).mean(1).sum() for a, b in pairs])


METRICS: dict[str, Callable[[_Pairs], Tensor]] = {
    "rows": _rows,
    "cos": _cosine,
    "mse": _squares,
    "l1": _absolute,
    "l1_mean": _absolute_by_row,
}


def _by_row(gradient: Tensor) -> Tensor:
    return gradient.reshape(len(gradient), -1)


def _one_minus_cosine(real: Tensor, synthetic: Tensor) -> Tensor:
    """Of the vectors along the last dimension."""
    norms = real.norm(dim=-1) * synthetic.norm(dim=-1)
    return 1 - (real * synthetic).sum(-1) / (norms + _EPSILON)


def _total(values: list[Tensor]) -> Tensor:
    return torch.stack(values).sum()
