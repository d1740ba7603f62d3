"""Named protocols, and the user's own pictures, as query, training and database sets."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hashfast._inputs import check_labels
from hashfast.data import pools
from hashfast.data.files import FileDataset
from hashfast.data.protocols import PROTOCOLS, Protocol
from hashfast.data.recipe import Share, split_rows
from hashfast.data.splits import LISTS, Splits, splits_of


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


def load_csv(
    path: str | os.PathLike,
    seed: int = 0,
    image_size: int | None = None,
    *,
    root: str | os.PathLike | None = None,
    query: Share = 0.1,
    train: Share | None = None,
    train_in_database: bool = True,
) -> Splits:
    """``load("csv", path)``: a CSV file with the columns ``path``, ``label`` and maybe ``split``.

    The file is read as read_csv says; ``root`` is the folder its paths are relative to (default:
    its own). Without a split column the sets are drawn by ``seed``: the other arguments are
    split_rows' and count within each class, or within all pictures where these have several labels.
    """
    protocol = replace(
        PROTOCOLS["csv"],
        read=partial(pools.table, pictures=root),
        query=query,
        train=train,
        train_in_database=train_in_database,
    )
    return _load_pool("csv", protocol, path, seed, image_size)


def load_lists(
    folder: str | os.PathLike,
    image_size: int | None = None,
    *,
    root: str | os.PathLike | None = None,
    strip_prefix: str | None = None,
) -> Splits:
    """``load("list", folder)``: the lists train.txt, test.txt (queries) and database.txt.

    ``root`` and ``strip_prefix`` are read_list's. Classes are counted from the lists: the ids from
    0 to the largest, or the columns of 0/1 labels, which become ids if every picture has one class.
    """
    return _load_lists("list", PROTOCOLS["list"], folder, 0, image_size, root, strip_prefix)


def _load_pool(
    name: str,
    protocol: Protocol,
    root: str | os.PathLike | None,
    seed: int,
    image_size: int | None,
) -> Splits:
    assert protocol.read is not None
    pool = protocol.read(root, image_size)
    recipe: dict[str, Any]
    if pool.rows is not None:
        rows, recipe = pool.rows, {"split": "column"}
    else:
        labels = pool.dataset.labels.numpy()
        if labels.ndim == 2:  # balancing classes that overlap has no one answer
            labels = np.zeros(len(labels), np.int64)
        recipe = {
            "query": protocol.query,
            "train": protocol.train,
            "train_in_database": protocol.train_in_database,
        }
        rows = split_rows(labels, test_rows=pool.test_rows, seed=seed, **recipe)
    parts = {part: pool.dataset.subset(chosen) for part, chosen in rows.items()}
    if np.array_equal(rows["train"], rows["database"]):
        parts["train"] = parts["database"]
    return splits_of(name, protocol, parts, pool.class_names, seed, rows, recipe)


def _load_lists(
    name: str,
    protocol: Protocol,
    folder: str | os.PathLike | None,
    seed: int,
    image_size: int | None,
    root: str | os.PathLike | None = None,
    strip_prefix: str | None = None,
) -> Splits:
    if folder is None:
        raise ValueError(f"{name} needs root= (--root): {protocol.where.removeprefix('root= ')}")
    missing = [file for file in LISTS.values() if not Path(folder, file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{name}: looked for {', '.join(LISTS.values())} in {folder}; missing: "
            f"{', '.join(missing)}. They are lists as published with HashNet: one picture a "
            "line, 'name 0 1 0 ...' or 'name classid'"
        )
    parts = {
        part: FileDataset.from_list(
            Path(folder, file), root, strip_prefix, image_size=image_size or 224
        )
        for part, file in LISTS.items()
    }
    if protocol.num_classes is None:
        protocol = _with_own_classes(protocol, parts, folder)
    for part, file in LISTS.items():
        try:
            parts[part].labels = _protocol_labels(parts[part].labels, protocol)
        except ValueError as error:
            raise ValueError(f"{name}, {Path(folder, file)}: {error}") from error
    names = tuple(str(label) for label in range(protocol.num_classes or 0))
    return splits_of(name, protocol, parts, names, seed, rows={}, recipe={"lists": dict(LISTS)})


def _with_own_classes(
    protocol: Protocol, parts: dict[str, FileDataset], folder: str | os.PathLike
) -> Protocol:
    """The protocol with as many classes as its lists have, and multi-label if they are."""
    widths = {LISTS[part]: tuple(dataset.labels.shape[1:]) for part, dataset in parts.items()}
    if len(set(widths.values())) > 1:
        found = ", ".join(f"{file} {width[0] if width else 1}" for file, width in widths.items())
        raise ValueError(f"the lists in {folder} differ in labels a picture: {found}")
    labels = torch.cat([dataset.labels for dataset in parts.values()])
    if labels.ndim == 1:
        return replace(protocol, num_classes=int(labels.max()) + 1)
    several = bool((labels.sum(1) != 1).any())
    return replace(protocol, num_classes=labels.shape[1], multi_label=several)


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
