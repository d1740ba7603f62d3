"""Text lists of pictures and their labels, as published with HashNet."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import numpy as np
from torch import Tensor

from hashfast._inputs import check_labels


def read_list(
    path: str | os.PathLike,
    root: str | os.PathLike | None = None,
    strip_prefix: str | None = None,
) -> tuple[list[str], Tensor]:
    """File names and labels of a text list as published with HashNet (one picture a line).

    ``name 0 1 0 ...`` gives float32 multi-hot labels, ``name 3`` int64 class ids. Blank lines,
    trailing spaces and a missing final newline are fine, names may hold spaces. Names are relative
    to ``root`` (default: the list's folder). Published lists carry the folders of the machine they
    were made on: ``strip_prefix`` is cut off every name that starts with it; left at None it is
    worked out from the first name, as the fewest leading folders to drop before the file exists.

    Raises FileNotFoundError when the list or its first picture is missing, ValueError naming the
    line for anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"list {path} does not exist")
    files: list[str] = []
    labels: list[list[int]] = []
    width = 0
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        width = width or _label_width(line)
        fields = line.strip().rsplit(maxsplit=width)
        try:
            values = [int(field) for field in fields[1:]]
        except ValueError:
            values = []
        if len(values) != width or not values:
            raise ValueError(
                f"{path}, line {number}: expected a file name and {width or 'its'} label(s) like "
                f"the first line ('name 0 1 0 ...' or 'name classid'); got {line[:80]!r}"
            )
        files.append(fields[0])
        labels.append(values)
    if not files:
        raise ValueError(f"list {path} is empty; expected lines 'name 0 1 0 ...' or 'name classid'")
    root = path.parent if root is None else Path(root)
    files = strip_folders(files, root, path, strip_prefix)
    array = np.array(labels)
    try:
        checked = check_labels(array[:, 0] if width == 1 else array)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return files, checked


def strip_folders(
    files: list[str], root: Path, source: Path, strip_prefix: str | None = None
) -> list[str]:
    """The names in `source`, relative to `root`, without the folders of another machine.

    ``strip_prefix`` None is worked out from the first name (see read_list). Raises
    FileNotFoundError when that picture is not below ``root``.
    """
    prefix = _machine_prefix(files[0], root, source) if strip_prefix is None else strip_prefix
    return [file.removeprefix(prefix) for file in files]


def _label_width(line: str) -> int:
    """How many integers end the line, leaving at least one field for the name."""
    width = 0
    for field in reversed(line.split()[1:]):
        if not field.lstrip("-").isdecimal():
            break
        width += 1
    return width


def _machine_prefix(name: str, root: Path, path: Path) -> str:
    if (root / name).is_file():  # also an absolute name that is right
        return ""
    parts = PurePosixPath(name).parts
    for skip in range(1, len(parts)):
        tail = str(PurePosixPath(*parts[skip:]))
        if (root / tail).is_file():
            return name.removesuffix(tail)
    raise FileNotFoundError(
        f"{path}: the first picture, {name}, is not below {root} (nor is any shorter tail of that "
        "name): put the pictures there, or in Python pass root=, the folder that holds them"
    )
