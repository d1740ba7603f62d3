"""A gallery: codes in a folder, with what they are codes of.

codes.ibxf     the index, in faiss's format where the number of bits allows it
items.csv      row, item (a path, or a name such as digits/database/12), label
gallery.json   bits, the model that made the codes and its fingerprint, where they come from
"""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from hashfast._files import read_json, write_json, write_text
from hashfast.index.flat import IndexBinaryFlat, load_index

CODES_FILE, ITEMS_FILE, INFO_FILE = "codes.ibxf", "items.csv", "gallery.json"


@dataclass
class Gallery:
    """Codes, the item and label of each row, and where they come from.

    items: n names. labels: int64 [n] class ids (-1: none) or multi-hot [n, C].
    info: JSON-ready facts; "fingerprint" is that of the model that made the codes.
    Raises ValueError when the numbers of codes, items and labels differ.
    """

    index: IndexBinaryFlat
    items: list[str]
    labels: np.ndarray
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.index.ntotal == len(self.items) == len(self.labels):
            raise ValueError(
                f"a gallery of {self.index.ntotal} codes has {len(self.items)} items and "
                f"{len(self.labels)} labels; expected one of each a code"
            )

    @classmethod
    def of(
        cls,
        codes: np.ndarray,
        bits: int,
        items: Sequence[str] | None = None,
        labels: np.ndarray | None = None,
        info: dict[str, Any] | None = None,
    ) -> Self:
        """A gallery of packed codes uint8 [n, B]; items default to row numbers, labels to -1."""
        index = IndexBinaryFlat(bits)
        index.add(codes)
        names = [str(row) for row in range(len(codes))] if items is None else list(items)
        ids = np.full(len(codes), -1) if labels is None else np.asarray(labels)
        return cls(index, names, ids, dict(info or {}))

    def save(self, folder: str | os.PathLike) -> None:
        """Write the three files into `folder`, each of them whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.index.save(folder / CODES_FILE)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["row", "item", "label"])
        for row, (item, label) in enumerate(zip(self.items, self.labels, strict=True)):
            writer.writerow([row, item, _label_text(label)])
        write_text(folder / ITEMS_FILE, text.getvalue())
        info = {**self.info, "bits": self.index.d, "codes": self.index.ntotal}
        if self.labels.ndim == 2:
            info["classes"] = self.labels.shape[1]
        write_json(folder / INFO_FILE, info)

    @classmethod
    def load(cls, folder: str | os.PathLike, mmap: bool = False) -> Self:
        """Read what `save` wrote; with `mmap` the codes stay on disk.

        Raises FileNotFoundError naming a missing file, ValueError for damaged ones.
        """
        folder = Path(folder)
        for name in (CODES_FILE, ITEMS_FILE, INFO_FILE):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"no gallery in {folder}: it has no {name}; expected a folder written by "
                    "`hashfast encode` or `hashfast index`"
                )
        info = read_json(folder / INFO_FILE)
        with open(folder / ITEMS_FILE, newline="") as file:
            rows = list(csv.reader(file))
        if not rows or rows[0] != ["row", "item", "label"] or any(len(row) != 3 for row in rows):
            raise ValueError(f"{folder / ITEMS_FILE} is not a list of row, item, label")
        try:
            labels = _labels([row[2] for row in rows[1:]], info.get("classes"))
        except (ValueError, IndexError) as error:
            raise ValueError(f"{folder / ITEMS_FILE}: a label is not readable: {error}") from error
        items = [row[1] for row in rows[1:]]
        return cls(load_index(folder / CODES_FILE, mmap=mmap), items, labels, info)


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
