"""The real images of a condensation, by class."""

import warnings
from dataclasses import replace

import torch
from torch import Tensor

from hashfast.data import ArrayDataset, ImageDataset, Splits, UnreadableImage
from hashfast.hashing.loading import batches, resolve_device

_CHUNK = 256


class RealImages:
    """A training set on a device, and random batches of every class of it.

    images uint8 [n, C, H, W]; labels int64 [n]. Raises ValueError for several labels an image and
    for a class without images, UnreadableImage when no picture is readable.
    """

    def __init__(self, splits: Splits, device: torch.device, workers: int = 0) -> None:
        self.images, self.labels = _read(splits.train, device, workers)
        if self.labels.ndim != 1:
            raise ValueError(
                f"{splits.name} has several labels an image; condensation learns images of one "
                "class each: choose a protocol of single labels"
            )
        labels = self.labels.cpu()
        self.rows = [(labels == c).nonzero().squeeze(1) for c in range(splits.num_classes)]
        self.class_names = splits.class_names
        empty = [splits.class_names[c] for c, rows in enumerate(self.rows) if not len(rows)]
        if empty:
            raise ValueError(
                f"the training set of {splits.name} has no images of {', '.join(empty)}: leave "
                "those classes out, or add images"
            )

    def unit(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Images of these rows, floating point in [0, 1]."""
        return self.images[rows].to(dtype) / 255

    def draw(self, per_class: int, generator: torch.Generator) -> Tensor:
        """Rows of up to `per_class` different images of every class (0: all), sorted by class.

        They are where the images are.
        """
        rows = torch.cat(
            [
                rows
                if not per_class or per_class >= len(rows)
                else rows[torch.randperm(len(rows), generator=generator)[:per_class]]
                for rows in self.rows
            ]
        )
        return rows.to(self.images.device)

    def dataset(self) -> ArrayDataset:
        """What a network trains on."""
        return ArrayDataset(self.images, self.labels)


def _read(dataset: ImageDataset, device: torch.device, workers: int) -> tuple[Tensor, Tensor]:
    """All readable images and their labels."""
    parts, unreadable = [], []
    rows = torch.arange(len(dataset)).split(_CHUNK)
    for batch, failed in batches(dataset, rows, device, workers):
        unreadable += failed
        if batch is not None:
            parts.append(batch[:2])
    if not parts:
        first = unreadable[0][1]
        raise UnreadableImage(f"no training picture is readable, the first: {first}")
    if unreadable:
        warnings.warn(
            f"{len(unreadable)} pictures are unreadable and left out, the first: "
            f"{unreadable[0][1]}",
            stacklevel=3,
        )
    images, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    return images, labels


def in_memory(splits: Splits, device: str, workers: int = 0) -> Splits:
    """The protocol with its training images in memory, in the size that models take.

    Files are read once, and all of them are normalised as a set made of them is.
    """
    real = RealImages(splits, resolve_device(device), workers)
    return replace(splits, train=real.dataset())
