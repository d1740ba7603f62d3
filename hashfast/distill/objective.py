"""A student's own hashing loss and a distillation loss, as the one loss of a run."""

import torch
from torch import Tensor, nn

from hashfast.hashing.learner import SECOND_VIEWS
from hashfast.losses import Distillation, HashLoss, UnsupervisedLoss
from hashfast.losses._functional import sign_straight_through

BaseLoss = HashLoss | UnsupervisedLoss


class Objective(nn.Module):
    """base_weight x own loss + distillation_weight x distillation loss (paper 004, section 5.3).

    compare_codes: the distillation loss sees codes, the gradient passed straight through sign,
    instead of outputs. A weight of 0 leaves a loss out, also of what a step computes.
    """

    def __init__(
        self,
        base: BaseLoss,
        distillation: Distillation,
        base_weight: float,
        distillation_weight: float,
        compare_codes: bool,
    ) -> None:
        super().__init__()
        self.base, self.distillation = base, distillation
        self.base_weight, self.distillation_weight = base_weight, distillation_weight
        self.compare_codes = compare_codes
        self.head = base.head
        self.needs = base.needs if base_weight else ()
        self.components: dict[str, Tensor] = {}
        needs = distillation.needs if distillation_weight else ()
        aug = any(name.endswith("_aug") for name in needs)
        compared = any(name in self.needs for name in SECOND_VIEWS)
        self.augmented_views = aug and distillation.views == "augmented"
        """Whether the distillation loss looks at the second view."""
        self.own_views = aug and not self.augmented_views
        """Whether the distillation loss has rotations or mixtures of its own."""
        self.second_view = compared or self.augmented_views
        """Whether there is a second view at all."""
        self.student_sees_second = compared or (self.augmented_views and "student_aug" in needs)

    def start_epoch(self, epoch: int) -> None:
        self.base.start_epoch(epoch)

    def forward(
        self,
        outputs: Tensor,
        labels: Tensor,
        index: Tensor,
        teacher: Tensor,
        base_inputs: dict[str, Tensor],
        student_aug: Tensor | None,
        teacher_aug: Tensor | None,
    ) -> Tensor:
        """outputs, teacher [n, bits]: for the first view; *_aug [n, A, bits]: for the further ones.

        base_inputs: those of the base loss besides outputs, labels and index.
        """
        self.components = {}
        total = outputs.new_zeros(())
        if self.base_weight:
            total = total + self.base_weight * self._base(outputs, labels, index, base_inputs)
            self.components = {f"own {k}": v for k, v in self.base.components.items()}
        if self.distillation_weight:
            distance = self.distillation(
                self._student(outputs),
                self._teacher(teacher),
                student_aug=None if student_aug is None else self._student(student_aug),
                teacher_aug=None if teacher_aug is None else self._teacher(teacher_aug),
                index=index,
                labels=labels,
            )
            total = total + self.distillation_weight * distance
            self.components["distillation"] = distance.detach()
        self.components["loss"] = total.detach()
        return total

    def _base(
        self, outputs: Tensor, labels: Tensor, index: Tensor, inputs: dict[str, Tensor]
    ) -> Tensor:
        if isinstance(self.base, UnsupervisedLoss):
            return self.base(outputs, **inputs)
        return self.base(outputs, labels, index=index, **inputs)

    def _student(self, outputs: Tensor) -> Tensor:
        return sign_straight_through(outputs) if self.compare_codes else outputs

    def _teacher(self, outputs: Tensor) -> Tensor:
        return torch.where(outputs > 0, 1.0, -1.0) if self.compare_codes else outputs
