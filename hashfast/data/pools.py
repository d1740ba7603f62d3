"""Where the images of the named protocols come from. Nothing here uses the network."""

from __future__ import annotations

import gzip
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hashfast._inputs import check_labels
from hashfast.data.arrays import ArrayDataset
from hashfast.data.files import WITHOUT_CLASSES, FileDataset
from hashfast.data.tables import read_csv

FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FASHION_MNIST_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@dataclass(frozen=True)
class Pool:
    """All images of a source; ``test_rows`` are its official test set.

    ``rows`` are the query, train and database rows where the source itself says them.
    """

    dataset: ArrayDataset | FileDataset
    class_names: tuple[str, ...]
    test_rows: np.ndarray | None = None
    rows: dict[str, np.ndarray] | None = None


def read_idx(path: str | os.PathLike) -> np.ndarray:
    """uint8 array of an idx file (the MNIST format), gzipped when the name ends in ``.gz``.

    Raises ValueError for another format or element type, or a size that the header denies.
    """
    path = Path(path)
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        data = file.read()
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an idx file of bytes: it starts with {data[:4]!r}")
    ndim = data[3]
    header = 4 + 4 * ndim
    if len(data) < header:
        raise ValueError(f"{path} is damaged: it ends inside its header ({len(data)} bytes)")
    shape = struct.unpack_from(f">{ndim}I", data, 4)
    payload = np.frombuffer(data, np.uint8, offset=header)
    if payload.size != math.prod(shape):
        raise ValueError(f"{path} is damaged: {payload.size} bytes for shape {list(shape)}")
    return payload.reshape(shape)


def digits(root: str | os.PathLike | None, image_size: int | None) -> Pool:
    """scikit-learn's 1,797 embedded digits, 1 x 8 x 8; grey levels 0..16 scaled to 0..255."""
    from sklearn.datasets import load_digits

    if root is not None:
        raise ValueError(f"digits come with scikit-learn: leave root out (got {root})")
    data = load_digits()
    images = np.rint(data.images[:, None] * (255 / 16)).astype(np.uint8)
    labels = check_labels(data.target, 10)
    return Pool(ArrayDataset(images, labels, image_size=image_size), tuple("0123456789"))


def fashion_mnist(root: str | os.PathLike | None, image_size: int | None) -> Pool:
    """The four idx files of Fashion-MNIST, 1 x 28 x 28: training images, then test images."""
    if root is None:
        folders = [FASHION_MNIST_FOLDER]
    else:
        folders = [Path(root), Path(root, "FashionMNIST", "raw"), Path(root, "raw")]
    names = [
        f"{part}-{kind}-ubyte"
        for kind in ("images-idx3", "labels-idx1")
        for part in ("train", "t10k")
    ]
    for folder in folders:
        found = [_plain_or_gzipped(folder / name) for name in names]
        paths = [path for path in found if path is not None]
        if len(paths) == len(names):
            break
    else:
        raise FileNotFoundError(
            f"Fashion-MNIST not found: looked for {', '.join(names)} (each also with .gz) in "
            f"{', '.join(map(str, folders))}. Install the Debian package dataset-fashion-mnist "
            "(apt-get install dataset-fashion-mnist) and leave root out, or pass root=, a folder "
            "with these files"
        )
    train, test, train_labels, test_labels = (read_idx(path) for path in paths)
    images = np.concatenate((train, test))[:, None]
    labels = check_labels(np.concatenate((train_labels, test_labels)), 10)
    return Pool(
        ArrayDataset(images, labels, image_size=image_size),
        FASHION_MNIST_CLASSES,
        test_rows=np.arange(len(train), len(images)),
    )


def cifar10(root: str | os.PathLike | None, image_size: int | None) -> Pool:
    """CIFAR-10 in its Python format, 3 x 32 x 32: training images, then test images."""
    return _cifar("CIFAR10", root, image_size)


def cifar100(root: str | os.PathLike | None, image_size: int | None) -> Pool:
    """CIFAR-100 (fine labels) in its Python format, 3 x 32 x 32: training, then test images."""
    return _cifar("CIFAR100", root, image_size)


def folder(root: str | os.PathLike | None, image_size: int | None) -> Pool:
    """The user's own pictures, one folder per class, RGB at ``image_size`` (default 224)."""
    if root is None:
        raise ValueError(
            "protocol folder needs root= (--root), a folder with one sub-folder per class"
        )
    dataset = FileDataset.from_classes(root, image_size=image_size or 224)
    if len(dataset.class_names) < 2:
        raise ValueError(
            f"{root} has one class folder, {dataset.class_names[0]}; a split by class needs at "
            f"least two. {WITHOUT_CLASSES}"
        )
    return Pool(dataset, dataset.class_names)


def table(
    root: str | os.PathLike | None,
    image_size: int | None,
    pictures: str | os.PathLike | None = None,
) -> Pool:
    """The user's own CSV file, RGB at ``image_size`` (default 224); its names are relative to
    ``pictures`` (default: its folder)."""
    if root is None:
        raise ValueError(
            "protocol csv needs root= (--root), a CSV file with columns path,label[,split]"
        )
    found = read_csv(root, pictures)
    if len(found.class_names) < 2:
        raise ValueError(
            f"{root} has one class, {found.class_names[0]}; hashing by class needs at least two. "
            f"{WITHOUT_CLASSES}"
        )
    dataset = FileDataset(
        found.files,
        found.labels,
        root=Path(root).parent if pictures is None else pictures,
        image_size=image_size or 224,
        class_names=found.class_names,
    )
    return Pool(dataset, found.class_names, rows=found.rows)


def _cifar(name: str, root: str | os.PathLike | None, image_size: int | None) -> Pool:
    from torchvision import datasets

    reader = getattr(datasets, name)
    if root is None:
        raise ValueError(
            f"{name} needs root= (--root), the folder that holds {reader.base_folder}/"
        )
    root = Path(root)
    root = root.parent if root.name == reader.base_folder else root
    files = [file for file, _ in (*reader.train_list, *reader.test_list)]
    files.append(reader.meta["filename"])
    missing = [file for file in files if not (root / reader.base_folder / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{name} not found: looked for {', '.join(missing)} in {root / reader.base_folder}. "
            f"Unpack {reader.filename} ({reader.url}) there; nothing is downloaded"
        )
    try:
        # torchvision compares MD5 sums before it unpickles anything.
        train, test = (reader(root, train=part, download=False) for part in (True, False))
    except RuntimeError as error:
        raise ValueError(
            f"{name} in {root / reader.base_folder} is damaged: a file's MD5 sum differs from the "
            f"published one; unpack {reader.filename} again"
        ) from error
    images = np.concatenate((train.data, test.data)).transpose(0, 3, 1, 2)
    labels = check_labels([*train.targets, *test.targets], len(train.classes))
    return Pool(
        ArrayDataset(np.ascontiguousarray(images), labels, image_size=image_size),
        tuple(train.classes),
        test_rows=np.arange(len(train.data), len(images)),
    )


def _plain_or_gzipped(path: Path) -> Path | None:
    candidates = (path, path.with_name(path.name + ".gz"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)
