"""Parts of sets of codes: of a file or folder, only the rows that one of several processes holds.

Sets of codes are

    .npy           packed codes, uint8 [n, B], as np.save writes them
    index file     what `save` of IndexBinaryFlat writes, or faiss (IndexBinaryFlat, also in an id
                   map), whatever its name
    gallery        a folder written by `hashfast encode` or `hashfast index`
    Parquet set    a .parquet file, or a folder of part-*.parquet

All but the last are memory-mapped: of a part no other rows are read, and processes of one machine
share the memory that holds the file.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hashfast._files import read_json
from hashfast._inputs import check_codes
from hashfast.index.checks import as_integer
from hashfast.index.flat import IndexBinaryFlat
from hashfast.index.gallery import CODES_FILE, INFO_FILE
from hashfast.index.io import FlatFile, read_flat
from hashfast.index.multi_hash_file import is_multi_hash
from hashfast.index.parquet_set import ParquetSet, is_parquet


@dataclass(frozen=True)
class Part:
    """Consecutive rows of a set of codes.

    Attributes:
        codes: uint8 [m, ceil(bits / 8)]; mapped ones are read-only.
        bits: bits per code; of an .npy file, which does not say, all that its bytes have.
        first_row: row of the first in the whole set.
        n_total: rows of the whole set.
        ids: int64 [m] where the set's codes have ids of their own; None where rows are the ids.
    """

    codes: np.ndarray
    bits: int
    first_row: int
    n_total: int
    ids: np.ndarray | None


def count_codes(path: str | os.PathLike) -> tuple[int, int]:
    """Rows and bits of a set of codes, without reading the codes. Raises as `open_part`."""
    path = Path(path)
    if is_parquet(path):
        files = ParquetSet(path)
        return files.ntotal, files.bits
    file = _mapped(path)
    return len(file.codes), file.bits


def open_part(path: str | os.PathLike, part: int = 0, parts: int = 1) -> Part:
    """Open the rows of one part of a set of codes: consecutive, as torch.tensor_split cuts them.

    The files must not be overwritten in place or cut short while the codes are in use; what
    hashfast writes replaces files whole, which is safe. Of a gallery the number of codes and bits
    is checked against gallery.json, but not the digest, which would read every code: `Gallery.load`
    does that.

    Args:
        path: the set of codes.
        part, parts: which one, 0 to parts - 1, of how many.

    Raises:
        OSError: no such file or folder, or it cannot be read.
        ValueError: the file is damaged, or no set of codes; says what was found. There is no such
            part.
        TypeError: an .npy file of another dtype; a part that is no integer.
        ImportError: a Parquet set without pyarrow.
    """
    path = Path(path)
    parts = as_integer(parts, "parts", 1)
    part = as_integer(part, "part", 0, parts - 1)
    if is_parquet(path):
        files = ParquetSet(path)
        start, stop = _bounds(files.ntotal, part, parts)
        codes, ids = files.codes(start, stop), files.ids(start, stop)
        return Part(codes, files.bits, start, files.ntotal, ids)
    file = _mapped(path)
    n = len(file.codes)
    start, stop = _bounds(n, part, parts)
    ids = None
    if file.ids is not None:  # a copy: in the file they are not aligned
        ids = file.ids[start:stop].copy().view(np.int64).reshape(-1)
    return Part(file.codes[start:stop], file.bits, start, n, ids)


def read_facts(path: str | os.PathLike) -> dict[str, Any]:
    """What a gallery or Parquet set says of its codes, as the model's fingerprint; {} of others."""
    path = Path(path)
    if is_parquet(path):
        return ParquetSet(path).facts
    if not path.is_dir():
        return {}
    facts = read_json(path / INFO_FILE)
    if not isinstance(facts, dict):
        raise ValueError(f"{path / INFO_FILE} does not describe a gallery")
    return facts


def open_npy(path: str | os.PathLike) -> IndexBinaryFlat:
    """An index of the packed codes of an .npy file where they lie. Raises as `open_part`."""
    return IndexBinaryFlat._holding(_mapped_npy(Path(path)))


def _bounds(n: int, part: int, parts: int) -> tuple[int, int]:
    size, more = divmod(n, parts)
    start = part * size + min(part, more)
    return start, start + size + (part < more)


def _mapped(path: Path) -> FlatFile:
    """The codes of anything but a Parquet set, where they lie."""
    if path.is_dir():
        return _mapped_gallery(path)
    if path.suffix != ".npy":
        if is_multi_hash(path):
            raise ValueError(
                f"{path} is a multi-index hash, whose codes lie in the order of its tables: save "
                "one of the codes of each process, and join what load_index reads by "
                f"IndexBinarySharded, or make a flat index of it: `hashfast export {path} --to "
                "faiss --out FLAT`"
            )
        return read_flat(path, mmap=True)
    return _mapped_npy(path)


def _mapped_npy(path: Path) -> FlatFile:
    try:
        codes = np.load(path, mmap_mode="r", allow_pickle=False)
    except (EOFError, ValueError) as error:
        raise ValueError(f"{path} is not a readable .npy file: {error}") from error
    check_codes(codes, str(path))
    return FlatFile(8 * codes.shape[1], np.asarray(codes), None)


def _mapped_gallery(folder: Path) -> FlatFile:
    missing = [name for name in (CODES_FILE, INFO_FILE) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"no codes in {folder}: it has no {missing[0]}, which a gallery has, and no "
            "part-*.parquet files"
        )
    file, facts = read_flat(folder / CODES_FILE, mmap=True), read_facts(folder)
    found, said = (len(file.codes), file.bits), (facts.get("codes"), facts.get("bits"))
    if found != said:
        raise ValueError(
            f"{folder}: {CODES_FILE} has {found[0]} codes of {found[1]} bits, {INFO_FILE} says "
            f"{said[0]} of {said[1]}: they are not of the same gallery; copy all of it again, or "
            "encode again"
        )
    return file
