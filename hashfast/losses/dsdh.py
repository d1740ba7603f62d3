"""Deep supervised discrete hashing: codes solved bit by bit, from which labels are predicted."""

import math
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from hashfast.losses._base import HashLoss
from hashfast.losses._functional import full_precision, multi_hot, similar
from hashfast.losses.quantization import QuantizationOptions


class DSDH(HashLoss):
    """Pairwise likelihood with discrete codes and a linear classifier (Li et al., NeurIPS 2017).

    With theta = <u_i, u_j> / 2 over the pairs of the batch with the bank:

        mean(log(1 + e^theta) - s theta) + mu mean((Y - B W)^2) + nu mean(W^2) + eta mean((B - u)^2)

    W [bits, classes] and the codes B [images, bits] of the whole bank are constants of a step; at
    the start of each epoch `solve` alternates, `rounds` times, the ridge regression
    W = (B^T B + nu / mu I)^-1 B^T Y and discrete coordinate descent over the bits of B (paper,
    section 3.3). The last term is the paper's quantisation; swuxyj/DeepHash-pytorch (DSDH.py)
    leaves it out and agrees in all the others. A bit that has no code yet is not drawn
    anywhere.

    Args:
        num_classes, bits: at least 1.
        mu, nu: weights of the classifier's error and of its norm.
        eta: weight of the quantisation term, also in the solution for B.
        rounds: alternations an epoch.
        bank_size: number of training images. Needs `index`. None: the batch stands for the training
            set, and W and B are solved for it, from sign(u), at every call.
        options: see QuantizationOptions; the default weight of "original" is eta, as in
            TreezzZ/DSDH_PyTorch. On means that outweighs the pairs and can collapse the codes; the
            paper's sums over pairs and images come to quantization_weight = eta * bits / bank_size.

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
        if not all(0 < weight < math.inf for weight in (mu, nu, eta)) or rounds < 1:
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
        outputs, codes = full_precision(self.memory.outputs), full_precision(self.codes)
        with torch.autocast(outputs.device.type, enabled=False):
            classifier, codes = self._solved(outputs, self.memory.labels, codes)
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
        return (codes - outputs).square().where(codes != 0, 0).mean()

    def _codes_of(self, index: Tensor | None) -> Tensor:
        return self._batch_codes if index is None else self.codes[index]

    def _solved(self, outputs: Tensor, labels: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """(W [bits, classes], B [n, bits]) for outputs U [n, bits] and their labels, from B."""
        ridge, pull = self.nu / self.mu, self.eta / self.mu
        return _solution(outputs, labels, codes, self.num_classes, ridge, pull, self.rounds)


# An operation of its own: torch.compile would unroll the loops over rounds and bits, for minutes.
@torch.library.custom_op("hashfast::dsdh_solution", mutates_args=())
def _solution(
    outputs: Tensor,
    labels: Tensor,
    codes: Tensor,
    num_classes: int,
    ridge: float,
    pull: float,
    rounds: int,
) -> tuple[Tensor, Tensor]:
    codes = codes.clone()
    bits = codes.shape[1]
    damping = ridge * torch.eye(bits, dtype=codes.dtype, device=codes.device)
    for _ in range(rounds):
        sums = _sums_by_class(codes, labels, num_classes)
        # Positive definite, so there is no error to wait for the device for (solve_ex).
        classifier = torch.linalg.solve_ex(codes.T @ codes + damping, sums)[0]
        wanted = _at_labels(classifier, labels) + pull * outputs
        overlap = classifier @ classifier.T
        overlap.fill_diagonal_(0)
        for bit in range(bits):
            codes[:, bit] = (wanted[:, bit] - codes @ overlap[bit]).sign()
    return classifier.contiguous(), codes


@_solution.register_fake
def _(
    outputs: Tensor, labels: Tensor, codes: Tensor, num_classes: int, *_: float
) -> tuple[Tensor, Tensor]:
    return codes.new_empty(codes.shape[1], num_classes), torch.empty_like(codes)


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
