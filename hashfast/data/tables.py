"""CSV files of pictures, their labels and the sets they belong to."""

from __future__ import annotations

import csv
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from hashfast._inputs import check_labels
from hashfast.data.lists import strip_folders

SETS = ("query", "train", "database")


class Table(NamedTuple):
    """files: names relative to the pictures' folder. labels: int64 ids [n], or float32 multi-hot
    [n, classes] where a picture has several. rows: those of each set, None without a split column.
    """

    files: list[str]
    labels: Tensor
    class_names: tuple[str, ...]
    rows: dict[str, np.ndarray] | None


def read_csv(path: str | os.PathLike, root: str | os.PathLike | None = None) -> Table:
    """Pictures of a CSV file with a header and the columns ``path``, ``label`` and maybe ``split``.

    A label is an id or a name; a picture of several classes has several, separated by ``|`` or
    ``;``, and makes the labels multi-hot. Classes are numbered in the order of their ids, or of
    their names unless all are ids. ``split`` is query, train or database, or several of them
    (``train|database``). Other columns are left alone. Paths are relative to ``root`` (default: the
    file's folder); leading folders of another machine are dropped as by read_list.

    Raises FileNotFoundError when the file or its first picture is missing, ValueError naming the
    line for anything else. Warns of queries that are in the database too.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder, expected a CSV file" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {what}")
    names: list[str] = []
    labels: list[set[str]] = []
    sets: list[set[str]] = []
    has_split = False
    for line, row in _rows(path):
        has_split = "split" in row
        name = row["path"].strip()
        if not name:
            raise ValueError(f"{path}, line {line}: the path is empty")
        found = _values(row["label"])
        if not found:
            raise ValueError(f"{path}, line {line}: {name} has no label")
        chosen = {value.lower() for value in _values(row.get("split", ""))}
        if has_split and not (chosen and chosen <= set(SETS)):
            raise ValueError(
                f"{path}, line {line}: split is {row['split']!r}; expected query, train, database, "
                "or several of them like train|database"
            )
        names.append(name)
        labels.append(found)
        sets.append(chosen)
    if not names:
        raise ValueError(f"{path} holds no pictures; expected lines below the header")
    files = strip_folders(names, path.parent if root is None else Path(root), path)
    classes = _classes(labels, path)
    rows = _rows_of_sets(files, sets, path) if has_split else None
    return Table(files, _encoded(labels, classes), classes, rows)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column of every row that is not blank."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        try:
            header = [column.strip().lower() for column in next(reader, [])]
            if not {"path", "label"} <= set(header):
                raise ValueError(
                    f"{path}, line 1: expected a header with the columns path,label or "
                    f"path,label,split, separated by commas; got {','.join(header)[:80]!r}"
                )
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(header):
                    raise ValueError(
                        f"{path}, line {reader.line_num}: {len(cells)} cells, the header has "
                        f"{len(header)} (quote cells that hold commas); got "
                        f"{','.join(cells)[:80]!r}"
                    )
                yield reader.line_num, dict(zip(header, cells, strict=True))
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from error


def _values(cell: str) -> set[str]:
    return {value.strip() for value in re.split(r"[|;]", cell)} - {""}


def _classes(labels: list[set[str]], path: Path) -> tuple[str, ...]:
    names = set().union(*labels)
    if not all(re.fullmatch(r"-?\d+", name, re.ASCII) for name in names):
        return tuple(sorted(names))
    ids = sorted(names, key=int)
    if int(ids[0]) < 0:
        raise ValueError(f"{path}: label {ids[0]}; class ids start at 0: leave unlabelled ones out")
    return tuple(ids)


def _encoded(labels: list[set[str]], classes: tuple[str, ...]) -> Tensor:
    numbers = {name: number for number, name in enumerate(classes)}
    if all(len(found) == 1 for found in labels):
        return check_labels(np.array([numbers[name] for (name,) in labels]))
    multi_hot = np.zeros((len(labels), len(classes)), np.float32)
    for row, found in enumerate(labels):
        multi_hot[row, [numbers[name] for name in found]] = 1
    return check_labels(multi_hot)


def _rows_of_sets(files: list[str], sets: list[set[str]], path: Path) -> dict[str, np.ndarray]:
    rows = {part: np.array([r for r, s in enumerate(sets) if part in s], int) for part in SETS}
    for part, chosen in rows.items():
        if not len(chosen):
            raise ValueError(
                f"{path}: the split column names no {part} pictures; it needs query, train and "
                "database (a picture that is trained on and searched has train|database)"
            )
    queries, searched = ({files[row] for row in rows[part]} for part in ("query", "database"))
    both = sorted(queries & searched)
    if both:
        warnings.warn(
            f"{path}: {len(both)} queries are in the database too and find themselves, the first: "
            f"{both[0]}",
            stacklevel=3,
        )
    return rows
