"""SSKD: which image a rotated view belongs to, as likely to the student as to the teacher."""

import math

import torch
from torch import Tensor

from hashfast.losses._functional import unit_rows
from hashfast.losses.distillation._base import Distillation


class SSKD(Distillation):
    """The self-supervised term of SSKD (Xu, Liu, Li and Loy, ECCV 2020).

    Each further view is compared with the originals of the batch: p = softmax of the cosines / T.
    The loss is T^2 times the mean over views of KL(p_teacher || p_student). Of the views for which
    the teacher finds another original more similar than its own, only the share `ratio_ss` counts,
    those where its own ranks best (of equal ranks, the first in the batch). Agrees with
    xuguodong03/SSKD (student.py, loss4), and with `ratio_ss=1` with hly1998/BRCD
    (model/distill_CIBHash.py); there, the order of equal cosines is left to the sort, while here an
    original that another equals is not outranked.

    Args:
        bits, teacher_bits: may differ.
        temperature: T.
        ratio_ss: from 0 to 1.

    Raises ValueError for options out of their range. Call: `criterion(student, teacher,
    student_aug=..., teacher_aug=...)`, see Distillation.
    """

    needs = ("student_aug", "teacher_aug")
    views = "rotated"
    num_views = 3

    def __init__(
        self,
        bits: int,
        teacher_bits: int | None = None,
        *,
        temperature: float = 0.5,
        ratio_ss: float = 0.75,
    ) -> None:
        super().__init__(bits, teacher_bits)
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature is {temperature}; it must be positive")
        if not 0 <= ratio_ss <= 1:
            raise ValueError(f"ratio_ss is {ratio_ss}; expected a share from 0 to 1")
        self.temperature, self.ratio_ss = temperature, ratio_ss

    def distance(
        self, student: Tensor, teacher: Tensor, student_aug: Tensor, teacher_aug: Tensor
    ) -> Tensor:
        if student_aug.shape[1] != teacher_aug.shape[1]:
            raise ValueError(
                f"student_aug has {student_aug.shape[1]} views of each image, teacher_aug "
                f"{teacher_aug.shape[1]}; expected the same views"
            )
        found = _cosines(student_aug.to(student.dtype), student)
        wanted = _cosines(teacher_aug.to(teacher.dtype), teacher)
        log_found, log_wanted = (
            (cosines / self.temperature).log_softmax(1) for cosines in (found, wanted)
        )
        divergence = (log_wanted.exp() * (log_wanted - log_found)).sum(1)
        kept = self._kept(wanted, student_aug.shape[1])
        return self.temperature**2 * (kept * divergence).sum() / kept.sum().clamp(min=1)

    def _kept(self, cosines: Tensor, views: int) -> Tensor:
        """Which of the teacher's rows count, bool [rows]; nothing here waits for the device."""
        own = torch.arange(len(cosines), device=cosines.device) // views
        rank = (cosines > cosines.gather(1, own[:, None])).sum(1)
        wrong = (rank > 0).sum()
        count = len(cosines) - wrong + (wrong.double() * self.ratio_ss).long()
        place = rank.argsort(stable=True).argsort()
        return place < count


def _cosines(views: Tensor, originals: Tensor) -> Tensor:
    """Of every view [n, A, bits] with every original [n, bits]: [n A, n]."""
    return unit_rows(views.flatten(0, 1)) @ unit_rows(originals).T
