"""Deep polarised network: a hinge that keeps every bit away from zero, on its target's side."""

import math
from typing import Literal, Unpack

import torch
from torch import Tensor

from hashfast.losses._base import HashLoss
from hashfast.losses._functional import full_precision, multi_hot
from hashfast.losses.centres import (
    bernoulli_codebook,
    checked_codebook,
    majority_code,
    separated_centres,
)
from hashfast.losses.quantization import QuantizationOptions


class DPN(HashLoss):
    """Polarisation loss with a target code for each class (Fan et al., IJCAI 2020).

    max(0, m - u t) for every bit u and its target t of -1 or +1, summed over the bits and averaged
    over images; with multi-hot labels also summed over the row's classes, as in kamwoh/dpn
    (scripts/train_hashing.py). It has no other quantisation.

    Args:
        num_classes, bits: shape of the targets.
        margin: m.
        reduction: "sum" over the bits, or "mean" as in swuxyj/DeepHash-pytorch (DPN.py), where the
            target of a multi-label row is the sign of the sum of its classes' targets, ties (and
            rows without a class) by a fixed random code.
        ternary: bits with |u| <= m count as 0 and the others as their sign, as that code's ternary
            assignment: it measures, and has no gradient.
        targets: -1 and +1 of shape [num_classes, bits], instead of `separated_centres`.
        seed: of the targets and of the code that breaks ties.
        options: see QuantizationOptions; "original" adds nothing.

    Buffers: targets int8 [num_classes, bits] (0 where `update_targets` found a tie), tie_break int8
    [bits]. Raises ValueError for an unknown reduction, a margin that is not positive, targets of
    another shape, and fewer codes than classes. Call: see HashLoss.
    """

    targets: Tensor
    tie_break: Tensor

    def __init__(
        self,
        num_classes: int,
        bits: int,
        *,
        margin: float = 1.0,
        reduction: Literal["sum", "mean"] = "sum",
        ternary: bool = False,
        targets: Tensor | None = None,
        seed: int = 0,
        **options: Unpack[QuantizationOptions],
    ) -> None:
        if reduction not in ("sum", "mean"):
            raise ValueError(f"unknown reduction {reduction!r}; choose 'sum' or 'mean'")
        if not 0 < margin < math.inf:
            raise ValueError(f"margin is {margin}; it must be positive")
        super().__init__(num_classes, bits, **options)
        self.margin, self.reduction, self.ternary = margin, reduction, ternary
        if targets is None:
            targets = separated_centres(num_classes, bits, seed)
        self.register_buffer("targets", checked_codebook(targets, num_classes, bits))
        self.register_buffer("tie_break", bernoulli_codebook(1, bits, seed)[0])

    def target(self, labels: Tensor) -> Tensor:
        """Target of each row by reduction "mean": [n, bits], -1 and +1 (0: see `targets`)."""
        if labels.dim() == 1:
            return self.targets[labels.long()]
        return majority_code(labels, self.targets, self.tie_break)

    def similarity(self, outputs: Tensor, labels: Tensor) -> Tensor:
        if self.ternary:
            outputs = outputs.sign() * (outputs.abs() > self.margin) + 0 * outputs
        if self.reduction == "mean" or labels.dim() == 1:
            losses = (self.margin - outputs * self.target(labels).to(outputs.dtype)).clamp(min=0)
            return losses.mean() if self.reduction == "mean" else losses.sum(1).mean()
        # The sum over a row's classes of max(0, m - u t): by bit, so many of its classes want +1,
        # so many -1, and so many neither.
        positive = multi_hot(labels, self.num_classes, outputs.dtype)
        targets = self.targets.to(outputs.dtype)
        total = 0 * outputs.sum()
        for value in (-1, 0, 1):
            count = positive @ (targets == value).to(outputs.dtype)
            total = total + (count * (self.margin - value * outputs).clamp(min=0)).sum()
        return total / len(outputs)

    @torch.no_grad()
    def update_targets(self, outputs: Tensor, labels: Tensor, keep: float = 1.0) -> None:
        """Move each class's target to the majority of its images' codes.

        outputs [n, bits] and labels, ids [n] or multi-hot, of the training set. Of each class the
        share `keep` in (0, 1] of images nearest to the old target counts; a tied bit becomes 0, and
        a class without images keeps its target. Raises as a call does. Source: kamwoh/dpn,
        update_centroid.
        """
        if not 0 < keep <= 1:
            raise ValueError(f"keep is {keep}; expected a share of the images, in (0, 1]")
        self._checked_inputs(outputs, labels)
        self.check_labels(labels)
        codes = full_precision(outputs).sign()
        rows, classes = torch.arange(len(labels), device=labels.device), labels.long()
        if labels.dim() == 2:
            rows, classes = labels.nonzero().T
        counts = classes.bincount(minlength=self.num_classes).tolist()
        rows_by_class = rows[classes.argsort(stable=True)].split(counts)
        for label, own in enumerate(rows_by_class):
            if not len(own):
                continue
            members = codes[own]
            old = self.targets[label].to(codes.dtype)
            polarised = (self.margin - members * old).clamp(min=0).mean(1)
            count = max(1, int(keep * len(members)))
            kept = members[polarised.argsort(stable=True)[:count]]
            self.targets[label] = kept.sum(0).sign().to(self.targets.dtype)
