"""The base of every distillation loss: inputs checked, precision."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from hashfast.losses._functional import (
    check_codes,
    check_held,
    check_tensor,
    full_precision,
    warn_undefined,
)


class Distillation(nn.Module):
    """Loss that makes a student's codes follow a teacher's.

    `criterion(student, teacher, ...)` with student [n, bits] and teacher [n, teacher_bits],
    floating point (codes of -1 and +1, or outputs before sign: the formulas hold for both), returns
    a scalar: float64 for a float64 student, otherwise float32, also under autocast. No gradient
    flows into what the teacher gives. An empty batch gives 0, attached to the graph. A method takes
    those of these inputs that it names in `needs`, and ignores the others:

        student_aug [n, A, bits], teacher_aug [n, A, teacher_bits]: codes of A further views of
            each image (`views` says which kind); [n, bits] stands for A = 1.
        index int64 [n]: positions of the images in the training set.
        labels: class ids int64 [n], or multi-hot [n, C].

    What learns (embeddings) or is kept (memories, clusters) lives in the criterion: move it to the
    student's device, and give `criterion.parameters()` to the optimiser. A method implements
    `distance`, which gets inputs of at least float32 with at least one row.

    Args:
        bits: length of the student's codes, at least 1.
        teacher_bits: length of the teacher's; None: the same.

    Raises ValueError when called for shapes that do not fit and a missing input, TypeError for
    other types.
    """

    needs: tuple[str, ...] = ()
    """Inputs required besides student and teacher, of those above."""
    views: Literal["augmented", "rotated", "mixed"] = "augmented"
    """The kind of the further views: random augmentations (A = 1), the three right-angle rotations
    (A = 3), or mixtures with images of the same class (A = `num_views`)."""
    num_views = 1
    """A, the number of further views of each image."""
    aligns = False
    """Whether the student's codes are drawn to the teacher's own, which asymmetric search needs."""

    def __init__(self, bits: int, teacher_bits: int | None = None) -> None:
        super().__init__()
        for name, value in (("bits", bits), ("teacher_bits", teacher_bits)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        self.bits, self.teacher_bits = bits, teacher_bits or bits

    def prepare(self, teacher: Tensor, labels: Tensor | None = None) -> None:
        """Called once, before training, with the teacher's codes of the whole training set.

        teacher [N, teacher_bits]; labels [N] or [N, C], where the data has any.
        """

    def distance(self, student: Tensor, teacher: Tensor, *args: Any, **inputs: Any) -> Tensor:
        """The loss, a scalar."""
        raise NotImplementedError

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        *,
        student_aug: Tensor | None = None,
        teacher_aug: Tensor | None = None,
        index: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch."""
        check_codes("student", student, self.bits)
        check_held(self, student.device)
        check_codes("teacher", teacher, self.teacher_bits)
        if len(teacher) != len(student):
            raise ValueError(
                f"{len(teacher)} rows of the teacher for {len(student)} of the student"
            )
        given = {
            "student_aug": student_aug,
            "teacher_aug": teacher_aug,
            "index": index,
            "labels": labels,
        }
        inputs = {name: self._input(name, given[name], len(student)) for name in self.needs}
        with torch.autocast(student.device.type, enabled=False):
            student = full_precision(student)
            if not len(student):
                warn_undefined("the distillation loss", 0)
                # Every parameter stays in the graph, or distributed training waits for it.
                return student.sum() + sum(0 * p.sum() for p in self.parameters())
            teacher = full_precision(teacher.detach()).to(student.dtype)
            return self.distance(student, teacher, **inputs)

    def _input(self, name: str, value: Tensor | None, rows: int) -> Tensor:
        """An input in `needs`, checked and in full precision."""
        if value is None:
            raise ValueError(
                f"{type(self).__name__} needs {name}: call criterion(student, teacher, {name}=...)"
            )
        check_tensor(name, value)
        if len(value) != rows:
            raise ValueError(f"{name} has {len(value)} rows; the student's codes have {rows}")
        if name == "index" and (value.dim() != 1 or value.dtype != torch.int64):
            raise ValueError(
                f"index is {value.dtype} {list(value.shape)}; expected int64 [{rows}], the "
                "positions of the images in the training set"
            )
        if not name.endswith("_aug"):
            return value
        width = self.teacher_bits if name.startswith("teacher") else self.bits
        value = value.unsqueeze(1) if value.dim() == 2 else value
        if value.dim() != 3 or value.shape[2] != width or not value.is_floating_point():
            raise ValueError(
                f"{name} is {value.dtype} {list(value.shape)}; expected floating point "
                f"[{rows}, views, {width}]"
            )
        return full_precision(value.detach() if name.startswith("teacher") else value)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, teacher_bits={self.teacher_bits}"
