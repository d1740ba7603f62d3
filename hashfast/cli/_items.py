"""How items of a gallery are shown to people."""

import os
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hashfast.index import Gallery


def label_of(gallery: "Gallery", row: int) -> int | list[int] | None:
    """Class id or ids of an item; None where it has no label."""
    label = gallery.labels[row]
    if np.ndim(label):
        return np.flatnonzero(label).tolist()
    return int(label) if label >= 0 else None


def class_of(gallery: "Gallery", row: int) -> str | list[str] | None:
    """Name or names of an item's classes; None where there are no names, or no label."""
    names, label = gallery.class_names, label_of(gallery, row)
    if not names or label is None:
        return None
    return [names[i] for i in label] if isinstance(label, list) else names[label]


def label_text(gallery: "Gallery", row: int) -> str:
    """An item's classes in words, by number where they have no names; empty without a label."""
    label, names = label_of(gallery, row), class_of(gallery, row)
    shown = label if names is None else names
    if shown is None:
        return ""
    return ", ".join(map(str, shown)) if isinstance(shown, list) else str(shown)


def path_of(item: str) -> str | None:
    """Where an item lies, or would lie; None for a mere row number, which any gallery may have."""
    return None if item.isdecimal() else os.path.abspath(item)


def printable(text: str) -> str:
    """A name that would break a line, or that no terminal can show, is quoted and escaped."""
    return text if text.isprintable() else repr(text)
