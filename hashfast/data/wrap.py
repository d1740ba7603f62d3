"""Anyone's dataset under this package's contract."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hashfast._inputs import check_labels
from hashfast.data.base import ImageDataset, Item
from hashfast.data.pictures import to_image


def wrap(
    dataset: Dataset, image_size: int = 224, channels: int = 3, num_classes: int | None = None
) -> ImageDataset:
    """Any map-style dataset of ``(picture, label, ...)`` as ``(uint8 image, label, index)``.

    A picture is a PIL image, array or tensor as :func:`to_image` takes them (float tensors before
    normalisation); a label is an integer, or a 0/1 vector ``[classes]``. Given ``num_classes``,
    each label is checked when it is read. Labels are known only by reading items, so
    ``.labels`` is None. Raises TypeError for an iterable-style dataset or another item layout.
    """
    return _Wrapped(dataset, image_size, channels, num_classes)


class _Wrapped(ImageDataset):
    def __init__(
        self, dataset: Dataset, image_size: int, channels: int, num_classes: int | None
    ) -> None:
        if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
            raise TypeError(
                f"{type(dataset).__name__} is not map-style: it needs __len__ and __getitem__"
            )
        self.dataset = dataset
        self.num_classes = num_classes
        self.image_shape = (channels, image_size, image_size)
        self.labels = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Item:
        index = range(len(self))[index]
        item = self.dataset[index]
        if not isinstance(item, tuple | list) or len(item) < 2:
            raise TypeError(
                f"item {index} is a {type(item).__name__}; expected a tuple (picture, label)"
            )
        channels, image_size, _ = self.image_shape
        label = self._label(item[1], index)
        return to_image(item[0], image_size, channels), label, index

    def _label(self, value: Any, index: int) -> int | Tensor:
        label = torch.as_tensor(value)
        try:
            if label.ndim == 0:
                return int(check_labels(label.unsqueeze(0), self.num_classes))
            return check_labels(label.unsqueeze(0), self.num_classes)[0]
        except (TypeError, ValueError) as error:
            raise type(error)(f"label of item {index} ({value!r}): {error}") from error
