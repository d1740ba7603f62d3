"""Images held in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hashfast._inputs import Labels, check_labels
from hashfast.data.base import ImageDataset, Item


class ArrayDataset(ImageDataset):
    """Dataset over a uint8 array ``images [n, C, H, W]`` and its ``labels``.

    labels: int class ids ``[n]``, 0/1 multi-hot ``[n, classes]``, or None (every label is -1).
    ``image_size`` cuts out the centre square and scales it (bilinear, antialiased) on access, so
    that memory holds the native size only; None keeps it. ``to(device)`` moves everything, after
    which ``batch`` runs there: an epoch needs no DataLoader and no copies.
    Raises TypeError for images that are not uint8, ValueError for wrong shapes.
    """

    in_memory = True
    images: Tensor
    labels: Tensor

    def __init__(
        self,
        images: Tensor | np.ndarray,
        labels: Labels | None = None,
        *,
        image_size: int | None = None,
    ) -> None:
        images = torch.as_tensor(images)
        if images.dtype != torch.uint8:
            raise TypeError(
                f"images have dtype {str(images.dtype).removeprefix('torch.')}; expected uint8 "
                "(0 to 255): models normalise them"
            )
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"images have shape {list(images.shape)}; expected [n, C, H, W] with 1 or 3 "
                "channels"
            )
        if labels is None:
            labels = torch.full((len(images),), -1, device=images.device)
        labels = check_labels(labels)
        if len(labels) != len(images):
            raise ValueError(f"{len(images)} images but {len(labels)} labels")
        self.images = images
        self.labels = labels
        self.image_size = image_size
        size = images.shape[2:] if image_size is None else (image_size, image_size)
        self.image_shape = (images.shape[1], size[0], size[1])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: list[int]) -> list[Item]:
        """Items of one batch; PyTorch's DataLoader calls this once instead of n times."""
        images, labels, _ = self.batch(indices)
        ids = labels.tolist() if labels.ndim == 1 else labels
        return list(zip(images, ids, indices, strict=True))

    def batch(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images uint8 ``[n, C, H, W]``, labels, indices int64, on the dataset's device."""
        indices = torch.as_tensor(indices, dtype=torch.int64, device=self.images.device)
        return self._sized(self.images[indices]), self.labels[indices], indices

    def subset(self, rows: Sequence[int] | np.ndarray | Tensor) -> ArrayDataset:
        """A dataset of its own holding a copy of these rows, numbered from 0."""
        rows = torch.as_tensor(rows, dtype=torch.int64, device=self.images.device)
        return ArrayDataset(self.images[rows], self.labels[rows], image_size=self.image_size)

    def resized(self, image_size: int) -> ArrayDataset:
        return ArrayDataset(self.images, self.labels, image_size=image_size)

    def to(self, device: torch.device | str) -> ArrayDataset:
        """The same dataset with images and labels on ``device``."""
        return ArrayDataset(
            self.images.to(device), self.labels.to(device), image_size=self.image_size
        )

    def _sized(self, images: Tensor) -> Tensor:
        if images.shape[1:] == self.image_shape:
            return images
        height, width = images.shape[2:]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = images[:, :, top : top + side, left : left + side].float()
        scaled = F.interpolate(square, size=self.image_shape[1:], mode="bilinear", antialias=True)
        return scaled.round_().clamp_(0, 255).to(torch.uint8)
