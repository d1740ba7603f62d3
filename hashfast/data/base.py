"""What every dataset of this package promises."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor
from torch.utils.data import Dataset, default_collate

Item = tuple[Tensor, int | Tensor, int]


class ImageDataset(Dataset[Item]):
    """Map-style dataset of ``(image uint8 [C, H, W], label, index)``.

    ``image_shape`` is the ``(C, H, W)`` of every item. ``labels`` holds all labels, int64 ``[n]``
    (-1: unlabelled) or float32 multi-hot ``[n, classes]``, or is None when they are only known by
    reading the items.
    """

    image_shape: tuple[int, int, int]
    labels: Tensor | None
    in_memory = False
    """Whether `batch` is cheap, so that batches need no DataLoader."""

    def resized(self, image_size: int) -> ImageDataset:
        """The same items as squares of `image_size`, scaled from the pictures themselves.

        Raises TypeError where that cannot be done.
        """
        if self.image_shape[1:] == (image_size, image_size):
            return self
        raise TypeError(
            f"{type(self).__name__} gives images of {self.image_shape[1]}x{self.image_shape[2]} "
            f"only, and {image_size}x{image_size} are needed: wrap the pictures in that size"
        )

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Item: ...

    def batch(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images uint8 ``[n, C, H, W]``, labels ``[n]`` or ``[n, classes]``, indices int64."""
        images, labels, positions = default_collate([self[int(i)] for i in indices])
        return images, labels, positions
