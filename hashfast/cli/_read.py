"""Whatever holds codes, read as a gallery."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

if TYPE_CHECKING:
    from hashfast.index import Gallery


class Numbers(Sequence[str]):
    """Numbers as texts that are made when they are asked for: a list of them would take 60 bytes
    each, where a 64-bit code takes 8."""

    def __init__(self, numbers: range | np.ndarray) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        found: Any = self.numbers[row]
        return list(map(str, found)) if isinstance(row, slice) else str(found)


def read_gallery(path: Path) -> "Gallery":
    """The gallery in a folder, a Parquet set, or the codes of an .npy or index file.

    Codes of an .npy file stay where they are, mapped into memory, and are named by their rows;
    those of an index file by their ids.
    """
    from hashfast.hashing.encode_job import check_whole
    from hashfast.index import Gallery, load_index
    from hashfast.index.parquet import read_parquet
    from hashfast.index.parquet_set import is_parquet
    from hashfast.index.shards import open_npy

    if is_parquet(path):
        check_whole(path)
        return read_parquet(path)
    if path.is_dir():
        return Gallery.load(path)
    index = open_npy(path) if path.suffix == ".npy" else load_index(path)
    n = index.ntotal
    items = Numbers(range(n) if index.numbered else index.ids)
    return Gallery(index, items, np.broadcast_to(np.int64(-1), n))
