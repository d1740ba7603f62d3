import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import tyro

from hashfast.cli._run import Output

if TYPE_CHECKING:
    from collections.abc import Callable

    from hashfast.data import FileDataset, ImageDataset
    from hashfast.hashing import HashModel

UNREADABLE_FILE = "unreadable.csv"


class Source(NamedTuple):
    """What to encode, the names of its items and classes, and what to store about it."""

    dataset: "ImageDataset"
    item: "Callable[[int], str]"
    class_names: tuple[str, ...]
    info: dict[str, Any]


@dataclass(frozen=True)
class Command:
    """Turn pictures, or a protocol's images, into a gallery of codes."""

    source: Annotated[str, tyro.conf.Positional]
    """A folder of pictures (sub-folders are its classes), a picture, or a protocol like digits."""
    model: Path
    """Folder of a trained model."""
    out: Path
    """Folder for the gallery."""
    split: Literal["database", "query", "train"] = "database"
    """Which set of a protocol."""
    root: Path | None = None
    """Where a protocol's data lies."""
    split_seed: int = 0
    """Seed of the protocol's split."""
    batch_size: int = 256
    """Images a step."""
    workers: int = 0
    """Processes that decode pictures."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""
    strict: bool = False
    """Fail at the first unreadable picture instead of listing it in unreadable.csv."""
    overwrite: bool = False
    """Replace a gallery that is there already."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be at least 1")
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}; it must not be negative")

    def run(self) -> Output:
        from hashfast._environment import environment
        from hashfast.hashing import HashModel, encode_dataset
        from hashfast.hashing.loading import resolve_device
        from hashfast.index import Gallery

        check_out(self.out, self.overwrite)
        device = resolve_device(self.device)
        model = HashModel.from_pretrained(self.model, str(device))
        source = self._read(model)
        codes, _, labels, indices, unreadable = encode_dataset(
            model,
            source.dataset,
            batch_size=self.batch_size,
            workers=self.workers,
            strict=self.strict,
            progress=True,
        )
        if not len(codes):
            raise ValueError(
                f"none of the {len(source.dataset)} pictures in {self.source} is readable; the "
                f"first: {unreadable[0][1]}"
            )
        info = {
            **source.info,
            "model": str(self.model.resolve()),
            "fingerprint": model.fingerprint(),
            "environment": environment(device),
        }
        items = [source.item(int(i)) for i in indices]
        gallery = Gallery.of(
            codes.numpy(), model.bits, items, labels.numpy(), info, source.class_names
        )
        gallery.save(self.out)
        list_unreadable(self.out, [(source.item(i), reason) for i, reason in unreadable])
        left_out = f"; {len(unreadable)} unreadable, see unreadable.csv" if unreadable else ""
        return Output(
            f"{len(codes)} codes of {model.bits} bits in {self.out}{left_out}",
            {**info, "codes": len(codes), "unreadable": len(unreadable), "out": str(self.out)},
        )

    def _read(self, model: "HashModel") -> Source:
        from hashfast.data import PROTOCOLS, FileDataset, load

        channels, size, _ = model.config.image_shape
        path = Path(self.source)
        if self.source in PROTOCOLS and not path.is_dir():
            splits = load(self.source, self.root, self.split_seed, size)
            dataset = getattr(splits, self.split)
            if dataset.image_shape[0] != channels:
                raise ValueError(
                    f"{self.source} has images of {dataset.image_shape[0]} channels and the model "
                    f"in {self.model} takes {channels} (1: grey, 3: RGB): encode with a model that "
                    "was trained on such images"
                )
            info = {"source": self.source, "protocol": splits.describe(), "split": self.split}
            if isinstance(dataset, FileDataset):
                return Source(dataset, _path_of(dataset), splits.class_names, info)
            name = f"{self.source}/{self.split}"
            return Source(dataset, lambda row: f"{name}/{row}", splits.class_names, info)
        if not path.exists():
            raise FileNotFoundError(
                f"{self.source} is neither a folder, nor a picture, nor a protocol "
                f"({', '.join(PROTOCOLS)})"
            )
        if path.is_file():
            files = FileDataset([self.source], image_size=size, channels=channels)
        else:
            try:
                files = FileDataset.from_classes(
                    path, image_size=size, channels=channels, loose=True
                )
            except FileNotFoundError:
                files = FileDataset.from_folder(path, image_size=size, channels=channels)
        info = {"source": os.path.abspath(path)}
        return Source(files, _path_of(files), files.class_names, info)


def _path_of(files: "FileDataset") -> "Callable[[int], str]":
    """Item names that lead to the pictures from any working folder."""
    return lambda row: os.path.abspath(files.path(row))


def list_unreadable(out: Path, unreadable: list[tuple[str, str]]) -> None:
    """Write (item, reason) of what is not in a gallery beside it, or remove an older such list."""
    from hashfast._files import atomic_write
    from hashfast.index.gallery import csv_bytes

    path = out / UNREADABLE_FILE
    if not unreadable:
        path.unlink(missing_ok=True)
        return
    with atomic_write(path) as file:
        file.write(csv_bytes([("item", "reason"), *unreadable]))


def read_unreadable(folder: Path) -> list[tuple[str, str]]:
    """What `list_unreadable` wrote; nothing where there is no list."""
    path = folder / UNREADABLE_FILE
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return [(item, reason) for item, reason in csv.reader(file)][1:]


def check_out(out: Path, overwrite: bool) -> None:
    """Refuse, before anything is computed, a folder whose gallery would be lost."""
    from hashfast.index.gallery import CODES_FILE, INFO_FILE, ITEMS_FILE

    if not overwrite and any((out / name).exists() for name in (CODES_FILE, ITEMS_FILE, INFO_FILE)):
        raise FileExistsError(
            f"{out} holds a gallery already: --overwrite replaces it, or choose another --out"
        )
