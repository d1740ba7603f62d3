"""A gallery: codes in a folder, with what they are codes of.

codes.ibxf     the index, in faiss's format where the number of bits allows it
items.csv      row, item (an absolute path, or a name such as digits/database/12), label; UTF-8,
               where bytes of a file name that are not UTF-8 stand as they are
gallery.json   bits, names of the classes, the model that made the codes and its fingerprint, where
               they come from, and a digest of the other two files
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from hashfast._files import atomic_write, read_json
from hashfast.index.base import IndexBinary
from hashfast.index.flat import IndexBinaryFlat, as_flat, load_flat

if TYPE_CHECKING:
    from hashfast.index.auto import IndexBinaryAuto
    from hashfast.index.multi_hash import IndexBinaryMultiHash

CODES_FILE, ITEMS_FILE, INFO_FILE = "codes.ibxf", "items.csv", "gallery.json"
_HEADER = ["row", "item", "label"]


@dataclass
class Gallery:
    """Codes, the item and label of each row, and where they come from.

    items: n names. labels: int64 [n] class ids (-1: none) or multi-hot [n, C].
    info: JSON-ready facts; "model" is the folder of the model that made the codes, "fingerprint"
    its fingerprint. class_names: one for each class id or column, or none at all.
    Raises ValueError when the numbers of codes, items and labels differ, and for class names that
    repeat or do not fit the labels.
    """

    index: "IndexBinaryFlat | IndexBinaryMultiHash | IndexBinaryAuto"
    items: Sequence[str]
    labels: np.ndarray
    info: dict[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.index.ntotal == len(self.items) == len(self.labels):
            raise ValueError(
                f"a gallery of {self.index.ntotal} codes has {len(self.items)} items and "
                f"{len(self.labels)} labels; expected one of each a code"
            )
        if not self.class_names:
            return
        names, classes = len(self.class_names), _num_classes(self.labels)
        if classes > names or (self.labels.ndim == 2 and classes != names):
            raise ValueError(f"labels of {classes} classes have {names} class names")
        if len(set(self.class_names)) < names:
            raise ValueError(f"class names repeat: {', '.join(self.class_names)}")

    @classmethod
    def of(
        cls,
        codes: np.ndarray,
        bits: int,
        items: Sequence[str] | None = None,
        labels: np.ndarray | None = None,
        info: dict[str, Any] | None = None,
        class_names: Sequence[str] = (),
    ) -> Self:
        """A gallery of packed codes uint8 [n, B]; items default to row numbers, labels to -1."""
        index = IndexBinaryFlat(bits)
        index.add(codes)
        names = [str(row) for row in range(len(codes))] if items is None else list(items)
        ids = np.full(len(codes), -1) if labels is None else np.asarray(labels)
        return cls(index, names, ids, dict(info or {}), tuple(class_names))

    @property
    def labelled(self) -> int:
        """How many items have a label."""
        return len(self.labels) if self.labels.ndim == 2 else int((self.labels >= 0).sum())

    def save(self, folder: str | os.PathLike) -> None:
        """Write the three files into `folder`, the codes as a flat index; those that were there are
        replaced together, once all are written."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        items = csv_bytes(
            [_HEADER]
            + [
                [row, item, _label_text(label)]
                for row, (item, label) in enumerate(zip(self.items, self.labels, strict=True))
            ]
        )
        info = {
            **self.info,
            "bits": self.index.d,
            "codes": self.index.ntotal,
            "class_names": list(self.class_names),
            "digest": _digest(self.index, items),
        }
        if self.labels.ndim == 2:
            info["classes"] = self.labels.shape[1]
        if "model" in info:  # both, so that it is found when the two are moved together
            info["model"] = os.path.realpath(info["model"])
            info["model_relative"] = os.path.relpath(info["model"], folder.resolve())
        with ExitStack() as stack:
            files = {
                name: stack.enter_context(atomic_write(folder / name))
                for name in (INFO_FILE, ITEMS_FILE, CODES_FILE)
            }
            as_flat(self.index).write(files[CODES_FILE])
            files[ITEMS_FILE].write(items)
            files[INFO_FILE].write(json.dumps(info, indent=2).encode() + b"\n")
            for file in files.values():  # a full disk shows before the first is replaced
                file.flush()

    @classmethod
    def load(cls, folder: str | os.PathLike, mmap: bool = False) -> Self:
        """Read what `save` wrote; with `mmap` the codes stay on disk.

        All codes are read once either way, for the digest (0.8 GB of them in about a second):
        a gallery of which only some files were copied would give wrong answers. info["model"] is
        where the model lies now, if it moved along with the gallery.

        Raises FileNotFoundError naming a missing file, ValueError for damaged ones and for files
        that are not of the same gallery.
        """
        folder = Path(folder)
        for name in (CODES_FILE, ITEMS_FILE, INFO_FILE):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"no gallery in {folder}: it has no {name}; expected a folder written by "
                    "`hashfast encode` or `hashfast index`"
                )
        info = read_json(folder / INFO_FILE)
        if not isinstance(info, dict):
            raise ValueError(f"{folder / INFO_FILE} does not describe a gallery")
        for name in ("bits", "codes"):
            info.pop(name, None)
        stored, classes = info.pop("digest", None), info.pop("classes", None)
        class_names = info.pop("class_names", [])
        if not isinstance(class_names, list) or not all(isinstance(n, str) for n in class_names):
            raise ValueError(f"{folder / INFO_FILE}: class_names is not a list of names")
        moved = info.pop("model_relative", None)
        if isinstance(moved, str) and (folder.resolve() / moved).is_dir():
            info["model"] = str((folder.resolve() / moved).resolve())
        index = load_flat(folder / CODES_FILE, mmap=mmap)
        text = (folder / ITEMS_FILE).read_bytes()
        found = _digest(index, text)
        if found != stored:
            raise ValueError(
                f"{folder}: {INFO_FILE} is of codes and items with digest {stored}, {CODES_FILE} "
                f"and {ITEMS_FILE} beside it have {found}: they are not of the same gallery, or "
                "were changed; copy all three again, or encode again"
            )
        items, labels = _read_items(text, classes, folder / ITEMS_FILE)
        try:
            return cls(index, items, labels, info, tuple(class_names))
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error

    def with_classes(self, class_names: Sequence[str]) -> Self:
        """The same gallery with the labels' ids those of `class_names`, which has all its names."""
        if tuple(class_names) == self.class_names:
            return self
        ids = {name: row for row, name in enumerate(class_names)}
        columns = np.array([ids[name] for name in self.class_names], dtype=np.int64)
        if self.labels.ndim == 1:
            labels = np.append(columns, -1)[np.maximum(self.labels, -1)]
        else:
            labels = np.zeros((len(self.labels), len(ids)), self.labels.dtype)
            labels[:, columns] = self.labels
        return replace(self, labels=labels, class_names=tuple(class_names))


def same_classes(galleries: Sequence[Gallery], called: Sequence[Any]) -> list[Gallery]:
    """The galleries with labels that mean the same: classes of the first, then those of the next.

    Classes are matched by name; where no gallery has names, ids are taken to mean the same.
    `called` is what messages call each gallery. Raises ValueError when labels are of different
    kinds, or only some galleries name their classes.
    """
    first = galleries[0].labels
    pairs = list(zip(galleries, called, strict=True))
    for gallery, name in pairs:
        if gallery.labels.ndim != first.ndim:
            raise ValueError(
                f"{name} and {called[0]} have labels of different kinds: one class, and any number "
                "of classes, an item"
            )
    named = [name for gallery, name in pairs if gallery.class_names]
    unnamed = [name for gallery, name in pairs if gallery.labelled and not gallery.class_names]
    if named and unnamed:
        raise ValueError(
            f"{named[0]} names its classes and {unnamed[0]} does not: their labels cannot be "
            f"matched; make {unnamed[0]} again with `hashfast encode`"
        )
    if named:
        union = tuple(dict.fromkeys(name for g in galleries for name in g.class_names))
        return [gallery.with_classes(union) for gallery in galleries]
    for gallery, name in pairs:
        if gallery.labels.shape[1:] != first.shape[1:]:
            raise ValueError(
                f"{name} has labels of {gallery.labels.shape[1]} classes and {called[0]} of "
                f"{first.shape[1]}, all without names: they cannot be matched"
            )
    return list(galleries)


def csv_bytes(rows: Iterable[Sequence[Any]]) -> bytes:
    """CSV in which any file name survives: every text is quoted, because csv leaves a bare carriage
    return unquoted, and bytes of a name that are not UTF-8 are written as they are."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _read_items(content: bytes, classes: Any, path: Path) -> tuple[list[str], np.ndarray]:
    text = io.TextIOWrapper(io.BytesIO(content), "utf-8", "surrogateescape", newline="")
    rows = csv.reader(text)
    items: list[str] = []
    labels: list[str] = []
    try:
        if next(rows, None) != _HEADER:
            raise ValueError("its header is another")
        for _, item, label in rows:
            items.append(item)
            labels.append(label)
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{path} is not a list of row, item, label: {error}") from error
    try:
        return items, _labels(labels, classes)
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{path}: a label is not readable: {error}") from error


def _digest(index: IndexBinary[Any], items: bytes) -> str:
    """16 hexadecimal digits of the codes and the bytes of items.csv."""
    codes = index.codes if isinstance(index.codes, np.ndarray) else index.codes.cpu().numpy()
    digest = hashlib.sha256(f"{index.d} {index.ntotal}\n".encode())
    digest.update(np.ascontiguousarray(codes).data)
    digest.update(items)
    return digest.hexdigest()[:16]


def _num_classes(labels: np.ndarray) -> int:
    return labels.shape[1] if labels.ndim == 2 else int(labels.max(initial=-1)) + 1


def _label_text(label: Any) -> str:
    if np.ndim(label) == 0:
        return "" if label < 0 else str(int(label))
    return " ".join(str(c) for c in np.flatnonzero(label))


def _labels(texts: list[str], classes: int | None) -> np.ndarray:
    if classes is None:
        return np.array([int(text) if text else -1 for text in texts], dtype=np.int64)
    labels = np.zeros((len(texts), classes), dtype=np.float32)
    for row, text in enumerate(texts):
        labels[row, [int(c) for c in text.split()]] = 1
    return labels
