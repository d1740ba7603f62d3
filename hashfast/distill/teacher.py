"""The model that is learnt from: its outputs, computed once where they can be."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hashfast._cache import ArrayCache
from hashfast.data import ImageDataset, Splits
from hashfast.hashing import Encoded, HashModel
from hashfast.hashing.features import Loading, described_part, known_labels, rows_of_images
from hashfast.hashing.model import inference
from hashfast.ops import pack


class Teacher:
    """A trained model, and a cache of what it gives for whole sets (default: for this object).

    Outputs are float32 [N, bits] before sign; a row of NaN is a picture that cannot be read.
    """

    def __init__(
        self, folder: Path, arrays: ArrayCache | None = None, loading: Loading | None = None
    ) -> None:
        arrays, loading = arrays or ArrayCache(None), loading or Loading(torch.device("cpu"))
        self.model = HashModel.from_pretrained(folder, str(loading.device)).requires_grad_(False)
        self.folder, self.arrays, self.loading = folder, arrays, loading
        self.fingerprint = self.model.fingerprint()

    @property
    def bits(self) -> int:
        return self.model.bits

    def outputs(self, images: Tensor) -> Tensor:
        """Outputs float32 [n, bits] for images [n, C, H, W], uint8 or float in [0, 1], any size."""
        size = self.model.config.image_shape[1:]
        if images.dtype == torch.uint8:
            images = images.float() / 255
        if images.shape[2:] != size:
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True).clamp_(0, 1)
        with inference(self.model):
            outputs = self.model(images).float()
        return outputs.clone()  # one that a loss may keep for its backward pass

    def of(self, splits: Splits, part: str) -> np.ndarray:
        """Outputs for the set called `part`, its pictures scaled to the teacher's own size."""
        dataset = getattr(splits, part).resized(self.model.config.image_shape[1])
        return self.of_images(dataset, described_part(splits, part))

    def of_images(self, dataset: ImageDataset, settings: dict[str, Any]) -> np.ndarray:
        """Outputs for a dataset that `settings` describe."""

        def chunks() -> Iterator[np.ndarray]:
            return rows_of_images(
                dataset, lambda images, _: self.outputs(images), self.bits, "teacher", self.loading
            )

        key = {"teacher": self.fingerprint, **settings}
        return self.arrays.get("teacher", key, (len(dataset), self.bits), "<f4", chunks)

    def encoded(self, splits: Splits, part: str) -> Encoded:
        """Codes of the readable pictures of the set called `part`."""
        outputs = torch.from_numpy(self.of(splits, part).copy())
        indices = (~outputs[:, 0].isnan()).nonzero().flatten()
        labels = known_labels(getattr(splits, part))[indices]
        return Encoded(pack(outputs[indices]), outputs[indices], labels, indices, [])


def signs(outputs: Tensor) -> Tensor:
    """Codes -1 and +1 of outputs, as stored codes have them: 0 counts as -1."""
    return torch.where(outputs > 0, 1.0, -1.0)
