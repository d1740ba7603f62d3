"""The views of an image that a student and its teacher see, drawn at every step."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hashfast.augment import to_unit
from hashfast.distill.objective import Objective
from hashfast.distill.teacher import Teacher
from hashfast.losses._functional import similar


class Views(NamedTuple):
    """What a step is given of n images, as images [n, C, H, W] or a frozen backbone's features.

    first: what codes are compared on; second: a random view, or None where no loss needs one;
    own [n, A, ...]: the rotations or mixtures of a distillation loss that needs them, or None;
    teacher [n, bits]: the teacher's outputs for first; teacher_aug [n, A, bits]: those for own, or
    else for second, or None.
    """

    first: Tensor
    second: Tensor | None
    own: Tensor | None
    teacher: Tensor
    teacher_aug: Tensor | None


class FreshViews:
    """Views drawn at every step, which the teacher sees then; of images themselves it need not.

    originals [N, bits]: the teacher's outputs for the training images. augmented_anchor: the first
    view is random too. augmentation: a module from images to random views.
    """

    def __init__(
        self,
        objective: Objective,
        augmentation: nn.Module,
        teacher: Teacher,
        originals: np.ndarray,
        augmented_anchor: bool,
    ) -> None:
        self.objective, self.augmentation = objective, augmentation
        self.teacher, self.augmented_anchor = teacher, augmented_anchor
        self.originals = torch.from_numpy(np.array(originals)).to(teacher.loading.device)

    def draw(self, images: Tensor, labels: Tensor, indices: Tensor) -> Views:
        second = own = aug = None
        if self.augmented_anchor:
            first = self.augmentation(images)
            outputs = self.teacher.outputs(first)
        else:
            first = to_unit(images)
            outputs = self.originals[indices]
        if self.objective.second_view:
            second = self.augmentation(images)
        if self.objective.own_views:
            distillation = self.objective.distillation
            own = own_views(distillation.views, distillation.num_views, first, labels)
            aug = self.teacher.outputs(own.flatten(0, 1)).unflatten(0, own.shape[:2])
        elif self.objective.augmented_views and second is not None:
            aug = self.teacher.outputs(second).unsqueeze(1)
        return Views(first, second, own, outputs, aug)


def own_views(kind: str, count: int, images: Tensor, labels: Tensor) -> Tensor:
    """The "rotated" or "mixed" views [n, count, C, H, W] of images [n, C, H, W], float32."""
    if kind == "rotated":
        return torch.stack([rotated(images, turns) for turns in range(1, count + 1)], 1)
    return torch.stack([mixed(images, labels) for _ in range(count)], 1)


def rotated(images: Tensor, turns: int) -> Tensor:
    """Images turned by `turns` right angles."""
    return images.rot90(turns, (2, 3))


def mixed(images: Tensor, labels: Tensor) -> Tensor:
    """Each image mixed, in a uniformly drawn share, with another one of its class in the batch.

    Where there is no other, the image stays as it is.
    """
    if not len(images):
        return images
    share = torch.rand(len(images), 1, 1, 1).to(images.device)
    return share * images + (1 - share) * images[_partners(labels)]


def _partners(labels: Tensor) -> Tensor:
    """For each row another one that shares a class with it, or else itself: int64 [n]."""
    alike = similar(labels, labels)
    alike.fill_diagonal_(False)
    chance, partner = torch.rand(alike.shape).to(labels.device).masked_fill(~alike, -1).max(1)
    return torch.where(chance >= 0, partner, torch.arange(len(labels), device=labels.device))
