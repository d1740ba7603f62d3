"""Binary index files in faiss's layout, read and written without faiss.

A flat index (`IBxF`), all little-endian:

    char[4] fourcc, int32 d, int32 code_size, int64 ntotal, uint8 is_trained, int32 metric_type
    uint64 ntotal * code_size, then that many bytes of codes

With ids of one's own (`IBMp`, faiss's IndexBinaryIDMap): the same header, then a whole flat index,
then uint64 ntotal and ntotal int64 ids. Read too: `IBM2` (IndexBinaryIDMap2), laid out the same.

faiss holds whole bytes only. Codes of another number of bits use the fourcc `HFxF` in place of
`IBxF`, with d that number of bits; faiss refuses such a file instead of misreading it.
"""

import os
import struct
from io import BufferedReader
from typing import BinaryIO, NamedTuple

import numpy as np

ID_SIZE = 8
_FLAT, _FLAT_PADDED, _ID_MAP, _ID_MAP2 = b"IBxF", b"HFxF", b"IBMp", b"IBM2"
_HEADER = struct.Struct("<4siiqBi")
_LENGTH = struct.Struct("<Q")
_METRIC = 1  # faiss writes METRIC_L2 for its binary indexes


class FlatFile(NamedTuple):
    """Contents of an index file: codes uint8 [n, ceil(bits / 8)], ids as bytes [n, 8] or None."""

    bits: int
    codes: np.ndarray
    ids: np.ndarray | None


class _Header(NamedTuple):
    fourcc: bytes
    bits: int
    code_size: int
    ntotal: int


def write_flat(file: BinaryIO, contents: FlatFile) -> None:
    """Write an index file's bytes."""
    bits, codes, ids = contents
    ntotal, code_size = codes.shape

    def header(fourcc: bytes) -> bytes:
        return _HEADER.pack(fourcc, bits, code_size, ntotal, True, _METRIC)

    if ids is not None:
        file.write(header(_ID_MAP))
    file.write(header(_FLAT_PADDED if bits % 8 else _FLAT))
    file.write(_LENGTH.pack(codes.size))
    file.write(np.ascontiguousarray(codes).data)
    if ids is not None:
        file.write(_LENGTH.pack(ntotal))
        file.write(np.ascontiguousarray(ids).data)


def read_flat(path: str | os.PathLike, mmap: bool = False) -> FlatFile:
    """Read an index file, checking every header field against the size of the file first.

    Args:
        path: the file.
        mmap: map the file read-only instead of reading it. The arrays are then read-only and start
            at any byte, and the file must not be cut short while they are in use.

    Raises:
        IsADirectoryError: the path is a folder.
        ValueError: the file is truncated, too long, foreign, or contradicts itself.
    """
    if os.path.isdir(path):
        raise IsADirectoryError(
            f"{path} is a folder; expected an index file. hashfast.index.Gallery.load reads "
            "galleries, which are folders"
        )
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            outer, flat = _read_headers(file, size)
            start = file.tell() + _LENGTH.size
            payload = flat.ntotal * flat.code_size
            ids_start = start + payload + _LENGTH.size
            _check_size(size, ids_start + flat.ntotal * ID_SIZE if outer else start + payload)
            _check_length(file, payload, "bytes of codes")
            if outer:
                file.seek(start + payload)
                _check_length(file, flat.ntotal, "ids")
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

        whole = np.memmap(file, np.uint8, "r") if mmap else None
        codes = _rows(file, whole, start, flat.ntotal, flat.code_size, path)
        ids = _rows(file, whole, ids_start, flat.ntotal, ID_SIZE, path) if outer else None
    return FlatFile(flat.bits, codes, ids)


def _read_headers(file: BufferedReader, size: int) -> tuple[_Header | None, _Header]:
    """Read the id map's header, if there is one, and the flat index's."""
    first = _read_header(file, size, (_FLAT, _FLAT_PADDED, _ID_MAP, _ID_MAP2))
    if first.fourcc in (_FLAT, _FLAT_PADDED):
        return None, first
    flat = _read_header(file, size, (_FLAT, _FLAT_PADDED))
    if first[1:] != flat[1:]:
        raise ValueError(
            f"the id map says bits, bytes per code, codes = {first[1:]}; "
            f"the index inside it says {flat[1:]}"
        )
    return first, flat


def _read_header(file: BufferedReader, size: int, expected: tuple[bytes, ...]) -> _Header:
    raw = file.read(_HEADER.size)
    if raw[:4] not in expected:
        names = ", ".join(fourcc.decode() for fourcc in expected)
        found = f"found {raw[:4]!r}" if raw else "the file ends"
        raise ValueError(
            f"not a flat binary index: {found} where its type stands; expected one of {names}"
            f"{_hint(raw)}"
        )
    if len(raw) < _HEADER.size:
        raise ValueError(f"truncated: the file ends after {size} bytes, inside a header")
    fourcc, bits, code_size, ntotal, is_trained, metric = _HEADER.unpack(raw)
    if bits <= 0 or code_size != (bits + 7) // 8:
        raise ValueError(f"the header says {bits} bits in {code_size} bytes per code")
    if (fourcc == _FLAT and bits % 8) or (fourcc == _FLAT_PADDED and not bits % 8):
        raise ValueError(f"the header says {bits} bits, which {fourcc.decode()} files do not hold")
    if ntotal < 0:
        raise ValueError(f"the header says {ntotal} codes")
    if (is_trained, metric) != (1, _METRIC):
        raise ValueError(
            f"the header says is_trained {is_trained} and metric {metric}; "
            f"flat binary indexes have 1 and {_METRIC}"
        )
    return _Header(fourcc, bits, code_size, ntotal)


def _hint(raw: bytes) -> str:
    if raw.startswith(b"\x93NUMPY"):
        return ". It is an .npy file: numpy.load reads its codes"
    if raw[:2] in (b"IB", b"Ix"):
        return ". It is another kind of faiss index: add its codes to an IndexBinaryFlat"
    return ""


def _check_size(size: int, expected: int) -> None:
    if size < expected:
        raise ValueError(f"truncated: {size} bytes, but its header asks for {expected}")
    if size > expected:
        raise ValueError(f"{size - expected} bytes too long: its header asks for {expected}")


def _check_length(file: BufferedReader, expected: int, what: str) -> None:
    (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
    if length != expected:
        raise ValueError(f"announces {length} {what}, but its header asks for {expected}")


def _rows(
    file: BufferedReader,
    whole: np.ndarray | None,
    start: int,
    ntotal: int,
    width: int,
    path: str | os.PathLike,
) -> np.ndarray:
    if whole is not None:
        return np.asarray(whole[start : start + ntotal * width]).reshape(ntotal, width)
    rows = np.empty((ntotal, width), np.uint8)
    file.seek(start)
    if file.readinto(rows.reshape(-1).data) != rows.size:
        raise ValueError(f"{path}: the file was cut short while it was read")
    return rows
