"""GreedyHash: classify the codes themselves, with the gradient passed straight through sign."""

from typing import Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from hashfast.losses._base import HashLoss
from hashfast.losses._functional import sign_straight_through
from hashfast.losses.quantization import QuantizationOptions


class GreedyHash(HashLoss):
    """Classification of sign(u) by a linear layer (Su et al., NeurIPS 2018).

    Cross-entropy of W sign(u), the gradient passed through sign unchanged (eq. 8), plus
    alpha mean(| |u| - 1 |^3). Multi-hot labels take the binary cross-entropy of each class. Agrees
    with swuxyj/DeepHash-pytorch (GreedyHash.py).

    Args:
        num_classes, bits: shape of the classifier's weight.
        options: see QuantizationOptions; the default weight alpha of "original" is 0.1.

    Parameter: classifier.weight [num_classes, bits]. Call: see HashLoss.
    """

    def __init__(self, num_classes: int, bits: int, **options: Unpack[QuantizationOptions]) -> None:
        super().__init__(num_classes, bits, original_weight=0.1, **options)
        self.classifier = nn.Linear(bits, num_classes, bias=False)

    def similarity(self, outputs: Tensor, labels: Tensor) -> Tensor:
        weight = self.classifier.weight.to(outputs.dtype)
        logits = sign_straight_through(outputs) @ weight.T
        if labels.dim() == 1:
            return F.cross_entropy(logits, labels.long())
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))

    def original_quantization(self, outputs: Tensor) -> Tensor:
        return (outputs.abs() - 1).abs().pow(3).mean()
