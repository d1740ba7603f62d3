"""Features of a frozen backbone, computed once and kept."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from hashfast._cache import ArrayCache
from hashfast._runs import digest
from hashfast.data import ArrayDataset, FileDataset, ImageDataset, Splits, UnreadableImage
from hashfast.hashing.encode import Encoded, name_of
from hashfast.hashing.loading import batches, seed_draws
from hashfast.hashing.model import (
    HashModel,
    first_not_finite,
    inference,
    not_finite_error,
    weights_digest,
)
from hashfast.ops import pack

BATCH = 256
"""Images that go through a network together; part of what the draws of their views depend on."""


class FeatureDataset(ImageDataset):
    """Features of a dataset's images in the place of the images.

    views: arrays float32 [N, F], one for every view of the images; a row of NaN is a picture that
    cannot be read. `batch` gives features [n, V, F] of the readable ones, labels and indices.
    Raises TypeError for a dataset whose labels are only known by reading its items.
    """

    in_memory = True
    labels: Tensor

    def __init__(self, views: Sequence[np.ndarray], dataset: ImageDataset) -> None:
        self.views, self.labels = views, known_labels(dataset)
        self.image_shape = dataset.image_shape
        self.unreadable = unreadable_rows(views[0], dataset)
        """Why items are in no batch, by number."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor, int]:
        features, labels, _ = self.batch([index])
        if not len(features):
            raise UnreadableImage(f"item {index} could not be read")
        return features[0], int(labels[0]) if labels.ndim == 1 else labels[0], index

    def batch(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        indices = torch.as_tensor(indices, dtype=torch.int64)
        rows = indices.numpy()
        features = torch.stack([torch.from_numpy(view[rows]) for view in self.views], 1)
        readable = ~features[:, 0, 0].isnan()
        indices = indices[readable]
        return features[readable], self.labels[indices], indices


class FeatureCache:
    """Computes the features of a model's backbone for the sets of a protocol, or reads them."""

    def __init__(
        self, model: HashModel, arrays: ArrayCache, workers: int = 0, progress: bool = False
    ) -> None:
        self.model, self.arrays, self.workers, self.progress = model, arrays, workers, progress
        settings = asdict(model.config)
        del settings["head"], settings["bits"]
        self.backbone = weights_digest(settings, model.backbone.state_dict())

    def of(
        self,
        splits: Splits,
        part: str,
        augmentation: nn.Module | None = None,
        name: str = "none",
        views: int = 1,
        seed: int = 0,
    ) -> FeatureDataset:
        """Features of the set called `part`: of its images, or of `views` random views of them.

        augmentation: a module from images to views, called `name`; its draws depend on (seed, view)
        alone.
        """
        dataset = getattr(splits, part)
        settings = described_part(splits, part)
        if augmentation is None:
            return FeatureDataset([self.array(dataset, settings)], dataset)
        arrays = []
        for view in range(views):
            place = {"augment": name, "seed": seed, "view": view}
            seeded = partial(_seeded, augmentation, self.model.mean.device, seed, view)
            arrays.append(self.array(dataset, settings | place, seeded))
        return FeatureDataset(arrays, dataset)

    def array(
        self,
        dataset: ImageDataset,
        settings: dict[str, Any],
        views: Callable[[Tensor, int], Tensor] | None = None,
    ) -> np.ndarray:
        """Features float32 [N, F] of a dataset that `settings` describe.

        views(images, chunk): views of the images of the chunk of that number; None: the images.
        """
        width: Any = self.model.backbone.num_features
        loading = Loading(self.model.mean.device, self.workers, self.progress)

        def features(images: Tensor, chunk: int) -> Tensor:
            return self.model.features(images if views is None else views(images, chunk))

        def chunks() -> Iterator[np.ndarray]:
            with inference(self.model):
                yield from rows_of_images(dataset, features, width, "features", loading)

        key = {"backbone": self.backbone, **settings}
        return self.arrays.get("features", key, (len(dataset), width), "<f4", chunks)


class Loading(NamedTuple):
    """Where images go, by how many processes they are decoded, whether progress is shown."""

    device: torch.device
    workers: int = 0
    progress: bool = False


def rows_of_images(
    dataset: ImageDataset,
    compute: Callable[[Tensor, int], Tensor],
    width: int,
    what: str,
    loading: Loading,
) -> Iterator[np.ndarray]:
    """float32 [BATCH, width] of compute(images, chunk) for all images; NaN for the unreadable.

    Raises UnreadableImage when nothing is readable, and ValueError naming an image for which not
    all values are finite.
    """
    reasons: list[str] = []
    rows = torch.arange(len(dataset)).split(BATCH)
    loaded = batches(dataset, rows, loading.device, loading.workers)
    with tqdm(total=len(dataset), unit="img", desc=what, disable=not loading.progress) as bar:
        for chunk, (chosen, (batch, failed)) in enumerate(zip(rows, loaded, strict=True)):
            reasons += [reason for _, reason in failed]
            found = torch.full((len(chosen), width), torch.nan)
            if batch is not None:
                images, _, indices = batch
                computed = compute(images, chunk).float().cpu()
                row = first_not_finite(computed)
                if row is not None:
                    raise not_finite_error(f"item {int(indices[row])}")
                found[indices.cpu() - chosen[0]] = computed
            yield found.numpy()
            bar.update(len(chosen))
    if len(reasons) == len(dataset):
        raise UnreadableImage(f"no picture is readable, the first: {reasons[0]}")


def unreadable_rows(kept: np.ndarray, dataset: ImageDataset) -> dict[int, str]:
    """Why rows of NaN in what was computed once are there, by number."""
    rows = np.flatnonzero(np.isnan(kept[:, 0])).tolist()
    return {row: f"item {row}{name_of(dataset, row)} could not be read" for row in rows}


def encode_features(model: HashModel, features: FeatureDataset) -> Encoded:
    """Codes of a dataset from the first view of its features, as `encode_dataset` gives them."""
    device = model.mean.device
    parts = []
    with inference(model):
        for rows in torch.arange(len(features)).split(4096):
            found, labels, indices = features.batch(rows)
            parts.append((model.head(found[:, 0].to(device)).float().cpu(), labels, indices))
    outputs, labels, indices = (torch.cat(part) for part in zip(*parts, strict=True))
    unreadable = list(features.unreadable.items())
    return Encoded(pack(outputs), outputs, labels, indices, unreadable)


def described_part(splits: Splits, part: str) -> dict[str, Any]:
    """What tells the set called `part` from others: the pixels of arrays; of files where they are,
    how large and when they were written.

    Raises TypeError for another kind of dataset in splits without a fingerprint.
    """
    dataset = getattr(splits, part)
    if isinstance(dataset, ArrayDataset):
        content = hashlib.sha256(dataset.images.cpu().numpy().tobytes()).hexdigest()
        return {"pixels": content, "stored": list(dataset.images.shape), **_shape(dataset)}
    if isinstance(dataset, FileDataset):
        root = os.path.realpath(dataset.root)
        files = [(name, *_stamp(os.path.join(root, name))) for name in dataset.files]
        return {"files": digest({"root": root, "files": files}), **_shape(dataset)}
    if not splits.fingerprint:
        raise TypeError(
            f"what is computed once for a {type(dataset).__name__} could be taken for that of "
            "other images: give the splits a fingerprint, or hold the images in an ArrayDataset"
        )
    return {"protocol": splits.describe(), "part": part, **_shape(dataset)}


def _stamp(path: str) -> tuple[int, int]:
    """Size and time of a file; zeros where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def _shape(dataset: ImageDataset) -> dict[str, Any]:
    return {"image_shape": list(dataset.image_shape)}


def known_labels(dataset: ImageDataset) -> Tensor:
    """All labels of a dataset. Raises TypeError where they are only known by reading its items."""
    if dataset.labels is None:
        raise TypeError(
            "what is computed once is kept beside labels, and those of this dataset are only known "
            "by reading its items: give it a `labels` attribute"
        )
    return dataset.labels


def _seeded(
    augmentation: nn.Module, device: torch.device, seed: int, view: int, images: Tensor, chunk: int
) -> Tensor:
    seed_draws(device, "features", seed, view, chunk)
    return augmentation(images)
