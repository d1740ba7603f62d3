"""Arrays as the columns of a Parquet set, which hashfast.index.parquet describes, and back."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hashfast._inputs import check_codes

if TYPE_CHECKING:
    import pyarrow as pa

_KEY = b"hashfast"


def schema(
    bits: int,
    info: dict[str, Any],
    class_names: Sequence[str] = (),
    classes: int | None = None,
    ids: bool = False,
    rows: int | None = None,
) -> "pa.Schema":
    """The schema of a set.

    Args:
        bits: bits per code.
        info: JSON-ready facts, as a gallery has them.
        class_names: one for each class, or none.
        classes: how many classes there are, where an item may have several; None where it has at
            most one.
        ids: whether there is a column of ids.
        rows: how many all files have together, where that is known before: one that is missing is
            then noticed.

    Raises ImportError without pyarrow.
    """
    pa, _ = import_pyarrow()
    facts = {**info, "bits": bits, "class_names": list(class_names)}
    if classes is not None:
        facts["classes"] = classes
    if rows is not None:
        facts["rows"] = rows
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
    pa, _ = import_pyarrow()
    check_codes(codes, "codes")
    width, facts = schema.field("code").type.byte_width, facts_of(schema)
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


def check_layout(found: "pa.Schema", part: Path) -> None:
    """Raise ValueError, naming the file, for a schema that `schema` would not make."""
    facts = facts_of(found)
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


def facts_of(layout: "pa.Schema") -> dict[str, Any]:
    """What the schema's metadata says; nothing where another program wrote it."""
    try:
        facts = json.loads((layout.metadata or {})[_KEY])
    except (KeyError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def codes_of(column: "pa.ChunkedArray") -> np.ndarray:
    """uint8 [n, B], read-only."""
    width = column.type.byte_width
    chunks = [
        np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * width, chunk.offset * width)
        for chunk in column.chunks
        if len(chunk)
    ]
    return np.concatenate(chunks).reshape(-1, width) if chunks else np.empty((0, width), np.uint8)


def labels_of(column: "pa.ChunkedArray", classes: int | None, where: Path) -> np.ndarray:
    """int64 [n], -1 for none, or multi-hot float32 [n, classes].

    Raises ValueError, naming the file, for a class id of `classes` or more.
    """
    if classes is None:
        return column.fill_null(-1).to_numpy()
    labels = np.zeros((len(column), classes), np.float32)
    try:
        for row, ids in enumerate(column.to_pylist()):
            labels[row, ids or []] = 1
    except IndexError as error:
        raise ValueError(f"{where} has a label beyond its {classes} classes: {error}") from None
    return labels


def _item_array(items: Sequence[str]) -> "pa.Array":
    pa, _ = import_pyarrow()
    try:
        return pa.array(items, pa.string())
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the item {error.object!r} is not UTF-8, and Parquet holds no other names: rename the "
            "file and encode it again"
        ) from None


def _label_array(labels: np.ndarray) -> "pa.Array":
    pa, _ = import_pyarrow()
    if labels.ndim == 1:
        return pa.array(labels, pa.int64(), mask=labels < 0)
    rows, ids = np.nonzero(labels)
    limits = np.searchsorted(rows, np.arange(len(labels) + 1))
    return pa.ListArray.from_arrays(pa.array(limits, pa.int32()), pa.array(ids, pa.int32()))


def import_pyarrow() -> Any:
    """The modules pyarrow and pyarrow.parquet. Raises ImportError without them."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "Parquet needs pyarrow, which is not installed: pip install 'hashfast[parquet]'"
        ) from error
    return pyarrow, pyarrow.parquet
