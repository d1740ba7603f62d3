"""KL: the student's code as a softened distribution, drawn to the teacher's."""

import math

import torch.nn.functional as F
from torch import Tensor

from hashfast.losses.distillation._base import Distillation


class KL(Distillation):
    """Knowledge distillation by soft targets (Hinton, Vinyals and Dean, 2015), over codes.

    T^2 mean over images of KL(softmax(teacher / T) || softmax(student / T)). Agrees with
    HobbitLong/RepDistiller (distiller_zoo/KD.py).

    Args:
        bits, teacher_bits: equal, as one is compared with the other bit by bit.
        temperature: T.

    Raises ValueError for a teacher of another length and a temperature that is not positive. Call:
    see Distillation.
    """

    aligns = True

    def __init__(
        self, bits: int, teacher_bits: int | None = None, *, temperature: float = 4.0
    ) -> None:
        super().__init__(bits, teacher_bits)
        if self.teacher_bits != bits:
            raise ValueError(
                f"KL compares bit by bit: the student has {bits} bits, the teacher "
                f"{self.teacher_bits}; give both the same number"
            )
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature is {temperature}; it must be positive")
        self.temperature = temperature

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        found = (student / self.temperature).log_softmax(1)
        wanted = (teacher / self.temperature).softmax(1)
        return self.temperature**2 * F.kl_div(found, wanted, reduction="batchmean")
