"""Galleries as Parquet, which data tools and other engines read.

A set is one .parquet file, or a folder of part-*.parquet files whose rows follow one another in the
order of their names. Columns:

    item   string
    code   fixed_size_binary[ceil(bits / 8)]
    label  int64, null for none; or list<int32>, the class ids of an item that may have several
    id     int64, only where codes were added with ids of their own

The schema's metadata has the rest under the key `hashfast`, as JSON: bits, class_names, classes
(how many there are, where an item may have several), and what the gallery's info says.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hashfast._files import atomic_write
from hashfast.index.flat import IndexBinaryFlat
from hashfast.index.gallery import Gallery
from hashfast.index.parquet_layout import codes_of, import_pyarrow, labels_of, schema, table
from hashfast.index.parquet_set import ParquetSet, parquet_parts

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_GROUP_ROWS = 1 << 17  # rows that are read at once at least: 1 MB of 64-bit codes


def write_parquet(
    gallery: Gallery, path: str | os.PathLike, rows_per_file: int = 10_000_000
) -> list[Path]:
    """Write a gallery as a folder of parts, and return their paths.

    A set that is there already is replaced once the new one is whole, a folder of anything else is
    not. Where the process is killed in the moment of replacing, neither may be at `path`: both are
    then whole beside it, in folders `.hashfast-*.tmp`. There is a part even of no rows.

    Raises ImportError without pyarrow, FileExistsError for such a folder or a file, ValueError for
    fewer than 1 row a file and for an item that is not UTF-8.
    """
    if rows_per_file < 1:
        raise ValueError(f"rows_per_file is {rows_per_file}; expected at least 1")
    index, labels, n = gallery.index, gallery.labels, gallery.index.ntotal
    ids = None if index.numbered else index.ids
    classes = labels.shape[1] if labels.ndim == 2 else None
    layout = schema(index.d, gallery.info, gallery.class_names, classes, ids is not None, n)
    codes = np.asarray(index.codes)
    path = Path(path)
    names: list[str] = []
    with _new_folder(path) as folder:
        for first in range(0, max(n, 1), rows_per_file):
            names.append(f"part-{len(names):05d}.parquet")
            with _writer(folder / names[-1], layout) as writer:
                for start in range(first, min(first + rows_per_file, n), _GROUP_ROWS):
                    rows = slice(start, min(start + _GROUP_ROWS, first + rows_per_file, n))
                    part = table(
                        codes[rows],
                        gallery.items[rows],
                        labels[rows],
                        layout,
                        None if ids is None else ids[rows],
                    )
                    writer.write_table(part)
    return [path / name for name in names]


def read_parquet(path: str | os.PathLike) -> Gallery:
    """Read a set that has the columns and metadata described above.

    Raises ImportError without pyarrow, FileNotFoundError where there is no set, OSError for a file
    that cannot be read, and ValueError for one of another layout and for parts of different sets.
    """
    files = ParquetSet(path)
    facts = dict(files.facts)
    classes, class_names = facts.pop("classes", None), facts.pop("class_names")
    index = IndexBinaryFlat(facts.pop("bits"))
    facts.pop("rows", None)
    items: list[str] = []
    labels: list[np.ndarray] = []
    for part, rows in files.tables():
        codes = codes_of(rows.column("code"))
        if "id" in files.layout.names:
            index.add_with_ids(codes, rows.column("id").to_numpy())
        else:
            index.add(codes)
        items += rows.column("item").to_pylist()
        labels.append(labels_of(rows.column("label"), classes, part))
    shape = (0,) if classes is None else (0, classes)
    none = np.zeros(shape, np.int64 if classes is None else np.float32)
    every = np.concatenate(labels) if labels else none
    return Gallery(index, items, every, facts, tuple(class_names))


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A folder to write to that takes the place of `path` once all is written."""
    if path.is_file():
        raise FileExistsError(f"{path} is a file; a Parquet set is a folder: choose a new one")
    others = [entry.name for entry in path.iterdir()] if path.exists() else []
    others = sorted(set(others) - {part.name for part in parquet_parts(path)})
    if others:
        raise FileExistsError(
            f"{path} holds {others[0]}, which is no part of a Parquet set: choose a new folder"
        )
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    new, old = (path.with_name(f".hashfast-{secrets.token_hex(8)}.tmp") for _ in range(2))
    new.mkdir()
    try:
        yield new
        replaced = path.exists()
        if replaced:
            path.rename(old)  # a folder that is not empty cannot be replaced in one step
        try:
            new.rename(path)
        except BaseException:
            if replaced:
                old.rename(path)
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _writer(path: Path, layout: "pa.Schema") -> "Iterator[pq.ParquetWriter]":
    _, pq = import_pyarrow()
    # Codes are as good as random: only labels have a dictionary worth looking for.
    with (
        atomic_write(path) as file,
        pq.ParquetWriter(
            file, layout, compression="zstd", use_dictionary=["label", "label.list.element"]
        ) as writer,
    ):
        yield writer
