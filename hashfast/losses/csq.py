"""Central similarity quantisation: every class has a fixed binary centre."""

from typing import Literal, Unpack

import torch.nn.functional as F
from torch import Tensor

from hashfast.losses._base import HashLoss
from hashfast.losses._functional import similar, warn_undefined
from hashfast.losses.centres import (
    bernoulli_codebook,
    checked_codebook,
    hash_centres,
    majority_code,
)
from hashfast.losses.quantization import QuantizationOptions

_PAIRWISE_WEIGHT = 0.2


class CSQ(HashLoss):
    """Central similarity quantisation (Yuan et al., CVPR 2020).

    With v = tanh(u) and c the centre of a row's class: mean BCE of (v + 1) / 2 against (c + 1) / 2,
    plus 1e-4 mean((|v| - 1)^2), as in swuxyj/DeepHash-pytorch (CSQ.py). The centre of a multi-label
    row is the sign of the sum of its classes' centres, ties (and rows without a class) by a fixed
    random code.

    Args:
        num_classes, bits: shape of the centres.
        variant: "paper", or "official" (yuanli2333/Hadamard-Matrix-for-hashing: train.py), which
            adds 0.2 times the pairwise likelihood loss between the two halves of the batch, with
            inner products scaled by 10 / bits, and weighs its quantisation term 0.05. A batch of
            one has no pairs: that term is then 0.
        centres: -1 and +1 of shape [num_classes, bits], instead of `hash_centres`.
        seed: of the centres and of the code that breaks ties.
        options: see QuantizationOptions.

    Buffers: centres int8 [num_classes, bits], tie_break int8 [bits]. Raises ValueError for an
    unknown variant, centres of another shape, and fewer codes than classes. Call: see HashLoss.
    """

    centres: Tensor
    tie_break: Tensor

    def __init__(
        self,
        num_classes: int,
        bits: int,
        *,
        variant: Literal["paper", "official"] = "paper",
        centres: Tensor | None = None,
        seed: int = 0,
        **options: Unpack[QuantizationOptions],
    ) -> None:
        if variant not in ("paper", "official"):
            raise ValueError(f"unknown variant {variant!r}; choose 'paper' or 'official'")
        original_weight = 0.05 if variant == "official" else 1e-4
        super().__init__(num_classes, bits, original_weight=original_weight, **options)
        self.variant = variant
        if centres is None:
            centres = hash_centres(num_classes, bits, seed)
        self.register_buffer("centres", checked_codebook(centres, num_classes, bits))
        self.register_buffer("tie_break", bernoulli_codebook(1, bits, seed)[0])

    def target(self, labels: Tensor) -> Tensor:
        """Centre of each row, -1 and +1 of shape [n, bits], int8 or floating point."""
        if labels.dim() == 1:
            return self.centres[labels.long()]
        return majority_code(labels, self.centres, self.tie_break)

    def similarity(self, outputs: Tensor, labels: Tensor) -> Tensor:
        wanted = (self.target(labels).to(outputs.dtype) + 1) / 2
        # (tanh(u) + 1) / 2 = sigmoid(2 u): the stable form of the same cross-entropy.
        centre = F.binary_cross_entropy_with_logits(2 * outputs, wanted)
        if self.variant == "paper":
            return centre
        pairwise = self._pairwise(outputs.tanh(), labels)
        self.record(centre=centre, pairwise=pairwise)
        return centre + _PAIRWISE_WEIGHT * pairwise

    def original_quantization(self, outputs: Tensor) -> Tensor:
        return (outputs.tanh().abs() - 1).square().mean()

    def _pairwise(self, codes: Tensor, labels: Tensor) -> Tensor:
        n = codes.shape[0]
        if n < 2:
            warn_undefined("the pairwise term of CSQ", n)
            return 0 * codes.sum()
        half = n // 2
        product = 10 / self.bits * codes[:half] @ codes[half:].T
        pairs = similar(labels[:half], labels[half:]).to(codes.dtype)
        return F.binary_cross_entropy_with_logits(product, pairs)
