"""RKD: the distances and the angles among the codes of a batch, drawn to the teacher's."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hashfast.losses._functional import unit_rows, warn_undefined
from hashfast.losses.distillation._base import Distillation

_ANGLES = 2**23
"""Angles held at a time; a batch has n^3."""


class RKD(Distillation):
    """Relational knowledge distillation (Park, Kim, Lu and Cho, CVPR 2019).

    With e_ij = (h_j - h_i) / |h_j - h_i| and smooth L1 between student and teacher:

        distance_weight  mean over pairs (i, j) of |h_i - h_j| / the mean of its kind over i != j
        angle_weight     mean over triples (i, j, k) of e_ij . e_ik

    Agrees with HobbitLong/RepDistiller (distiller_zoo/RKD.py). The n^3 angles are never held
    together: they are made in parts, and again in the backward pass.

    Args:
        bits, teacher_bits: may differ.
        distance_weight, angle_weight: of the two terms.
        variant: what the angles at two equal codes of the student, which have no direction, do to
            them: "paper": nothing; "released": a gradient of 1e12 times their slope, by which the
            released code throws them apart. The value is the same.

    A batch of one has no pairs: 0. Raises ValueError for an unknown variant and a negative weight.
    Call: see Distillation.
    """

    def __init__(
        self,
        bits: int,
        teacher_bits: int | None = None,
        *,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        variant: Literal["paper", "released"] = "paper",
    ) -> None:
        super().__init__(bits, teacher_bits)
        if variant not in ("paper", "released"):
            raise ValueError(f"unknown variant {variant!r}; choose 'paper' or 'released'")
        if not (0 <= distance_weight < math.inf and 0 <= angle_weight < math.inf):
            raise ValueError(
                f"distance_weight={distance_weight} and angle_weight={angle_weight} must be 0 or "
                "positive"
            )
        self.distance_weight, self.angle_weight = distance_weight, angle_weight
        self.variant = variant

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        n = len(student)
        if n < 2:
            warn_undefined("RKD", n)
            return 0 * student.sum()
        distances = F.smooth_l1_loss(_distances(student), _distances(teacher))
        at_a_time = max(1, _ANGLES // n**2)
        angles = student.new_zeros(())
        for first in range(0, n, at_a_time):
            corners = slice(first, first + at_a_time)
            if at_a_time >= n:
                angles = self._angles(student, teacher, corners)
            else:
                angles = angles + checkpoint(
                    self._angles,
                    student,
                    teacher,
                    corners,
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
        return self.distance_weight * distances + self.angle_weight * angles / n**3

    def _angles(self, student: Tensor, teacher: Tensor, corners: slice) -> Tensor:
        """Sum over the triples with i among the corners."""
        found, wanted = (self._directions(codes, corners) for codes in (student, teacher))
        return F.smooth_l1_loss(found @ found.mT, wanted @ wanted.mT, reduction="sum")

    def _directions(self, codes: Tensor, corners: slice) -> Tensor:
        """e_ij, [i, j, bits]; 0 where the codes are equal."""
        differences = codes - codes[corners, None]
        if self.variant == "released":
            return F.normalize(differences, dim=2)
        return unit_rows(differences.flatten(0, 1)).view_as(differences)


def _distances(codes: Tensor) -> Tensor:
    """|h_i - h_j| [n, n] over their mean; those of equal codes count 1e-6, as in released code."""
    n = len(codes)
    # Of near codes little is left after the subtraction: float64 keeps it.
    products = codes.double() @ codes.double().T
    squares = products.diagonal()[:, None] + products.diagonal() - 2 * products
    pairs = ~torch.eye(n, dtype=torch.bool, device=codes.device)
    distances = squares.clamp(min=1e-12).sqrt().where(pairs, 0)
    return (distances * (n * (n - 1) / distances.sum())).to(codes.dtype)
