"""Deep Cauchy hashing: a likelihood of Hamming distances that is sharp near zero."""

import math
from typing import Literal, Unpack

import torch
from torch import Tensor

from hashfast.losses._base import HashLoss
from hashfast.losses._functional import balanced_mean, similar, unit_rows, warn_undefined
from hashfast.losses.quantization import QuantizationOptions


class DCH(HashLoss):
    """Cauchy cross-entropy over pairs (Cao et al., CVPR 2018).

    With d_ij = bits / 2 (1 - cos(u_i, u_j)): log(1 + d / gamma) for similar and log(1 + gamma / d)
    for dissimilar pairs of different images, averaged over each kind, and the two means added; plus
    lambda mean log(1 + d(|u|, 1) / gamma). d is at least 1e-6 bits / 2, so that equal codes stay
    finite.

    Args:
        num_classes, bits: at least 1.
        gamma: scale of the Cauchy distribution, in bits.
        variant: "paper", as above; "zoo" (swuxyj/DeepHash-pytorch, DCH.py), which counts an image
            and itself as a similar pair and clamps the cosine at 0.99; "official"
            (thulab/DeepHash, model/dch/dch.py) with d = ||u_i - u_j||^2 + 0.001, similar pairs
            weighted by all pairs / similar pairs, dissimilar ones by 1, and quantisation
            mean((|u| - 1)^2); "official-cosine": the same with d = bits / 2 (1 - cos + 1e-6).
        options: see QuantizationOptions; the default weight lambda of "original" is 0.1.

    A batch of one has no pairs: that part is 0 (not in the "zoo" variant). Raises ValueError for an
    unknown variant and a gamma that is not positive. Call: see HashLoss.
    """

    def __init__(
        self,
        num_classes: int,
        bits: int,
        *,
        gamma: float = 20.0,
        variant: Literal["paper", "zoo", "official", "official-cosine"] = "paper",
        **options: Unpack[QuantizationOptions],
    ) -> None:
        choices = ("paper", "zoo", "official", "official-cosine")
        if variant not in choices:
            raise ValueError(f"unknown variant {variant!r}; choose one of {', '.join(choices)}")
        if not 0 < gamma < math.inf:
            raise ValueError(f"gamma is {gamma}; it must be positive")
        super().__init__(num_classes, bits, original_weight=0.1, **options)
        self.gamma, self.variant = gamma, variant

    def similarity(self, outputs: Tensor, labels: Tensor) -> Tensor:
        n = outputs.shape[0]
        pairs = similar(labels, labels)
        if self.variant == "zoo":
            return balanced_mean(self._cauchy(self._distances(outputs, outputs), pairs), pairs)
        if n < 2:
            warn_undefined("the pairwise term of DCH", n)
            return 0 * outputs.sum()
        different = ~torch.eye(n, dtype=torch.bool, device=outputs.device)
        losses = self._cauchy(self._distances(outputs, outputs), pairs)
        if self.variant == "paper":
            return balanced_mean(losses, pairs, different)
        weight = torch.where(pairs, n * n / pairs.sum().clamp(min=1).to(losses.dtype), 1)
        return (weight * losses).where(different, 0).sum() / (n * (n - 1))

    def original_quantization(self, outputs: Tensor) -> Tensor:
        if self.variant.startswith("official"):
            return (outputs.abs() - 1).square().mean()
        distances = self._distances(outputs.abs(), torch.ones_like(outputs[:1]))
        return (distances / self.gamma).log1p().mean()

    def _cauchy(self, distances: Tensor, pairs: Tensor) -> Tensor:
        """-log of the Cauchy probability gamma / (d + gamma) of similar pairs, or of its rest."""
        return torch.where(pairs, distances / self.gamma, self.gamma / distances).log1p()

    def _distances(self, outputs: Tensor, others: Tensor) -> Tensor:
        """Distance in bits of every row to every row of the others, [n, m]."""
        if self.variant == "official":
            products = outputs @ others.T
            squares = outputs.square().sum(1, keepdim=True) + others.square().sum(1)
            # Rounding can leave a pair of near rows below zero, where its gradient means nothing.
            return (squares - 2 * products).clamp(min=0) + 0.001
        cosine = unit_rows(outputs) @ unit_rows(others).T
        if self.variant == "zoo":
            return self.bits / 2 * (1 - cosine.clamp(max=0.99))
        if self.variant == "official-cosine":
            return self.bits / 2 * (1 - cosine + 1e-6).clamp(min=1e-6)
        return self.bits / 2 * (1 - cosine).clamp(min=1e-6)
