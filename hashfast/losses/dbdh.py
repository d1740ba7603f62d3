"""DBDH: pairwise likelihood of clamped outputs, with balanced bits."""

from typing import Literal, Unpack

import torch.nn.functional as F
from torch import Tensor

from hashfast.losses._base import HashLoss
from hashfast.losses._functional import similar
from hashfast.losses.quantization import QuantizationOptions


class DBDH(HashLoss):
    """Deep balanced discrete hashing (Zheng, Zhang and Lu, Neurocomputing 2020).

    With theta = <u_i, u_j> / 2: mean of log(1 + e^theta) - s theta over the pairs of the batch with
    the bank, or with itself. The method's own quantisation is to clamp u to [-1, 1] before that and
    to add alpha times a balance term, mean over images of |mean over bits of u|^power; with any
    other `quantization` both are left out. Agrees with swuxyj/DeepHash-pytorch (DBDH.py).

    Args:
        num_classes, bits: at least 1.
        power: p of the balance term, 1 or 2.
        balance: "image" balances the bits of each image, as the released code; "bit" balances each
            bit over the batch, as the paper says.
        bank_size: number of training images, for pairs of the batch with all of them: their last u,
            detached, zeros until seen. Needs `index`. None: the pairs of the batch.
        options: see QuantizationOptions; the default weight alpha of "original" is 0.1.

    Raises ValueError for unknown choices. Call: see HashLoss.
    """

    bank = "default"

    def __init__(
        self,
        num_classes: int,
        bits: int,
        *,
        power: Literal[1, 2] = 2,
        balance: Literal["image", "bit"] = "image",
        bank_size: int | None = None,
        **options: Unpack[QuantizationOptions],
    ) -> None:
        if power not in (1, 2):
            raise ValueError(f"power is {power}; expected 1 or 2")
        if balance not in ("image", "bit"):
            raise ValueError(f"unknown balance {balance!r}; choose 'image' or 'bit'")
        super().__init__(num_classes, bits, original_weight=0.1, **options)
        self.power, self.balance = power, balance
        self.use_bank(bank_size)

    def similarity(self, outputs: Tensor, labels: Tensor, index: Tensor | None = None) -> Tensor:
        if self.quantization == "original":
            outputs = outputs.clamp(-1, 1)
        others, other_labels = self.compared_with(outputs, labels, index)
        pairs = similar(labels, other_labels).to(outputs.dtype)
        return F.binary_cross_entropy_with_logits(outputs @ others.T / 2, pairs)

    def original_quantization(self, outputs: Tensor, index: Tensor | None = None) -> Tensor:
        means = outputs.clamp(-1, 1).mean(1 if self.balance == "image" else 0)
        return (means.abs() if self.power == 1 else means.square()).mean()
