"""What `hashfast encode` encodes: pictures, a folder of them, or a set of a protocol."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from hashfast.data import FileDataset, ImageDataset


class Source(NamedTuple):
    """What to encode, the names of its items and classes, and what to store about it."""

    dataset: "ImageDataset"
    item: "Callable[[int], str]"
    class_names: tuple[str, ...]
    info: dict[str, Any]


def read_source(
    source: str, image_size: int, channels: int | None, split: str, root: Path | None, seed: int
) -> Source:
    """The pictures called `source`, squares of `image_size`.

    channels: what the model takes (1: grey, 3: RGB); None leaves a protocol's as they are, and
    makes files RGB. split, root, seed: set of a protocol, where its data lies, seed of its split.
    """
    from hashfast.data import PROTOCOLS, FileDataset

    path = Path(source)
    if source in PROTOCOLS and not path.is_dir():
        return _protocol(source, image_size, channels, split, root, seed)
    if not path.exists():
        raise FileNotFoundError(
            f"{source} is neither a folder, nor a picture, nor a protocol ({', '.join(PROTOCOLS)})"
        )
    channels = channels or 3
    if path.is_file():
        files = FileDataset([source], image_size=image_size, channels=channels)
    else:
        try:
            files = FileDataset.from_classes(
                path, image_size=image_size, channels=channels, loose=True
            )
        except FileNotFoundError:
            files = FileDataset.from_folder(path, image_size=image_size, channels=channels)
    return Source(files, _path_of(files), files.class_names, {"source": os.path.abspath(path)})


def _protocol(
    source: str, image_size: int, channels: int | None, split: str, root: Path | None, seed: int
) -> Source:
    from hashfast.data import FileDataset, load

    splits = load(source, root, seed, image_size)
    dataset = getattr(splits, split)
    if channels is not None and dataset.image_shape[0] != channels:
        raise ValueError(
            f"{source} has images of {dataset.image_shape[0]} channels and the model takes "
            f"{channels} (1: grey, 3: RGB): encode with a model that was trained on such images"
        )
    info = {"source": source, "protocol": splits.describe(), "split": split}
    if isinstance(dataset, FileDataset):
        return Source(dataset, _path_of(dataset), splits.class_names, info)
    return Source(dataset, lambda row: f"{source}/{split}/{row}", splits.class_names, info)


def _path_of(files: "FileDataset") -> "Callable[[int], str]":
    """Item names that lead to the pictures from any working folder."""
    return lambda row: os.path.abspath(files.path(row))
