"""SP: the student finds the same images of a batch alike as the teacher does."""

from typing import Literal

from torch import Tensor

from hashfast.losses._functional import unit_rows
from hashfast.losses.distillation._base import Distillation


class SP(Distillation):
    """Similarity-preserving distillation (Tung and Mori, ICCV 2019).

    The inner products of all pairs of a batch, each row divided by its norm; mean over the n^2
    pairs of the squared difference of student and teacher. Agrees with HobbitLong/RepDistiller
    (distiller_zoo/SP.py).

    Args:
        bits, teacher_bits: may differ, except in the "released" variant.
        variant: "paper", as above; "released": as hly1998/BRCD (model/distill_CIBHash.py) calls it,
            which compares, image by image, the products of all pairs of bits: the sum over the
            images of the mean over bits^2. It is blind to the sign of a whole code.

    Raises ValueError for an unknown variant, and in the "released" variant for a teacher of another
    length. Call: see Distillation.
    """

    def __init__(
        self,
        bits: int,
        teacher_bits: int | None = None,
        *,
        variant: Literal["paper", "released"] = "paper",
    ) -> None:
        super().__init__(bits, teacher_bits)
        if variant not in ("paper", "released"):
            raise ValueError(f"unknown variant {variant!r}; choose 'paper' or 'released'")
        if variant == "released" and self.teacher_bits != bits:
            raise ValueError(
                f"variant='released' compares pairs of bits: the student has {bits}, the teacher "
                f"{self.teacher_bits}; give both the same number, or choose variant='paper'"
            )
        self.variant = variant

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.variant == "released":
            return self._between_bits(student, teacher)
        found, wanted = (unit_rows(codes @ codes.T) for codes in (student, teacher))
        return (found - wanted).square().mean()

    def _between_bits(self, student: Tensor, teacher: Tensor) -> Tensor:
        # Row a of h h^T, divided by its norm, is sign(h_a) h / |h|: no product need be formed. A
        # bit that is 0 has a row of zeros and, unlike in the released code, no gradient of 1e12.
        found, wanted = student.sign(), teacher.sign()
        agreement = (found * wanted).sum(1) * (unit_rows(student) * unit_rows(teacher)).sum(1)
        squares = found.square().sum(1) + wanted.square().sum(1)
        return (squares - 2 * agreement).sum() / self.bits**2
