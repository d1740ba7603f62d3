"""CIBHash: two views of an image get one code, and as little else as possible is kept."""

import math
from typing import Unpack

from torch import Tensor

from hashfast.losses._unsupervised import UnsupervisedLoss
from hashfast.losses.contrastive import NTXent
from hashfast.losses.quantization import QuantizationOptions

_MARGIN = 1e-8  # inside the logarithms


class CIBHash(UnsupervisedLoss):
    """Contrastive information bottleneck (Qiu et al., IJCAI 2021).

    An output u is the logit of a bit, p = sigmoid(u), and the codes are sign(u) with the gradient
    of p. The loss is the NT-Xent of the codes of two views, plus

        weight / 2 (KL(p || p2) + KL(p2 || p))

    of the Bernoulli distributions of the bits, summed over the bits and averaged over the batch,
    the second argument of each held fixed. Agrees with qiuzx2/CIBHash (model/CIBHash.py).

    Args:
        bits: length of the outputs.
        temperature: of the cosines.
        weight: of the divergence.
        options: see QuantizationOptions; "original" adds no term.

    Raises ValueError for a temperature that is not positive and a negative weight. Call:
    `criterion(outputs, u2)`, see UnsupervisedLoss.
    """

    head = "mlp"
    needs = ("u2",)

    def __init__(
        self,
        bits: int,
        *,
        temperature: float = 0.3,
        weight: float = 0.001,
        **options: Unpack[QuantizationOptions],
    ) -> None:
        if not (0 < temperature < math.inf and 0 <= weight < math.inf):
            raise ValueError(
                f"temperature={temperature} must be positive and weight={weight} at least 0"
            )
        super().__init__(bits, **options)
        self.weight = weight
        self.contrastive = NTXent(temperature)

    def similarity(self, outputs: Tensor, u2: Tensor) -> Tensor:
        u2 = u2.to(outputs.dtype)
        contrastive = self.contrastive(_codes(outputs), _codes(u2))
        divergence = (_divergence(outputs, u2.detach()) + _divergence(u2, outputs.detach())) / 2
        self.record(contrastive=contrastive, kl=divergence)
        return contrastive + self.weight * divergence


def _codes(logits: Tensor) -> Tensor:
    """The sign of each bit's logit, with the gradient of its probability."""
    probability = logits.sigmoid()
    # A difference with itself is exactly 0, so the codes are exactly -1, 0 and +1.
    return logits.sign().detach() + (probability - probability.detach())


def _divergence(logits: Tensor, others: Tensor) -> Tensor:
    """KL of the bits of `logits` to those of `others`, both [n, bits], mean over the rows."""
    one = logits.sigmoid() * (_log_sigmoid(logits) - _log_sigmoid(others))
    zero = (-logits).sigmoid() * (_log_sigmoid(-logits) - _log_sigmoid(-others))
    return (one + zero).sum(1).mean()


def _log_sigmoid(logits: Tensor) -> Tensor:
    return (logits.sigmoid() + _MARGIN).log()
