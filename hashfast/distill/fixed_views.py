"""Views of the training images drawn once, kept with the teacher's outputs for them."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hashfast._cache import ArrayCache
from hashfast.augment import to_unit
from hashfast.data import ArrayDataset, ImageDataset, Splits
from hashfast.distill.objective import Objective
from hashfast.distill.teacher import Teacher
from hashfast.distill.views import Views, mixed, rotated
from hashfast.hashing.features import (
    BATCH,
    FeatureCache,
    described_part,
    known_labels,
    unreadable_rows,
)
from hashfast.hashing.loading import batches, seed_draws

Make = Callable[[Tensor, Tensor], Tensor]


class FixedViews(ImageDataset):
    """The images, `number` random views of each, and those a distillation loss has of its own.

    It stands for the training set: its batches are labels and indices of the pictures that can be
    read, with empty images, and `draw` chooses views for them. augmentation: a module from images
    to random views, called `name`; the others are as FreshViews takes them. features: of the
    student's frozen backbone, kept in the place of images.
    """

    in_memory = True
    labels: Tensor

    def __init__(
        self,
        objective: Objective,
        augmentation: nn.Module,
        name: str,
        number: int,
        teacher: Teacher,
        splits: Splits,
        arrays: ArrayCache,
        *,
        seed: int,
        augmented_anchor: bool,
        features: FeatureCache | None = None,
    ) -> None:
        self.labels, self.image_shape = known_labels(splits.train), splits.train.image_shape
        self.objective, self.augmented_anchor = objective, augmented_anchor
        self.device = teacher.loading.device
        self.source = described_part(splits, "train")
        self.train, self.arrays = splits.train, arrays
        self.teacher, self.features = teacher, features
        # A frozen backbone's features of the images themselves are those it is evaluated with.
        originals = (
            self._drawn(_unchanged, self.source)
            if features is None
            else features.array(splits.train, self.source)
        )
        self.inputs, self.outputs = [originals], [teacher.of(splits, "train")]
        self.unreadable = unreadable_rows(self.outputs[0], splits.train)
        self.readable = torch.ones(len(self), dtype=torch.bool)
        self.readable[list(self.unreadable)] = False
        if objective.second_view or augmented_anchor:
            for i in range(number):
                key = {"view": name, "number": i, "seed": seed}
                self._add(partial(_augmented, augmentation), key)
        self.random = range(1, len(self.inputs))
        if objective.own_views:
            self._add_own(number, seed)
        self.own = range(self.random.stop, len(self.inputs))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor, int]:
        images, labels, _ = self.batch([index])
        return images[0], int(labels[0]) if labels.ndim == 1 else labels[0], index

    def batch(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        indices = torch.as_tensor(indices, dtype=torch.int64)
        indices = indices[self.readable[indices]]
        return torch.empty(len(indices), 0), self.labels[indices], indices

    def draw(self, images: Tensor, labels: Tensor, indices: Tensor) -> Views:
        rows = indices.cpu().numpy()
        chosen = (torch.randperm(len(self.random))[:2] + 1).tolist()
        first = chosen[-1] if self.augmented_anchor else 0
        second = own = aug = None
        if self.objective.second_view:
            second = self._of(self.inputs, chosen[0], rows)
        if self.objective.own_views:
            slots = self._own_slots()
            own = torch.stack([self._of(self.inputs, slot, rows) for slot in slots], 1)
            aug = torch.stack([self._of(self.outputs, slot, rows) for slot in slots], 1)
        elif self.objective.augmented_views:
            aug = self._of(self.outputs, chosen[0], rows).unsqueeze(1)
        outputs = self._of(self.outputs, first, rows)
        return Views(self._of(self.inputs, first, rows), second, own, outputs, aug)

    def _add_own(self, number: int, seed: int) -> None:
        kind, count = self.objective.distillation.views, self.objective.distillation.num_views
        if kind == "rotated":
            for i in range(count):
                self._add(partial(_turned, i + 1), {"view": kind, "number": i})
        else:
            for i in range(number * count):
                self._add(_mixture, {"view": kind, "number": i, "seed": seed})

    def _add(self, make: Make, key: dict[str, Any]) -> None:
        """Keep one more view: what the student is given, and the teacher's outputs for it."""
        key = self.source | key
        images = self._drawn(make, key)
        seen = ArrayDataset(torch.from_numpy(images), self.labels)
        self.outputs.append(self.teacher.of_images(seen, key))
        self.inputs.append(images if self.features is None else self.features.array(seen, key))

    def _drawn(self, make: Make, key: dict[str, Any]) -> np.ndarray:
        """A view of every image, uint8 [N, C, H, W]; pictures that cannot be read are black."""
        place = key.get("seed", 0), key.get("view", ""), key.get("number", 0)

        def chunks() -> Iterator[np.ndarray]:
            rows = torch.arange(len(self)).split(BATCH)
            loaded = batches(self.train, rows, self.device, self.teacher.loading.workers)
            for chunk, (chosen, (batch, _)) in enumerate(zip(rows, loaded, strict=True)):
                found = torch.zeros(len(chosen), *self.image_shape, dtype=torch.uint8)
                if batch is not None:
                    images, labels, indices = batch
                    seed_draws(self.device, *place, chunk)
                    found[indices.cpu() - chosen[0]] = _as_bytes(make(images, labels)).cpu()
                yield found.numpy()

        return self.arrays.get("views", key, (len(self), *self.image_shape), "|u1", chunks)

    def _own_slots(self) -> list[int]:
        """All rotations in order, or as many mixtures as the loss needs of those that are kept."""
        count = self.objective.distillation.num_views
        rotations = self.objective.distillation.views == "rotated"
        order = torch.arange(count) if rotations else torch.randperm(len(self.own))[:count]
        return (order + self.own.start).tolist()

    def _of(self, kept: list[np.ndarray], slot: int, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(kept[slot][rows]).to(self.device)


def _unchanged(images: Tensor, labels: Tensor) -> Tensor:
    return images


def _augmented(augmentation: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return augmentation(images)


def _turned(turns: int, images: Tensor, labels: Tensor) -> Tensor:
    return rotated(to_unit(images), turns)


def _mixture(images: Tensor, labels: Tensor) -> Tensor:
    return mixed(to_unit(images), labels)


def _as_bytes(images: Tensor) -> Tensor:
    if images.dtype == torch.uint8:
        return images
    return (images * 255).round_().clamp_(0, 255).to(torch.uint8)
