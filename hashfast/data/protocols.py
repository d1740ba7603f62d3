"""Named protocols: which images are queries, which train, which are searched."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from hashfast.data import pools
from hashfast.data.recipe import Share

Sizes = tuple[int | None, int | None, int | None]


@dataclass(frozen=True)
class Protocol:
    """A row of PROTOCOLS. ``query``, ``train`` and ``train_in_database`` are split_rows' arguments.

    ``read`` gives the images of the source; None stands for HashNet lists, where the lists
    themselves are the split. ``sizes`` are the published (query, train, database) sizes, None
    where they are open; other sizes are warned about. ``num_classes=None``: what the data has.
    """

    description: str
    where: str
    topk: int
    num_classes: int | None
    sizes: Sizes = (None, None, None)
    read: Callable[[str | os.PathLike | None, int | None], pools.Pool] | None = None
    query: Share | Literal["test"] = 0.1
    train: Share | None = None
    train_in_database: bool = True
    multi_label: bool = False


_CIFAR10 = Protocol(
    "CIFAR-10: 100 query and 500 training images a class, the rest is the database",
    where="root= folder holding cifar-10-batches-py/",
    topk=5000,
    num_classes=10,
    sizes=(1000, 5000, 54000),
    read=pools.cifar10,
    query=100,
    train=500,
    train_in_database=False,
)
_IMAGENET = Protocol(
    "10 ImageNet classes by HashNet lists",
    where="root= folder with train.txt, test.txt, database.txt and the pictures they name",
    topk=1000,
    num_classes=10,
    sizes=(500, 1300, 13000),
)
_NUSWIDE = replace(
    _IMAGENET,
    description="NUS-WIDE, 21 concepts, by HashNet lists; multi-label (HSWD's sizes)",
    topk=5000,
    num_classes=21,
    sizes=(5000, 10000, None),
    multi_label=True,
)

PROTOCOLS: dict[str, Protocol] = {
    "digits": replace(
        _CIFAR10,
        description="scikit-learn's 8x8 digits: 20 query and 50 training images a class",
        where="embedded in scikit-learn",
        topk=1000,
        sizes=(200, 500, 1097),
        read=pools.digits,
        query=20,
        train=50,
    ),
    "fashion-mnist": replace(
        _CIFAR10,
        description="Fashion-MNIST, 70,000 images, by the cifar10 recipe",
        where="Debian package dataset-fashion-mnist, or root= folder with the idx files",
        sizes=(1000, 5000, 64000),
        read=pools.fashion_mnist,
    ),
    "cifar10": _CIFAR10,
    "cifar10-1": replace(
        _CIFAR10,
        description="CIFAR-10: as cifar10, and the training images are in the database too",
        sizes=(1000, 5000, 59000),
        train_in_database=True,
    ),
    "cifar10-2": replace(
        _CIFAR10,
        description="CIFAR-10: official test set queries, official training set trained on and "
        "searched",
        topk=1000,
        sizes=(10000, 50000, 50000),
        query="test",
        train=None,
        train_in_database=True,
    ),
    "cifar10-brcd": replace(
        _CIFAR10,
        description="CIFAR-10 as in BRCD: 1,000 query and 500 training images a class, all but "
        "the queries searched",
        topk=1000,
        sizes=(10000, 5000, 50000),
        query=1000,
        train_in_database=True,
    ),
    "cifar100": replace(
        _CIFAR10,
        description="CIFAR-100 by the cifar10 recipe at a tenth a class: 10 query, 50 training",
        where="root= folder holding cifar-100-python/",
        num_classes=100,
        read=pools.cifar100,
        query=10,
        train=50,
    ),
    "imagenet10": _IMAGENET,
    "imagenet20": replace(
        _IMAGENET,
        description="20 ImageNet classes by HashNet lists",
        num_classes=20,
        sizes=(1000, 2600, 26000),
    ),
    "imagenet100": replace(
        _IMAGENET,
        description="100 ImageNet classes by HashNet lists",
        num_classes=100,
        sizes=(5000, 13000, None),
    ),
    "nuswide21": _NUSWIDE,
    "nuswide21-dhd": replace(
        _NUSWIDE,
        description="NUS-WIDE, 21 concepts, by HashNet lists; multi-label (DHD's sizes: 100 query "
        "and 500 training images a concept)",
        sizes=(2100, 10500, None),
    ),
    "coco": replace(
        _NUSWIDE,
        description="MS COCO, 80 categories, by HashNet lists; multi-label",
        num_classes=80,
    ),
    "folder": Protocol(
        "your own pictures, one folder per class: a tenth of each class queries, the rest is "
        "trained on and searched (load_folder has other shares)",
        where="root= folder with one sub-folder per class",
        topk=1000,
        num_classes=None,
        read=pools.folder,
    ),
    "csv": Protocol(
        "your own CSV file with columns path,label[,split]; without the last, split as folder is",
        where="root= the CSV file; paths in it are relative to its folder",
        topk=1000,
        num_classes=None,
        read=pools.table,
    ),
    "list": replace(
        _IMAGENET,
        description="your own HashNet lists: lines 'path classid' or 'path 0 1 0 ...'; test.txt "
        "holds the queries",
        num_classes=None,
        sizes=(None, None, None),
    ),
}
