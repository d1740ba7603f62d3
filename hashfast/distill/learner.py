"""One step of a distillation: views, the student's outputs, the loss of the joined batch."""

import torch
from torch import Tensor

from hashfast import _distributed
from hashfast.distill.config import DistillConfig
from hashfast.distill.fixed_views import FixedViews
from hashfast.distill.objective import Objective
from hashfast.distill.views import FreshViews
from hashfast.hashing.learner import Learner, joined_outputs
from hashfast.hashing.loading import Batch, seed_draws
from hashfast.hashing.model import HashModel


class DistillLearner(Learner):
    """The learner of a student.

    With several processes the teacher sees a process's own rows, and both losses those of all.
    """

    def __init__(
        self,
        config: DistillConfig,
        model: HashModel,
        objective: Objective,
        views: FreshViews | FixedViews,
        device: torch.device,
        steps_per_epoch: int,
    ) -> None:
        super().__init__(config, model, objective, device, steps_per_epoch)
        self.objective, self.views = objective, views

    def loss(self, step: int, batch: Batch, counts: list[int]) -> Tensor:
        images, labels, indices = batch
        seed_draws(self.device, self.config.seed, "views", step, _distributed.rank())
        views = self.views.draw(images, labels, indices)
        second = own = None
        with self._autocast():
            outputs, inputs = self.network(self._laid_out(views.first))
            if views.second is not None and self.objective.student_sees_second:
                second, _ = self.network(self._laid_out(views.second))
            if views.own is not None:
                own, _ = self.network(self._laid_out(views.own.flatten(0, 1)))
                own = own.unflatten(0, views.own.shape[:2])
        seed_draws(self.device, self.config.seed, "loss", step)
        outputs = joined_outputs(outputs, counts)
        inputs, aug = self._joined_inputs(inputs, counts), None
        if second is not None:
            # Joined once, for both losses: twice would count its gradient twice.
            second = joined_outputs(second, counts)
            aug = second.unsqueeze(1)
            if self.second is not None:
                inputs[self.second] = second
        if own is not None:
            aug = joined_outputs(own, counts)
        labels, indices, teacher = (
            _distributed.gather_rows(rows, counts) for rows in (labels, indices, views.teacher)
        )
        teacher_aug = views.teacher_aug
        return self.objective(
            outputs,
            labels,
            indices,
            teacher,
            inputs,
            aug,
            None if teacher_aug is None else _distributed.gather_rows(teacher_aug, counts),
        )
