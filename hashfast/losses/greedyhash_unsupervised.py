"""GreedyHash without labels: cosines of codes follow cosines of features."""

from typing import Unpack

import torch.nn.functional as F
from torch import Tensor

from hashfast.losses._functional import sign_straight_through, unit_rows, warn_undefined
from hashfast.losses._unsupervised import UnsupervisedLoss
from hashfast.losses.quantization import QuantizationOptions


class GreedyHashUnsupervised(UnsupervisedLoss):
    """Cosines of codes against cosines of features (Su et al., NeurIPS 2018).

    Row i of the first half of a batch is paired with row i of its second half: mean squared
    difference of the cosine of their codes sign(u), the gradient passed through sign unchanged, and
    the cosine of their features; plus alpha mean(| |u| - 1 |^3). Agrees with ssppp/GreedyHash
    (unsupervised_vgg.py). The last row of an odd batch has no partner and is left out of the
    cosines; a batch of one has no pair: that term is then 0.

    Args:
        bits: length of the outputs.
        options: see QuantizationOptions; the default weight alpha of "original" is 0.1.

    Call: `criterion(outputs, features=...)`, see UnsupervisedLoss.
    """

    needs = ("features",)

    def __init__(self, bits: int, **options: Unpack[QuantizationOptions]) -> None:
        super().__init__(bits, original_weight=0.1, **options)

    def similarity(self, outputs: Tensor, features: Tensor) -> Tensor:
        return half_cosine_gap(sign_straight_through(outputs), features)

    def original_quantization(self, outputs: Tensor, features: Tensor) -> Tensor:
        return (outputs.abs() - 1).abs().pow(3).mean()


def half_cosine_gap(codes: Tensor, features: Tensor) -> Tensor:
    """Mean squared difference of the cosines of codes [n, bits] and of features [n, F], a scalar.

    The cosines are those of the first n // 2 rows with the next n // 2; fewer than 2 rows give 0,
    attached to the graph.
    """
    n = codes.shape[0]
    if n < 2:
        warn_undefined("the cosine of the two halves of a batch", n)
        return 0 * codes.sum()
    return F.mse_loss(_half_cosines(codes), _half_cosines(features.to(codes.dtype)))


def _half_cosines(rows: Tensor) -> Tensor:
    half = rows.shape[0] // 2
    rows = unit_rows(rows)
    return (rows[:half] * rows[half : 2 * half]).sum(1)
