"""Files of multi-index hashes: arrays in the layout of safetensors, read where they lie.

8 bytes: length of the header, little-endian; the header, JSON: for every array its dtype, shape and
place among the bytes that follow, and under `__metadata__` what the index is. Any safetensors
reader opens it. Nothing is unpickled.
"""

import json
import math
import os
import struct
from io import BufferedReader
from itertools import pairwise
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from hashfast import _ext
from hashfast.index.io import ID_SIZE
from hashfast.index.substrings import check_tables

if TYPE_CHECKING:
    from hashfast._index import MultiHash

FORMAT, VERSION = "hashfast multi-index hash", "1"
MULTI_HASH, AUTO = "IndexBinaryMultiHash", "IndexBinaryAuto"
_LENGTH = struct.Struct("<Q")
_MOST_HEADER = 1 << 20
_DTYPES: dict[str, np.dtype] = {"U8": np.dtype("u1"), "U32": np.dtype("<u4")}


class MultiHashFile(NamedTuple):
    """Contents of a file.

    bits, tables, collapse, copies: as the index was made. hashed: the tables. tail: uint8 [t, B],
    codes of rows behind those in the tables. ids: as bytes [n, 8], or None. kind: of index, its
    class.
    """

    bits: int
    tables: int | None
    collapse: bool
    copies: bool
    hashed: "MultiHash"
    tail: np.ndarray
    ids: np.ndarray | None
    kind: str = MULTI_HASH


def is_multi_hash(path: str | os.PathLike) -> bool:
    """Whether a file begins as one of these: with the length of a header, below 2**24, and JSON."""
    with open(path, "rb") as file:
        start = file.read(_LENGTH.size + 1)
    return start[3:] == bytes(5) + b"{"


def write_multi_hash(file: BinaryIO, contents: MultiHashFile) -> None:
    """Write a file's bytes."""
    hashed = contents.hashed
    arrays = {"group_limits": hashed.group_limits, "group_rows": hashed.group_rows}
    for t, table in enumerate(hashed.tables):
        arrays |= {f"{t}.limits": table.limits, f"{t}.values": table.values}
    # Bytes last: numbers of 4 bytes are aligned then.
    arrays |= {f"{t}.codes": a.codes for t, a in enumerate(hashed.tables) if a.codes is not None}
    arrays["tail"] = contents.tail
    if contents.ids is not None:
        arrays["ids"] = contents.ids
    names = {dtype: name for name, dtype in _DTYPES.items()}
    header: dict[str, Any] = {
        "__metadata__": {
            "format": FORMAT,
            "version": VERSION,
            "index": contents.kind,
            "bits": str(contents.bits),
            "tables": json.dumps(contents.tables),
            "collapse": json.dumps(contents.collapse),
            "copies": json.dumps(contents.copies),
            "rows": str(hashed.rows),
            "widths": json.dumps(list(hashed.widths)),
        }
    }
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(_LENGTH.pack(len(text)))
    file.write(text)
    for array in arrays.values():
        file.write(np.ascontiguousarray(array).data)


def read_multi_hash(path: str | os.PathLike, mmap: bool = False) -> MultiHashFile:
    """Read a file, checking what its header says against its size, and its arrays against it.

    Args:
        path: the file.
        mmap: map the file read-only instead of reading it. It must not be cut short while the
            index is in use.

    Raises:
        ValueError: the file is truncated, too long, foreign, or contradicts itself.
    """
    try:
        with open(path, "rb") as file:
            facts, places, start = _read_header(file)
            arrays = _read_arrays(file, places, start, mmap)
        return _contents(facts, arrays)
    except _DAMAGE as error:
        raise ValueError(f"{path} is not a readable multi-index hash: {_reason(error)}") from None


# What a header that lies leads to, some of it before it is looked at closely.
_DAMAGE = (LookupError, ValueError, TypeError, AttributeError, OverflowError, RecursionError)


def _reason(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)


def _read_header(file: BufferedReader) -> tuple[dict[str, str], dict[str, Any], int]:
    """What the index is, the place of each array, and where the first begins."""
    size = os.fstat(file.fileno()).st_size
    raw = file.read(_LENGTH.size)
    length = _LENGTH.unpack(raw)[0] if len(raw) == _LENGTH.size else 0
    start = _LENGTH.size + length
    if not 0 < length <= min(_MOST_HEADER, size - _LENGTH.size):
        raise ValueError(f"its header would take {length} of {size} bytes")
    places = json.loads(file.read(length))
    facts = places.pop("__metadata__", {}) if isinstance(places, dict) else {}
    found = facts.get("format"), facts.get("version")
    if found != (FORMAT, VERSION):
        raise ValueError(f"it says format and version {found}; expected {(FORMAT, VERSION)}")
    ends = [0, *(int(place["data_offsets"][1]) for place in places.values())]
    starts = [int(place["data_offsets"][0]) for place in places.values()]
    if ends[:-1] != starts or any(b < a for a, b in pairwise(ends)):
        raise ValueError("its arrays do not lie one behind the other")
    if start + ends[-1] != size:
        raise ValueError(f"it has {size} bytes, but its header asks for {start + ends[-1]}")
    return facts, places, start


def _read_arrays(
    file: BufferedReader, places: dict[str, Any], start: int, mmap: bool
) -> dict[str, np.ndarray]:
    whole = np.memmap(file, np.uint8, "r") if mmap else None
    arrays = {}
    for name, place in places.items():
        dtype, shape = _DTYPES[place["dtype"]], tuple(int(size) for size in place["shape"])
        first, last = place["data_offsets"]
        if min(shape, default=0) < 0 or dtype.itemsize * math.prod(shape) != last - first:
            raise ValueError(f"{name} has shape {list(shape)} in {last - first} bytes")
        if (start + first) % dtype.itemsize:
            raise ValueError(f"{name} is not aligned")
        if whole is not None:
            array = np.asarray(whole[start + first : start + last]).view(dtype).reshape(shape)
        else:
            array = np.empty(shape, dtype)
            file.seek(start + first)
            raw = array.reshape(-1).view(np.uint8).data
            if file.readinto(raw) != array.nbytes:
                raise ValueError("it was cut short while it was read")
        arrays[name] = array
    return arrays


def _contents(facts: dict[str, str], arrays: dict[str, np.ndarray]) -> MultiHashFile:
    module = _ext.index()
    bits, rows = int(facts["bits"]), int(facts["rows"])
    widths, tables = json.loads(facts["widths"]), json.loads(facts["tables"])
    check_tables(bits, tables)
    code_size = (bits + 7) // 8
    hashed = module.MultiHash(
        code_size,
        rows,
        widths,
        [
            module.Table(arrays[f"{t}.limits"], arrays.get(f"{t}.codes"), arrays[f"{t}.values"])
            for t in range(len(widths))
        ],
        arrays["group_limits"],
        arrays["group_rows"],
    )
    tail, ids = arrays["tail"], arrays.get("ids")
    n = rows + len(tail)
    if tail.ndim != 2 or tail.shape[1] != code_size:
        raise ValueError(f"its tail has shape {list(tail.shape)}; expected [n, {code_size}]")
    if ids is not None and ids.shape != (n, ID_SIZE):
        raise ValueError(f"its ids have shape {list(ids.shape)}; expected {[n, ID_SIZE]}")
    collapse, copies = json.loads(facts["collapse"]), json.loads(facts["copies"])
    kind = facts["index"]
    if kind not in (MULTI_HASH, AUTO):
        raise ValueError(f"it is of a {kind}; expected {MULTI_HASH} or {AUTO}")
    return MultiHashFile(bits, tables, collapse, copies, hashed, tail, ids, kind)
