"""HashNet: weighted pairwise likelihood, with codes that harden as training goes on."""

import math
from typing import Literal, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from hashfast.losses._base import HashLoss
from hashfast.losses._functional import balanced_mean, similar, warn_undefined
from hashfast.losses.quantization import QuantizationOptions

_STEPS_A_SCALE = 200


class HashNet(HashLoss):
    """Pairwise likelihood with continuation (Cao et al., ICCV 2017).

    With v = tanh(scale u) and d = alpha <v_i, v_j>: log(1 + e^d) - s d, averaged over similar and
    over dissimilar pairs, and the two means added (an image and itself are a similar pair). The
    method's own quantisation is the continuation: scale = sqrt(epoch // 20 + 1); with any other
    `quantization` scale is 1. Agrees with swuxyj/DeepHash-pytorch (HashNet.py), and with a memory
    bank with khoadoan106/single_loss_quantization (HashNet.py).

    Args:
        num_classes, bits: at least 1.
        alpha: factor of the inner products.
        variant: "paper", as above; "official" (thuml/HashNet, pytorch/src/loss.py, pairwise_loss):
            pairs are those of the first with the second half of the batch, alpha is 10 / bits, the
            loss of a pair is d (1 - s) where d > 15, similar pairs weigh `positive_weight`, and the
            scale is sqrt(1 + 0.005 step), refreshed every 200 training steps; "updated": the same
            pairs and schedule with alpha 1 and the weights of "paper" (pairwise_loss_updated).
        positive_weight: "class_num" of the official code.
        bank_size: number of training images, for pairs of the batch with all of them: their last v,
            detached, zeros until seen. Needs `index`. Only with "paper".
        options: see QuantizationOptions; "original" is the continuation, which adds no term.

    Buffers: scale, steps, and the bank's. Raises ValueError for unknown choices and a weight that
    is not positive. Call: see HashLoss. In the official variants a batch of one has no pairs: the
    loss is 0.
    """

    bank = "optional"
    scale: Tensor
    steps: Tensor

    def __init__(
        self,
        num_classes: int,
        bits: int,
        *,
        alpha: float | None = None,
        variant: Literal["paper", "official", "updated"] = "paper",
        positive_weight: float = 1.0,
        bank_size: int | None = None,
        **options: Unpack[QuantizationOptions],
    ) -> None:
        defaults = {"paper": 0.1, "official": 10 / bits, "updated": 1.0}
        if variant not in defaults:
            raise ValueError(f"unknown variant {variant!r}; choose one of {', '.join(defaults)}")
        if bank_size is not None and variant != "paper":
            raise ValueError(f"variant={variant!r} compares two half batches and has no bank")
        if not 0 < positive_weight < math.inf:
            raise ValueError(f"positive_weight is {positive_weight}; it must be positive")
        super().__init__(num_classes, bits, **options)
        self.variant, self.positive_weight = variant, positive_weight
        self.alpha = defaults[variant] if alpha is None else alpha
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.use_bank(bank_size)

    def start_epoch(self, epoch: int) -> None:
        if self.quantization == "original" and self.variant == "paper":
            self.scale.fill_((epoch // 20 + 1) ** 0.5)

    def similarity(self, outputs: Tensor, labels: Tensor, index: Tensor | None = None) -> Tensor:
        if self.variant != "paper":
            return self._two_halves(outputs, labels)
        codes = (self.scale.to(outputs.dtype) * outputs).tanh()
        others, other_labels = self.compared_with(codes, labels, index)
        pairs = similar(labels, other_labels)
        return _balanced_likelihood(self.alpha * codes @ others.T, pairs)

    def _two_halves(self, outputs: Tensor, labels: Tensor) -> Tensor:
        n = outputs.shape[0]
        if n < 2:
            warn_undefined("HashNet", n)
            return 0 * outputs.sum()
        scale = self.scale.to(outputs.dtype)
        if self.quantization == "original":
            refreshed = self.steps // _STEPS_A_SCALE * _STEPS_A_SCALE
            scale = (1 + 0.005 * refreshed.to(outputs.dtype)).sqrt()
            self.scale.copy_(scale)
            self.steps += self.training
        codes = (scale * outputs).tanh()
        half = n // 2
        product = self.alpha * codes[:half] @ codes[half:].T
        pairs = similar(labels[:half], labels[half:])
        if self.variant == "updated":
            return _balanced_likelihood(product, pairs)
        s = pairs.to(codes.dtype)
        losses = torch.where(
            product > 15,
            product * (1 - s),
            F.binary_cross_entropy_with_logits(product, s, reduction="none"),
        )
        weight = 1 + (self.positive_weight - 1) * s
        return (weight * losses).sum() / weight.sum()


def _balanced_likelihood(product: Tensor, pairs: Tensor) -> Tensor:
    losses = F.binary_cross_entropy_with_logits(product, pairs.to(product.dtype), reduction="none")
    return balanced_mean(losses, pairs)
