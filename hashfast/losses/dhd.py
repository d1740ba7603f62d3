"""Deep hash distillation: proxies learned on a weakly augmented view, distilled to a strong one."""

import math
from typing import Unpack

import torch
from torch import Tensor, nn

from hashfast.losses._base import HashLoss
from hashfast.losses._functional import multi_hot, unit_rows
from hashfast.losses.quantization import QuantizationOptions
from hashfast.ops import masked_contrastive


class DHD(HashLoss):
    """Hash proxies and self-distilled hashing (Jang, Gu, Ko and Cho, ECCV 2022).

    The outputs are those of the weakly augmented teacher view, `u_student` those of the strongly
    augmented student view of the same images, both from the "dhd" head, which ends in tanh:

        HP   = -mean over images of sum_c y_c / |y| log softmax_c(cos(h_T, proxy_c) / tau)
        SdH  = mean(1 - cos(h_S, h_T)), h_T held fixed
        BCEQ = BCE(g+, t) + BCE(g-, 1 - t) with
               g+- = exp(-((h_T -+ 1) / sigma)^2 / 2), t = (sign h_T + 1) / 2
        loss = HP + distill_weight SdH + weight BCEQ

    Agrees with youngkyunJang/Deep-Hash-Distillation (loss.py, main_DHD.py). A row without a class
    counts 0 in HP.

    Args:
        num_classes, bits: shape of the proxies.
        tau: temperature: the more classes a data set has, the lower (0.2 for ImageNet, 0.6 for
            NUS-WIDE, 0.4 for COCO).
        distill_weight: lambda_1.
        sigma: width of the two Gaussians.
        options: see QuantizationOptions; "original" is BCEQ with default weight lambda_2 = 0.1.

    Parameter: proxies [num_classes, bits], Xavier-initialised. Raises ValueError for a tau or sigma
    that is not positive. Call: `criterion(outputs, labels, u_student=...)`, see HashLoss.
    """

    head = "dhd"
    needs = ("u_student",)

    def __init__(
        self,
        num_classes: int,
        bits: int,
        *,
        tau: float = 0.2,
        distill_weight: float = 0.1,
        sigma: float = 0.5,
        **options: Unpack[QuantizationOptions],
    ) -> None:
        if not (0 < tau < math.inf and 0 < sigma < math.inf):
            raise ValueError(f"tau={tau} and sigma={sigma} must both be positive")
        super().__init__(num_classes, bits, original_weight=0.1, **options)
        self.tau, self.distill_weight, self.sigma = tau, distill_weight, sigma
        self.proxies = nn.Parameter(torch.empty(num_classes, bits))
        nn.init.xavier_uniform_(self.proxies)

    def similarity_terms(
        self, outputs: Tensor, labels: Tensor, u_student: Tensor
    ) -> dict[str, Tensor]:
        proxy = self._proxy_entropy(outputs, labels).mean()
        distilled = (1 - (unit_rows(u_student) * unit_rows(outputs.detach())).sum(1)).mean()
        self.record(proxy=proxy, distillation=distilled)
        return {"proxy": proxy, "distillation": self.distill_weight * distilled}

    def _proxy_entropy(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """HP of each image, [n], without the matrix of its cosines with all proxies."""
        proxies = self.proxies.to(outputs.dtype)
        normaliser = masked_contrastive(outputs, proxies, self.tau)
        proxies = unit_rows(proxies)
        if labels.dim() == 1:
            wanted = proxies[labels.long()]
        else:
            positive = multi_hot(labels, self.num_classes, outputs.dtype)
            share = positive / positive.sum(1, keepdim=True).clamp(min=1)
            wanted, normaliser = share @ proxies, share.sum(1) * normaliser
        return normaliser - (unit_rows(outputs) * wanted).sum(1) / self.tau

    def original_quantization(self, outputs: Tensor, u_student: Tensor) -> Tensor:
        target = (outputs.detach().sign() + 1) / 2
        return self._entropy(outputs - 1, target) + self._entropy(outputs + 1, 1 - target)

    def _entropy(self, distance: Tensor, target: Tensor) -> Tensor:
        """BCE of g = exp(-(distance / sigma)^2 / 2) against its target, from log g.

        F.binary_cross_entropy would stop a CUDA device for good at a NaN, which must come out.
        """
        log_g = -(distance / self.sigma).square() / 2
        log_rest = (-torch.expm1(log_g.clamp(max=-1e-12))).log()
        return -(target * log_g + (1 - target) * log_rest).mean()
