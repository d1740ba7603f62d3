"""The files of a Parquet set, read one at a time; hashfast.index.parquet describes them."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hashfast.index.gallery import CODES_FILE, INFO_FILE
from hashfast.index.parquet_layout import check_layout, codes_of, facts_of, import_pyarrow

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_PARTS = "part-*.parquet"


def parquet_parts(path: str | os.PathLike) -> list[Path]:
    """The files of a set in order; none where `path` is neither a .parquet file nor has parts."""
    path = Path(path)
    if path.is_dir():
        return sorted(path.glob(_PARTS))
    return [path] if path.suffix == ".parquet" else []


def is_parquet(path: str | os.PathLike) -> bool:
    """Whether `path` is to be read as a Parquet set. A gallery's folder is a gallery, whatever else
    lies in it."""
    path = Path(path)
    held = any((path / name).exists() for name in (CODES_FILE, INFO_FILE))
    return not held and bool(parquet_parts(path))


class _File(NamedTuple):
    path: Path
    group_rows: list[int]


class ParquetSet:
    """A set whose files are of one layout.

    Making one reads the ends of all files. None stays open, as a set may have more than a process
    may open; rows are read from one file after the other.

    Attributes:
        layout: the schema of all files.
        facts: what its metadata says.
        bits: bits per code.
        ntotal: rows of all files.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        """Raises ImportError without pyarrow, FileNotFoundError where there is no set, OSError for
        a file that cannot be read, and ValueError for one of another layout and for files of
        different sets."""
        parts = parquet_parts(path)
        if not parts:
            raise FileNotFoundError(
                f"no Parquet set at {path}; expected a .parquet file or a folder of {_PARTS} files"
            )
        self._path = path
        self._files: list[_File] = []
        for part in parts:
            with _opened(part) as file:
                found, rows = file.schema_arrow, _group_rows(file)
            if not self._files:
                check_layout(found, part)
                self.layout = found
            elif not found.equals(self.layout, check_metadata=True):
                check_layout(found, part)
                raise ValueError(
                    f"{part} and {parts[0]} are of different sets: they differ in "
                    f"{_differences(self.layout, found)}"
                )
            self._files.append(_File(part, rows))
        self.facts: dict[str, Any] = facts_of(self.layout)
        self.bits: int = self.facts["bits"]
        self.ntotal = sum(sum(rows) for _, rows in self._files)
        written = self.facts.get("rows", self.ntotal)
        if self.ntotal != written and Path(path).is_dir():  # one file may be read by itself
            raise ValueError(
                f"{path} has {self.ntotal} rows in {len(parts)} files and was written with "
                f"{written}: files are missing, or were added; copy or export all of it again"
            )

    def codes(self, start: int, stop: int) -> np.ndarray:
        """The codes of rows start .. stop - 1, uint8 [stop - start, B]; no other column is read.

        Raises OSError for a file that is damaged, and ValueError for rows that the set does not
        have and for a file that has changed.
        """
        width = self.layout.field("code").type.byte_width
        codes = np.empty((max(stop - start, 0), width), np.uint8)
        for first, column in self._column("code", start, stop):
            codes[first : first + len(column)] = codes_of(column)
        return codes

    def ids(self, start: int, stop: int) -> np.ndarray | None:
        """The ids of rows start .. stop - 1, int64; None where the set has none.

        Raises as `codes`.
        """
        if "id" not in self.layout.names:
            return None
        ids = np.empty(max(stop - start, 0), np.int64)
        for first, column in self._column("id", start, stop):
            ids[first : first + len(column)] = column.to_numpy()
        return ids

    def tables(self) -> "Iterator[tuple[Path, pa.Table]]":
        """All rows in order, some at a time, and the file they are from. Raises as `codes`."""
        for part in self._files:
            yield from ((part.path, rows) for rows in _read(part, range(len(part.group_rows))))

    def _column(self, name: str, start: int, stop: int) -> "Iterator[tuple[int, pa.ChunkedArray]]":
        """Values of a column in rows start .. stop - 1, some at a time, with the row less start."""
        if not 0 <= start <= stop <= self.ntotal:
            raise ValueError(f"rows {start} to {stop} of {self._path}, which has {self.ntotal}")
        first = 0  # row of the file's first
        for part in self._files:
            limits = np.cumsum([first, *part.group_rows])
            first = limits[-1]
            groups = np.flatnonzero((limits[:-1] < stop) & (limits[1:] > start))
            if not len(groups):
                continue
            for group, rows in zip(groups, _read(part, groups.tolist(), [name]), strict=True):
                low, high = max(start, limits[group]), min(stop, limits[group + 1])
                yield low - start, rows.column(name).slice(low - limits[group], high - low)


def _differences(one: "pa.Schema", other: "pa.Schema") -> str:
    first, second = facts_of(one), facts_of(other)
    keys = sorted(k for k in first.keys() | second.keys() if first.get(k) != second.get(k))
    return ", ".join(keys) or "their columns"


@contextmanager
def _opened(part: Path) -> "Iterator[pq.ParquetFile]":
    pa, pq = import_pyarrow()
    try:
        file = pq.ParquetFile(part)
    except (pa.ArrowInvalid, OSError) as error:
        if getattr(error, "errno", None):  # of the file system, which names the file
            raise
        raise ValueError(f"{part} is not a readable Parquet file: {error}") from error
    with file:
        yield file


def _group_rows(file: "pq.ParquetFile") -> list[int]:
    end = file.metadata
    return [end.row_group(group).num_rows for group in range(end.num_row_groups)]


def _read(
    part: _File, groups: Iterable[int], columns: list[str] | None = None
) -> "Iterator[pa.Table]":
    """The rows of each of these groups."""
    pa, _ = import_pyarrow()
    with _opened(part.path) as file:
        if _group_rows(file) != part.group_rows:
            raise ValueError(f"{part.path} has changed while it was read: read the set again")
        for group in groups:
            try:
                rows = file.read_row_group(group, columns)
            except (pa.ArrowException, OSError) as error:
                raise OSError(f"{part.path} is damaged: {error}") from error
            for name in {"item", "code", "id"} & set(rows.column_names):
                if rows.column(name).null_count:
                    raise ValueError(f"{part.path} has rows without {name}")
            yield rows
