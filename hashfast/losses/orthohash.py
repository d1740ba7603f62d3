"""OrthoHash: one cosine cross-entropy against a fixed random codebook."""

from typing import Literal, Unpack

import torch.nn.functional as F
from torch import Tensor

from hashfast.losses._base import HashLoss
from hashfast.losses._functional import multi_hot, unit_rows
from hashfast.losses.centres import bernoulli_codebook, checked_codebook
from hashfast.losses.quantization import QuantizationOptions


class OrthoHash(HashLoss):
    """Cosine softmax with a margin over binary class codes (Hoe et al., NeurIPS 2021).

    Logits are `scale` times the cosine of the outputs and each class's code, less a margin for the
    row's classes; the loss is their cross-entropy. Agrees with kamwoh/orthohash
    (functions/loss/orthohash.py), except that a zero row has cosine 0, not NaN. Meant for the "bn"
    head, which balances the bits.

    Args:
        num_classes, bits: shape of the codebook.
        margin: "cos" subtracts `margin_size` from the cosine, "arc" adds it to the angle (the
            cosine clamped to +-0.99999).
        scale, margin_size: s and m of the paper.
        multi_label: loss of multi-hot labels (class ids always take the cross-entropy).
            "label_smoothing": cross-entropy against labels / their sum (a one-hot row is as its id,
            a row without a class counts 0); "bce": binary cross-entropy of each class;
            "imbalance": the same, with the negatives the model already finds (sigmoid < 0.7)
            weighed 1 / num_classes.
        quan: the released code's optional quantisation term: "cs" (1 - cosine of outputs and their
            signs), "l1" or "l2" (mean distance of outputs and their signs); off by default.
        quan_weight: its default weight.
        codebook: -1 and +1 of shape [num_classes, bits], instead of a random one.
        seed: of the random codebook.
        options: see QuantizationOptions; "original" means `quan`.

    Buffer: codebook int8 [num_classes, bits]. Raises ValueError for unknown choices and a codebook
    of another shape. Call: see HashLoss.
    """

    head = "bn"
    codebook: Tensor

    def __init__(
        self,
        num_classes: int,
        bits: int,
        *,
        margin: Literal["cos", "arc"] = "cos",
        scale: float = 8.0,
        margin_size: float = 0.2,
        multi_label: Literal["label_smoothing", "bce", "imbalance"] = "label_smoothing",
        quan: Literal["cs", "l1", "l2"] | None = None,
        quan_weight: float = 0.1,
        codebook: Tensor | None = None,
        seed: int = 0,
        **options: Unpack[QuantizationOptions],
    ) -> None:
        for name, value, choices in (
            ("margin", margin, ("cos", "arc")),
            ("multi_label", multi_label, ("label_smoothing", "bce", "imbalance")),
            ("quan", quan, (None, "cs", "l1", "l2")),
        ):
            if value not in choices:
                raise ValueError(f"unknown {name} {value!r}; choose one of {choices}")
        original_weight = None if quan is None else quan_weight
        super().__init__(num_classes, bits, original_weight=original_weight, **options)
        self.margin, self.scale, self.margin_size = margin, scale, margin_size
        self.multi_label, self.quan = multi_label, quan
        if codebook is None:
            codebook = bernoulli_codebook(num_classes, bits, seed)
        self.register_buffer("codebook", checked_codebook(codebook, num_classes, bits))

    def similarity(self, outputs: Tensor, labels: Tensor) -> Tensor:
        cosine = unit_rows(outputs) @ self.codebook.to(outputs.dtype).T / self.bits**0.5
        positive = multi_hot(labels, self.num_classes, outputs.dtype)
        margin = self.margin_size * positive
        if self.margin == "cos":
            logits = self.scale * (cosine - margin)
        else:
            logits = self.scale * (cosine.clamp(-0.99999, 0.99999).acos() + margin).cos()
        if labels.dim() == 1:
            return F.cross_entropy(logits, labels.long())
        if self.multi_label == "label_smoothing":
            shares = positive / positive.sum(1, keepdim=True).clamp(min=1)
            return F.cross_entropy(logits, shares)
        if self.multi_label == "bce":
            return F.binary_cross_entropy_with_logits(logits, positive)
        losses = F.binary_cross_entropy_with_logits(logits, positive, reduction="none")
        kept = ((positive == 1) | (logits.sigmoid() >= 0.7)).to(losses.dtype)
        weight = kept + (1 - kept) / self.num_classes
        return (weight * losses).sum() / (weight.sum() + 1e-7)

    def original_quantization(self, outputs: Tensor) -> Tensor:
        signs = outputs.sign().detach()
        if self.quan == "cs":
            return (1 - (unit_rows(outputs) * unit_rows(signs)).sum(1)).mean()
        difference = (outputs - signs).abs()
        return (difference if self.quan == "l1" else difference.square()).mean()
