"""The query, training and database sets of a protocol."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hashfast.data.base import ImageDataset
from hashfast.data.files import FileDataset
from hashfast.data.protocols import Protocol

LISTS = {"query": "test.txt", "train": "train.txt", "database": "database.txt"}


@dataclass(frozen=True)
class Splits:
    """Query, training and database sets of one protocol, and what defines them.

    ``topk`` is where the protocol cuts mAP. ``rows`` holds, for each set, the rows of the joined
    source (training images, then test images) it was drawn from; it is empty where lists define
    the sets. ``fingerprint`` is a SHA-256 over the rows, or over the names and labels of files: the
    same split has the same fingerprint on any machine.
    """

    name: str
    query: ImageDataset
    train: ImageDataset
    database: ImageDataset
    num_classes: int
    multi_label: bool
    topk: int
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    seed: int
    fingerprint: str = ""
    rows: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    recipe: dict[str, Any] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """What to store beside a result: JSON-ready, without the images."""
        return {
            "name": self.name,
            "seed": self.seed,
            "sizes": {part: len(getattr(self, part)) for part in LISTS},
            "topk": self.topk,
            "num_classes": self.num_classes,
            "multi_label": self.multi_label,
            "image_shape": list(self.image_shape),
            "recipe": dict(self.recipe),
            "fingerprint": self.fingerprint,
        }


def splits_of(
    name: str,
    protocol: Protocol,
    parts: dict[str, Any],
    class_names: tuple[str, ...],
    seed: int,
    rows: dict[str, np.ndarray],
    recipe: dict[str, Any],
) -> Splits:
    """The sets of a protocol; warns when their sizes are not the published ones."""
    sizes = tuple(len(parts[part]) for part in LISTS)
    differ = [
        want is not None and want != got for want, got in zip(protocol.sizes, sizes, strict=True)
    ]
    if any(differ):
        warnings.warn(
            f"{name}: query/train/database sizes are {_slashed(sizes)}, the published ones "
            f"{_slashed(protocol.sizes)}; results do not compare with published ones",
            stacklevel=4,
        )
    return Splits(
        name=name,
        **parts,
        num_classes=protocol.num_classes or len(class_names),
        multi_label=parts["query"].labels.ndim == 2,
        topk=protocol.topk,
        image_shape=parts["query"].image_shape,
        class_names=class_names,
        seed=seed,
        fingerprint=_fingerprint(parts, rows),
        rows=rows,
        recipe=recipe,
    )


def _slashed(sizes: Sequence[int | None]) -> str:
    return "/".join("rest" if size is None else f"{size:,}" for size in sizes)


def _fingerprint(parts: dict[str, Any], rows: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for part in LISTS:
        dataset = parts[part]
        digest.update(f"{part} {len(dataset)}\n".encode())
        if isinstance(dataset, FileDataset):
            names = "\n".join(Path(file).as_posix() for file in dataset.files)
            digest.update(names.encode("utf-8", "surrogateescape"))
            digest.update(dataset.labels.numpy().tobytes())
        else:
            digest.update(rows[part].astype("<i8").tobytes())
    return digest.hexdigest()
