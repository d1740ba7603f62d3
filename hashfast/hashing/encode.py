"""Codes of a whole dataset."""

from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from hashfast.data import ImageDataset, UnreadableImage
from hashfast.hashing.loading import batches
from hashfast.hashing.model import HashModel, first_not_finite, inference, not_finite_error
from hashfast.hashing.projections import Projection
from hashfast.ops import pack


class Encoded(NamedTuple):
    """codes uint8 [m, B]; outputs float32 [m, bits] before sign; labels and indices [m] of the
    readable items; unreadable: (index, reason) of the others."""

    codes: Tensor
    outputs: Tensor
    labels: Tensor
    indices: Tensor
    unreadable: list[tuple[int, str]]


def encode_dataset(
    model: HashModel,
    dataset: ImageDataset,
    *,
    rows: Tensor | None = None,
    batch_size: int = 512,
    workers: int = 0,
    strict: bool = False,
    progress: bool = False,
) -> Encoded:
    """Codes of every item, in order, computed where the model is and returned on the CPU.

    rows: numbers of the items to encode, int64, instead of all. Unreadable pictures are left out
    and listed; with `strict` the first one raises UnreadableImage. Raises ValueError for images of
    another shape than the model's, and naming the item whose outputs are not finite.
    """
    if tuple(dataset.image_shape) != tuple(model.config.image_shape):
        raise ValueError(
            f"the dataset's images are {_shape(dataset.image_shape)} and the model takes "
            f"{_shape(model.config.image_shape)} (channels x height x width): load the data in "
            "that shape"
        )
    rows = torch.arange(len(dataset)) if rows is None else rows
    parts, unreadable = [], []
    bar = tqdm(total=len(rows), unit="img", desc="encode", disable=not progress)
    with bar, inference(model):
        for batch, failed in batches(dataset, rows.split(batch_size), model.mean.device, workers):
            if strict and failed:
                raise UnreadableImage(failed[0][1])
            unreadable += failed
            bar.update(len(failed))
            if batch is None:
                continue
            images, labels, indices = batch
            outputs = model(images).float()
            row = first_not_finite(outputs)
            if row is not None:
                at = int(indices[row])
                raise not_finite_error(f"item {at}{name_of(dataset, at)}")
            parts.append((outputs.cpu(), labels.cpu(), indices.cpu()))
            bar.update(len(images))
    if not parts:
        empty = torch.empty(0, model.bits)
        none = torch.empty(0, dtype=torch.int64)
        return Encoded(pack(empty), empty, none, none, unreadable)
    outputs, labels, indices = (torch.cat(part) for part in zip(*parts, strict=True))
    return Encoded(pack(outputs), outputs, labels, indices, unreadable)


def default_batch_size(device: torch.device, image_size: int) -> int:
    """Pictures a step: few where large ones meet a CPU, whose memory is slow."""
    return 16 if device.type == "cpu" and image_size > 64 else 256


def fit_projection(model: HashModel, dataset: ImageDataset, batch_size: int = 512) -> HashModel:
    """Fit the `itq` or `random` head of `model` on its backbone's features of a dataset.

    Returns the model. Raises TypeError for a head that is trained instead.
    """
    if not isinstance(model.head, Projection):
        raise TypeError(f"the head {model.config.head!r} is trained, not fitted: use train")
    model.eval()
    rows = torch.arange(len(dataset)).split(batch_size)
    with torch.inference_mode():
        features = [
            model.features(batch[0]).cpu()
            for batch, _ in batches(dataset, rows, model.mean.device)
            if batch is not None
        ]
    model.head.fit(torch.cat(features))
    return model


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def name_of(dataset: ImageDataset, index: int) -> str:
    """Where an item is read from, in brackets; empty for arrays."""
    path = getattr(dataset, "path", None)
    return f" ({path(index)})" if path else ""
