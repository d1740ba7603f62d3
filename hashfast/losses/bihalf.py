"""Bi-half: every bit is +1 for one half of a batch and -1 for the other."""

import math
from typing import Unpack

import torch
from torch import Tensor

from hashfast.losses._unsupervised import UnsupervisedLoss
from hashfast.losses.greedyhash_unsupervised import half_cosine_gap
from hashfast.losses.quantization import QuantizationOptions


class BiHalf(UnsupervisedLoss):
    """Half of each bit's values become +1 (Li and van Gemert, AAAI 2021).

    With B = `half_codes(u)`: mean squared difference of the cosines of codes and of features, as
    GreedyHashUnsupervised takes it, on B instead of sign(u). Its gradient reaches u as

        dL/dB + gamma (u - B) / (n bits)

    that is unchanged, and with a pull towards the codes that adds nothing to the value. Agrees with
    liyunqianggyn/Deep-Unsupervised-Image-Hashing (ImageHashing/Cifar10_I.py); here the pull scales
    with the loss, as a scaler of half-precision gradients needs. A code at test time is the sign of
    its own outputs, whatever the batch. A batch of one has no half: the loss is then 0.

    Args:
        bits: length of the outputs.
        gamma: strength of the pull.
        options: see QuantizationOptions; "original" adds no term.

    `components` adds "pull", gamma mean((u - B)^2) / 2, whose gradient that part is. Raises
    ValueError for a negative gamma. Call: `criterion(outputs, features=...)`, see UnsupervisedLoss.
    """

    needs = ("features",)

    def __init__(
        self, bits: int, *, gamma: float = 6.0, **options: Unpack[QuantizationOptions]
    ) -> None:
        if not 0 <= gamma < math.inf:
            raise ValueError(f"gamma is {gamma}; expected 0 or a positive number")
        super().__init__(bits, **options)
        self.gamma = gamma

    def similarity(self, outputs: Tensor, features: Tensor) -> Tensor:
        codes = half_codes(outputs)
        gap = half_cosine_gap(codes + (outputs - outputs.detach()), features)
        if len(outputs) < 2:
            return gap
        pull = self.gamma / 2 * (outputs - codes).square().mean()
        self.record(pull=pull)
        return gap + (pull - pull.detach())


def half_codes(outputs: Tensor) -> Tensor:
    """+1 for the n // 2 largest values of each column of outputs [n, bits], -1 for the others.

    Of equal values those of the first rows are the larger; NaN stays NaN. No gradient is kept.
    """
    with torch.no_grad():
        order = outputs.sort(dim=0, descending=True, stable=True).indices
        rank = torch.arange(len(outputs), device=outputs.device)[:, None].expand_as(order)
        first = torch.empty_like(order).scatter_(0, order, rank) < len(outputs) // 2
        codes = torch.where(first, 1.0, -1.0).to(outputs.dtype)
        return codes.where(~outputs.isnan(), outputs)
