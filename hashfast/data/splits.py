"""The query, training and database sets of a protocol."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from hashfast._inputs import check_labels
from hashfast.data.arrays import ArrayDataset
from hashfast.data.files import FileDataset
from hashfast.data.protocols import PROTOCOLS, Protocol
from hashfast.data.recipe import Share, split_rows

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
    query: ArrayDataset | FileDataset
    train: ArrayDataset | FileDataset
    database: ArrayDataset | FileDataset
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


def load(
    name: str,
    root: str | os.PathLike | None = None,
    seed: int = 0,
    image_size: int | None = None,
) -> Splits:
    """Query, training and database sets of a named protocol (see PROTOCOLS).

    ``root`` is where the data lies (``PROTOCOLS[name].where``), ``seed`` draws the split and
    nothing else, ``image_size`` is the side of the square every image is scaled to (default: the
    native size of array data, 224 for files). Nothing is downloaded. Warns when the sizes are not
    the published ones. Raises ValueError for an unknown name, bad labels or damaged data, and
    FileNotFoundError naming what was looked for.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}; known: {', '.join(PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    if protocol.read is None:
        return _load_lists(name, protocol, root, seed, image_size)
    return _load_pool(name, protocol, root, seed, image_size)


def load_folder(
    root: str | os.PathLike,
    seed: int = 0,
    image_size: int | None = None,
    *,
    query: Share = 0.1,
    train: Share | None = None,
    train_in_database: bool = True,
) -> Splits:
    """``load("folder", root)`` with other shares: see split_rows for what they mean."""
    protocol = replace(
        PROTOCOLS["folder"], query=query, train=train, train_in_database=train_in_database
    )
    return _load_pool("folder", protocol, root, seed, image_size)


def _load_pool(
    name: str,
    protocol: Protocol,
    root: str | os.PathLike | None,
    seed: int,
    image_size: int | None,
) -> Splits:
    assert protocol.read is not None
    pool = protocol.read(root, image_size)
    recipe: dict[str, Any] = {
        "query": protocol.query,
        "train": protocol.train,
        "train_in_database": protocol.train_in_database,
    }
    rows = split_rows(pool.dataset.labels.numpy(), test_rows=pool.test_rows, seed=seed, **recipe)
    parts = {part: pool.dataset.subset(chosen) for part, chosen in rows.items()}
    if protocol.train is None:
        parts["train"] = parts["database"]
    return _splits(name, protocol, parts, pool.class_names, seed, rows, recipe)


def _load_lists(
    name: str,
    protocol: Protocol,
    root: str | os.PathLike | None,
    seed: int,
    image_size: int | None,
) -> Splits:
    if root is None:
        raise ValueError(f"{name} needs root=: {protocol.where.removeprefix('root= ')}")
    missing = [file for file in LISTS.values() if not Path(root, file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{name}: looked for {', '.join(LISTS.values())} in {root}; missing: "
            f"{', '.join(missing)}. They are the lists published with HashNet: one picture a "
            "line, 'name 0 1 0 ...' or 'name classid'"
        )
    parts = {}
    for part, file in LISTS.items():
        dataset = FileDataset.from_list(Path(root, file), image_size=image_size or 224)
        try:
            dataset.labels = _protocol_labels(dataset.labels, protocol)
        except ValueError as error:
            raise ValueError(f"{name}, {Path(root, file)}: {error}") from error
        parts[part] = dataset
    names = tuple(str(label) for label in range(protocol.num_classes or 0))
    return _splits(name, protocol, parts, names, seed, rows={}, recipe={"lists": dict(LISTS)})


def _protocol_labels(labels: Tensor, protocol: Protocol) -> Tensor:
    """Checked labels; the one-hot rows of a single-label list become class ids."""
    assert protocol.num_classes is not None
    labels = check_labels(labels, protocol.num_classes)
    if protocol.multi_label and labels.ndim == 1:
        raise ValueError(
            f"the list has one class id a picture; this protocol needs {protocol.num_classes} "
            "0/1 labels a picture"
        )
    if not protocol.multi_label and labels.ndim == 2:
        wrong = (labels.sum(1) != 1).nonzero()
        if len(wrong):
            row = int(wrong[0])
            raise ValueError(
                f"picture {row} has {int(labels[row].sum())} classes; this protocol has exactly one"
            )
        labels = labels.argmax(1)
    return labels


def _splits(
    name: str,
    protocol: Protocol,
    parts: dict[str, Any],
    class_names: tuple[str, ...],
    seed: int,
    rows: dict[str, np.ndarray],
    recipe: dict[str, Any],
) -> Splits:
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
        multi_label=protocol.multi_label,
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
