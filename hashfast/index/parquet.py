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

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hashfast._files import atomic_write
from hashfast._inputs import check_codes
from hashfast.index.flat import IndexBinaryFlat
from hashfast.index.gallery import Gallery

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_KEY = b"hashfast"
_PARTS = "part-*.parquet"
_GROUP_ROWS = 1 << 17  # rows that are read at once at least: 1 MB of 64-bit codes


def parquet_parts(path: str | os.PathLike) -> list[Path]:
    """The files of a set in order; none where `path` is neither a .parquet file nor has parts."""
    path = Path(path)
    if path.is_dir():
        return sorted(path.glob(_PARTS))
    return [path] if path.suffix == ".parquet" else []


def schema(
    bits: int,
    info: dict[str, Any],
    class_names: Sequence[str] = (),
    classes: int | None = None,
    ids: bool = False,
) -> "pa.Schema":
    """The schema of a set.

    Args:
        bits: bits per code.
        info: JSON-ready facts, as a gallery has them.
        class_names: one for each class, or none.
        classes: how many classes there are, where an item may have several; None where it has at
            most one.
        ids: whether there is a column of ids.

    Raises ImportError without pyarrow.
    """
    pa, _ = _import_pyarrow()
    facts = {**info, "bits": bits, "class_names": list(class_names)}
    if classes is not None:
        facts["classes"] = classes
    fields = [
        pa.field("item", pa.string(), nullable=False),
        pa.field("code", pa.binary((bits + 7) // 8), nullable=False),
        pa.field("label", pa.int64() if classes is None else pa.list_(pa.int32())),
    ]
    if ids:
        fields.append(pa.field("id", pa.int64(), nullable=False))
    return pa.schema(fields, metadata={_KEY: json.dumps(facts).encode()})


def table(
    codes: np.ndarray,
    items: Sequence[str],
    labels: np.ndarray,
    schema: "pa.Schema",
    ids: np.ndarray | None = None,
) -> "pa.Table":
    """Rows of a set.

    Args:
        codes: uint8 [n, ceil(bits / 8)].
        items: n names.
        labels: int64 [n] class ids (-1: none), or multi-hot [n, classes], as `schema` has them.
        schema: what `schema` made.
        ids: int64 [n], where `schema` has a column for them.

    Raises ImportError without pyarrow, TypeError or ValueError for arrays that do not fit the
    schema or each other, and for an item that is not UTF-8.
    """
    pa, _ = _import_pyarrow()
    check_codes(codes, "codes")
    width, facts = schema.field("code").type.byte_width, _facts(schema)
    if codes.shape[1] != width:
        raise ValueError(f"codes are {codes.shape[1]} bytes wide; the schema has {width}")
    if not len(codes) == len(items) == len(labels):
        raise ValueError(
            f"{len(codes)} codes, {len(items)} items and {len(labels)} labels; expected one of "
            "each a row"
        )
    classes = facts.get("classes")
    if labels.shape[1:] != (() if classes is None else (classes,)):
        expected = "[n]" if classes is None else f"[n, {classes}]"
        raise ValueError(f"labels have shape {list(labels.shape)}; the schema expects {expected}")
    raw = pa.py_buffer(np.ascontiguousarray(codes).data)
    columns = [
        _item_array(items),
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(codes), [None, raw]),
        _label_array(labels),
    ]
    if ids is not None:
        columns.append(pa.array(ids, pa.int64()))
    if len(columns) != len(schema):
        raise ValueError(f"the schema has columns {', '.join(schema.names)}: ids do not fit it")
    return pa.Table.from_arrays(columns, schema=schema)


def write_parquet(
    gallery: Gallery, path: str | os.PathLike, rows_per_file: int = 10_000_000
) -> list[Path]:
    """Write a gallery as a folder of parts, and return their paths.

    The folder appears whole, or what was there stays: a set that is there already is replaced, a
    folder of anything else is not. There is a part even of no rows.

    Raises ImportError without pyarrow, FileExistsError for such a folder, ValueError for fewer than
    1 row a file and for an item that is not UTF-8.
    """
    if rows_per_file < 1:
        raise ValueError(f"rows_per_file is {rows_per_file}; expected at least 1")
    index, labels, n = gallery.index, gallery.labels, gallery.index.ntotal
    ids = index.ids
    own_ids = not np.array_equal(ids, np.arange(n))
    classes = labels.shape[1] if labels.ndim == 2 else None
    layout = schema(index.d, gallery.info, gallery.class_names, classes, own_ids)
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
                        ids[rows] if own_ids else None,
                    )
                    writer.write_table(part)
    return [path / name for name in names]


def read_parquet(path: str | os.PathLike) -> Gallery:
    """Read a set that has the columns and metadata described above.

    Raises ImportError without pyarrow, FileNotFoundError where there is no set, OSError for a file
    that cannot be read, and ValueError for one of another layout and for parts of different sets.
    """
    files = _open(path)
    facts, layout = _facts(files[0].schema_arrow), files[0].schema_arrow
    classes, class_names = facts.pop("classes", None), facts.pop("class_names")
    index = IndexBinaryFlat(facts.pop("bits"))
    items: list[str] = []
    labels: list[np.ndarray] = []
    for file, where in zip(files, parquet_parts(path), strict=True):
        for group in range(file.num_row_groups):
            rows = _read_group(file, group, None, where)
            codes = _codes_of(rows.column("code"))
            if "id" in layout.names:
                index.add_with_ids(codes, rows.column("id").to_numpy())
            else:
                index.add(codes)
            items += rows.column("item").to_pylist()
            labels.append(_labels_of(rows.column("label"), classes, where))
    shape = (0,) if classes is None else (0, classes)
    every = np.concatenate(labels) if labels else _no_labels(shape)
    return Gallery(index, items, every, facts, tuple(class_names))


def parquet_shape(path: str | os.PathLike) -> tuple[int, int]:
    """Rows and bits of a set, from the ends of its files alone. Raises as `read_parquet`."""
    files = _open(path)
    return sum(file.metadata.num_rows for file in files), _facts(files[0].schema_arrow)["bits"]


def parquet_codes(path: str | os.PathLike, start: int, stop: int) -> np.ndarray:
    """The codes of rows start .. stop - 1, uint8 [stop - start, B]; no other column is read.

    Raises as `read_parquet`, and ValueError for rows that the set does not have.
    """
    width = _open(path)[0].schema_arrow.field("code").type.byte_width
    codes = np.empty((max(stop - start, 0), width), np.uint8)
    for first, column in _column(path, "code", start, stop):
        codes[first : first + len(column)] = _codes_of(column)
    return codes


def parquet_ids(path: str | os.PathLike, start: int, stop: int) -> np.ndarray | None:
    """The ids of rows start .. stop - 1, int64; None where the set has none.

    Raises as `parquet_codes`.
    """
    if "id" not in _open(path)[0].schema_arrow.names:
        return None
    ids = np.empty(max(stop - start, 0), np.int64)
    for first, column in _column(path, "id", start, stop):
        ids[first : first + len(column)] = column.to_numpy()
    return ids


def parquet_info(path: str | os.PathLike) -> dict[str, Any]:
    """What the schema's metadata says. Raises as `read_parquet`."""
    return _facts(_open(path)[0].schema_arrow)


def _column(
    path: str | os.PathLike, name: str, start: int, stop: int
) -> "Iterator[tuple[int, pa.ChunkedArray]]":
    """Values of a column in rows start .. stop - 1, some at a time, with the row less start."""
    files = _open(path)
    n = sum(file.metadata.num_rows for file in files)
    if not 0 <= start <= stop <= n:
        raise ValueError(f"rows {start} to {stop} of {path}, which has {n}")
    first = 0
    for file, where in zip(files, parquet_parts(path), strict=True):
        for group in range(file.num_row_groups):
            end = first + file.metadata.row_group(group).num_rows
            low, high = max(start, first), min(stop, end)
            if low < high:
                found = _read_group(file, group, [name], where).column(name)
                yield low - start, found.slice(low - first, high - low)
            first = end


def _item_array(items: Sequence[str]) -> "pa.Array":
    pa, _ = _import_pyarrow()
    try:
        return pa.array(items, pa.string())
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the item {error.object!r} is not UTF-8, and Parquet holds no other names: rename the "
            "file and encode it again"
        ) from None


def _label_array(labels: np.ndarray) -> "pa.Array":
    pa, _ = _import_pyarrow()
    if labels.ndim == 1:
        return pa.array(labels, pa.int64(), mask=labels < 0)
    rows, ids = np.nonzero(labels)
    limits = np.searchsorted(rows, np.arange(len(labels) + 1))
    return pa.ListArray.from_arrays(pa.array(limits, pa.int32()), pa.array(ids, pa.int32()))


def _labels_of(column: "pa.ChunkedArray", classes: int | None, where: Path) -> np.ndarray:
    if classes is None:
        return column.fill_null(-1).to_numpy()
    labels = np.zeros((len(column), classes), np.float32)
    try:
        for row, ids in enumerate(column.to_pylist()):
            labels[row, ids or []] = 1
    except IndexError as error:
        raise ValueError(f"{where} has a label beyond its {classes} classes: {error}") from None
    return labels


def _no_labels(shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, np.int64 if len(shape) == 1 else np.float32)


def _codes_of(column: "pa.ChunkedArray") -> np.ndarray:
    """uint8 [n, B], read-only."""
    width = column.type.byte_width
    chunks = [
        np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * width, chunk.offset * width)
        for chunk in column.chunks
        if len(chunk)
    ]
    return np.concatenate(chunks).reshape(-1, width) if chunks else np.empty((0, width), np.uint8)


def _open(path: str | os.PathLike) -> "list[pq.ParquetFile]":
    """The files of a set, all of one layout."""
    pa, pq = _import_pyarrow()
    parts = parquet_parts(path)
    if not parts:
        raise FileNotFoundError(
            f"no Parquet set at {path}; expected a .parquet file or a folder of {_PARTS} files"
        )
    files = []
    for part in parts:
        try:
            files.append(pq.ParquetFile(part))
        except pa.ArrowInvalid as error:
            raise ValueError(f"{part} is not a readable Parquet file: {error}") from error
        found = files[-1].schema_arrow
        _check_layout(found, part)
        if not found.equals(files[0].schema_arrow, check_metadata=True):
            one, other = _facts(files[0].schema_arrow), _facts(found)
            keys = sorted(k for k in one.keys() | other.keys() if one.get(k) != other.get(k))
            raise ValueError(
                f"{part} and {parts[0]} are of different sets: they differ in "
                f"{', '.join(keys) or 'their columns'}"
            )
    return files


def _check_layout(found: "pa.Schema", part: Path) -> None:
    facts = _facts(found)
    names = ", ".join(found.names)
    if not isinstance(facts.get("bits"), int) or not isinstance(facts.get("class_names"), list):
        raise ValueError(
            f"{part}, with columns {names}, does not say how many bits its codes have: it was not "
            "written by `hashfast export --to parquet` or `hashfast encode`"
        )
    expected = schema(
        facts["bits"], {}, facts["class_names"], facts.get("classes"), "id" in found.names
    )
    types = {field.name: field.type for field in found}
    for field in expected:
        if types.get(field.name) != field.type:
            raise ValueError(
                f"{part} has columns {names} where {field.name} is "
                f"{types.get(field.name, 'missing')}; expected {field.type}"
            )


def _facts(layout: "pa.Schema") -> dict[str, Any]:
    """What the schema's metadata says; nothing where another program wrote it."""
    try:
        facts = json.loads((layout.metadata or {})[_KEY])
    except (KeyError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _read_group(
    file: "pq.ParquetFile", group: int, columns: list[str] | None, where: Path
) -> "pa.Table":
    pa, _ = _import_pyarrow()
    try:
        rows = file.read_row_group(group, columns)
    except (pa.ArrowException, OSError) as error:
        raise OSError(f"{where} is damaged: {error}") from error
    for name in {"item", "code", "id"} & set(rows.column_names):
        if rows.column(name).null_count:
            raise ValueError(f"{where} has rows without {name}")
    return rows


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A folder to write to that takes the place of `path` once all is written."""
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
    _, pq = _import_pyarrow()
    # Codes are as good as random: only labels have a dictionary worth looking for.
    with (
        atomic_write(path) as file,
        pq.ParquetWriter(
            file, layout, compression="zstd", use_dictionary=["label", "label.list.element"]
        ) as writer,
    ):
        yield writer


def _import_pyarrow() -> Any:
    """The modules pyarrow and pyarrow.parquet."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "Parquet needs pyarrow, which is not installed: pip install 'hashfast[parquet]'"
        ) from error
    return pyarrow, pyarrow.parquet
