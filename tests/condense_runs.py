"""Small condensations that tests share."""

from dataclasses import replace

import numpy as np
import torch

from hashfast.condense import CondenseConfig
from hashfast.data import ArrayDataset, Splits, load

TINY = {
    "data": "digits",
    "width": 4,
    "ipc": 2,
    "networks": 2,
    "inner_steps": 2,
    "real_batch": 5,
    "hashing": "csq",
    "bits": 8,
    "network_epochs": 1,
    "network_images": 20,
    "pool_size": 2,
    "pool_epochs": 1,
    "device": "cpu",
}


def tiny(method: str, **changes) -> CondenseConfig:
    return CondenseConfig(**{**TINY, "method": method, **changes})


def digits() -> Splits:
    return load("digits")


def three_digits() -> Splits:
    """The first three classes."""
    splits = digits()
    parts = {}
    for name in ("query", "train", "database"):
        whole = getattr(splits, name)
        parts[name] = whole.subset((whole.labels < 3).nonzero().squeeze(1))
    return replace(splits, **parts, num_classes=3, class_names=splits.class_names[:3])


def splits_of(images, labels, num_classes: int) -> Splits:
    """A protocol whose three sets are these images."""
    dataset = ArrayDataset(torch.as_tensor(images, dtype=torch.uint8), np.asarray(labels))
    return replace(
        digits(),
        name="made up",
        train=dataset,
        query=dataset,
        database=dataset,
        num_classes=num_classes,
        image_shape=dataset.image_shape,
        class_names=tuple(f"class {c}" for c in range(num_classes)),
    )
