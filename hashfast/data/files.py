"""Pictures on disk: class folders, plain folders and text lists, decoded when asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hashfast._inputs import Labels, check_labels
from hashfast.data.base import ImageDataset, Item
from hashfast.data.lists import read_list
from hashfast.data.pictures import to_image

SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif",
    ".tiff", ".webp",
)  # fmt: skip
WITHOUT_CLASSES = (
    "Pictures without classes cannot be evaluated; methods without labels train on them as "
    "--data list, all in class 0; to find similar ones and near-duplicates, `hashfast encode "
    "FOLDER --out GALLERY` needs neither classes nor a model"
)


class FileDataset(ImageDataset):
    """Dataset over picture files, decoded by :func:`to_image` when an item is asked for.

    ``files`` are paths relative to ``root`` (an absolute one stands for itself); labels are int
    class ids ``[n]``, 0/1 multi-hot ``[n, classes]`` or None (every label is -1). Reading an item
    raises UnreadableImage, naming the file, where it cannot be decoded.
    """

    labels: Tensor

    def __init__(
        self,
        files: Sequence[str],
        labels: Labels | None = None,
        *,
        root: str | os.PathLike = "",
        image_size: int = 224,
        channels: int = 3,
        class_names: Sequence[str] = (),
    ) -> None:
        labels = torch.full((len(files),), -1) if labels is None else check_labels(labels)
        if len(labels) != len(files):
            raise ValueError(f"{len(files)} files but {len(labels)} labels")
        self.files = list(files)
        self.labels = labels
        self.root = os.fspath(root)
        self.image_shape = (channels, image_size, image_size)
        self.class_names = tuple(class_names)

    @classmethod
    def from_classes(
        cls,
        root: str | os.PathLike,
        *,
        image_size: int = 224,
        channels: int = 3,
        loose: bool = False,
    ) -> FileDataset:
        """``root/<class>/**/*.jpg``: classes are the sub-folders holding pictures, in name order.

        Pictures directly in ``root`` have no class and are left out; with ``loose`` they come last,
        labelled -1. Raises FileNotFoundError when there is no such sub-folder.
        """
        folders = {
            name: find_pictures(os.path.join(root, name))
            for name in sorted(os.listdir(_existing(root)))
            if not name.startswith(".") and os.path.isdir(os.path.join(root, name))
        }
        folders = {name: files for name, files in folders.items() if files}
        if not folders:
            raise FileNotFoundError(
                f"no class folders in {root}: looked for <class>/ with pictures "
                f"({_suffixes()}) inside. Put the pictures of each class in a folder of its own. "
                f"{WITHOUT_CLASSES}"
            )
        files = [os.path.join(name, file) for name in folders for file in folders[name]]
        labels = np.repeat(np.arange(len(folders)), [len(files) for files in folders.values()])
        if loose:
            unlabelled = [
                name
                for name in sorted(os.listdir(root))
                if _is_picture(name) and os.path.isfile(os.path.join(root, name))
            ]
            files += unlabelled
            labels = np.append(labels, np.full(len(unlabelled), -1))
        return cls(
            files,
            labels,
            root=root,
            image_size=image_size,
            channels=channels,
            class_names=tuple(folders),
        )

    @classmethod
    def from_folder(
        cls, root: str | os.PathLike, *, image_size: int = 224, channels: int = 3
    ) -> FileDataset:
        """Every picture below ``root``, in path order, without labels (-1).

        Hidden files and folders are left out, links to folders are not followed. Raises
        FileNotFoundError when there is no picture.
        """
        files = find_pictures(root)
        if not files:
            raise FileNotFoundError(f"no pictures in {root}: looked for {_suffixes()} below it")
        return cls(files, root=root, image_size=image_size, channels=channels)

    @classmethod
    def from_list(
        cls,
        path: str | os.PathLike,
        root: str | os.PathLike | None = None,
        strip_prefix: str | None = None,
        *,
        image_size: int = 224,
        channels: int = 3,
    ) -> FileDataset:
        """The pictures of a HashNet text list; arguments and errors are those of read_list."""
        files, labels = read_list(path, root, strip_prefix)
        root = Path(path).parent if root is None else root
        return cls(files, labels, root=root, image_size=image_size, channels=channels)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Item:
        index = range(len(self))[index]
        channels, image_size, _ = self.image_shape
        label = self.labels[index]
        image = to_image(self.path(index), image_size, channels)
        return image, int(label) if label.ndim == 0 else label, index

    def path(self, index: int) -> str:
        """Where item ``index`` is read from."""
        return os.path.join(self.root, self.files[index])

    def resized(self, image_size: int) -> FileDataset:
        return FileDataset(
            self.files,
            self.labels,
            root=self.root,
            image_size=image_size,
            channels=self.image_shape[0],
            class_names=self.class_names,
        )

    def subset(self, rows: Sequence[int] | np.ndarray | Tensor) -> FileDataset:
        """A dataset of its own over these rows, numbered from 0."""
        rows = torch.as_tensor(rows, dtype=torch.int64)
        return FileDataset(
            [self.files[row] for row in rows.tolist()],
            self.labels[rows],
            root=self.root,
            image_size=self.image_shape[1],
            channels=self.image_shape[0],
            class_names=self.class_names,
        )


def find_pictures(root: str | os.PathLike) -> list[str]:
    """Paths, relative to ``root`` and sorted, of the visible picture files below it."""
    found = []
    for folder, folders, files in os.walk(_existing(root)):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = os.path.relpath(folder, root)
        found += [
            os.path.normpath(os.path.join(inside, name)) for name in files if _is_picture(name)
        ]
    return sorted(found)


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def _existing(root: str | os.PathLike) -> str:
    if not os.path.isdir(root):
        what = "is a file, expected a folder" if os.path.exists(root) else "does not exist"
        raise FileNotFoundError(f"{os.fspath(root)} {what}")
    return os.fspath(root)


def _suffixes() -> str:
    return " ".join(SUFFIXES)
