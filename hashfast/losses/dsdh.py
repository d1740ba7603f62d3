"""Deep supervised discrete hashing: codes solved bit by bit, from which labels are predicted."""

from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from hashfast.losses._base import HashLoss
from hashfast.losses._functional import multi_hot, similar
from hashfast.losses.quantization import QuantizationOptions


class DSDH(HashLoss):
    """Pairwise likelihood with discrete codes and a linear classifier (Li et al., NeurIPS 2017).

    With theta = <u_i, u_j> / 2 over the pairs of the batch with the bank:

        mean(log(1 + e^theta) - s theta) + mu mean((Y - B W)^2) + nu mean(W^2) + eta mean((B - u)^2)

    W [bits, classes] and the codes B [images, bits] of the whole bank are constants of a step; at
    the start of each epoch `solve` alternates, `rounds` times, the ridge regression
    W = (B^T B + nu / mu I)^-1 B^T Y and discrete coordinate descent over the bits of B (paper,
    section 3.3). The last term is the paper's quantisation; swuxyj/DeepHash-pytorch (DSDH.py)
    leaves it out and agrees in all the others. A bit that has no code yet is drawn to its own sign.

    Args:
        num_classes, bits: at least 1.
        mu, nu: weights of the classifier's error and of its norm.
        eta: weight of the quantisation term, also in the solution for B.
        rounds: alternations an epoch.
        bank_size: number of training images. Needs `index`. None: the batch stands for the training
            set, and W and B are solved for it, from sign(u), at every call.
        options: see QuantizationOptions; the default weight of "original" is eta.

    Buffers: classifier [bits, num_classes], and with a bank codes [bank_size, bits] and the bank's.
    Raises ValueError for weights that are not positive and rounds < 1. Call: see HashLoss.
    """

    bank = "default"
    classifier: Tensor
    codes: Tensor

    def __init__(
        self,
        num_classes: int,
        bits: int,
        *,
        mu: float = 1.0,
        nu: float = 1.0,
        eta: float = 55.0,
        rounds: int = 10,
        bank_size: int | None = None,
        **options: Unpack[QuantizationOptions],
    ) -> None:
        if min(mu, nu, eta) <= 0 or rounds < 1:
            raise ValueError(
                f"mu={mu}, nu={nu}, eta={eta} must be positive and rounds={rounds} at least 1"
            )
        super().__init__(num_classes, bits, original_weight=eta, **options)
        self.mu, self.nu, self.eta, self.rounds = mu, nu, eta, rounds
        self.use_bank(bank_size)
        self.register_buffer("classifier", torch.zeros(bits, num_classes))
        self.register_buffer("codes", torch.zeros(bank_size or 0, bits))

    def start_epoch(self, epoch: int) -> None:
        if self.memory is not None:
            self.solve()

    @torch.no_grad()
    def solve(self) -> None:
        """Solve W and B for what the bank holds. Raises RuntimeError without a bank."""
        if self.memory is None:
            raise RuntimeError("DSDH without bank_size solves for each batch as it comes")
        classifier, codes = self._solved(self.memory.outputs, self.memory.labels, self.codes)
        self.classifier.copy_(classifier)
        self.codes.copy_(codes)

    def similarity(self, outputs: Tensor, labels: Tensor, index: Tensor | None = None) -> Tensor:
        others, other_labels = self.compared_with(outputs, labels, index)
        if self.memory is None:
            with torch.no_grad():
                classifier, codes = self._solved(outputs, labels, outputs.sign())
            self.classifier.copy_(classifier)
            self._batch_codes = codes
        pairs = similar(labels, other_labels).to(outputs.dtype)
        likelihood = F.binary_cross_entropy_with_logits(outputs @ others.T / 2, pairs)
        classifier = self.classifier.to(outputs.dtype)
        wanted = multi_hot(labels, self.num_classes, outputs.dtype)
        error = (wanted - self._codes_of(index).to(outputs.dtype) @ classifier).square().mean()
        norm = classifier.square().mean()
        self.record(likelihood=likelihood, classification=error, classifier=norm)
        return likelihood + self.mu * error + self.nu * norm

    def original_quantization(self, outputs: Tensor, index: Tensor | None = None) -> Tensor:
        codes = self._codes_of(index).to(outputs.dtype)
        codes = torch.where(codes == 0, outputs.detach().sign(), codes)
        return (codes - outputs).square().mean()

    def _codes_of(self, index: Tensor | None) -> Tensor:
        return self._batch_codes if index is None else self.codes[index]

    def _solved(self, outputs: Tensor, labels: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """(W [bits, classes], B [n, bits]) for outputs U [n, bits] and their labels, from B."""
        codes = codes.clone()
        ridge = self.nu / self.mu * torch.eye(self.bits, dtype=codes.dtype, device=codes.device)
        for _ in range(self.rounds):
            sums = _sums_by_class(codes, labels, self.num_classes)
            classifier = torch.linalg.solve(codes.T @ codes + ridge, sums)
            wanted = _at_labels(classifier, labels) + self.eta / self.mu * outputs
            overlap = classifier @ classifier.T
            overlap.fill_diagonal_(0)
            for bit in range(self.bits):
                codes[:, bit] = (wanted[:, bit] - codes @ overlap[bit]).sign()
        return classifier, codes


def _sums_by_class(codes: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """B^T Y [bits, classes]; an image without a class adds nothing."""
    if labels.dim() == 2:
        return codes.T @ labels.to(codes.dtype)
    # The last row takes the images not seen yet, whose label is -1.
    sums = codes.new_zeros(num_classes + 1, codes.shape[1])
    return sums.index_add_(0, labels.long() % (num_classes + 1), codes)[:num_classes].T


def _at_labels(classifier: Tensor, labels: Tensor) -> Tensor:
    """Y W^T [n, bits]; zeros for an image without a class."""
    if labels.dim() == 2:
        return labels.to(classifier.dtype) @ classifier.T
    padded = torch.cat([classifier.T, classifier.new_zeros(1, len(classifier))])
    return padded[labels.long() % (classifier.shape[1] + 1)]
