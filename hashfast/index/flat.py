"""The exact index over packed codes, with the habits of faiss's IndexBinaryFlat."""

import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import torch

from hashfast._inputs import Array
from hashfast.index.allowed import Allowed, as_bitmap
from hashfast.index.base import IndexBinary
from hashfast.index.checks import check_k, check_radius, like, warn_if_padded
from hashfast.index.held import Held
from hashfast.index.io import FlatFile, read_flat, write_flat
from hashfast.index.pairs import pairs
from hashfast.index.with_faiss import copy_from_faiss, copy_to_faiss


class IndexBinaryFlat(IndexBinary[Held]):
    """Packed codes all of which every search reads, many queries at a time.

    Any number of threads may read while one adds or removes; each call sees the codes of one
    moment. A process forked after a search on several threads hangs when it searches, as with torch
    and faiss (OpenMP): start processes by spawn, or call torch.set_num_threads(1) in the child
    first.
    """

    def __init__(self, bits: int, device: str | torch.device = "cpu") -> None:
        """Make an empty index.

        Args:
            bits: bits per code, 1 to 65,528; need not be a multiple of 8.
            device: where to keep the codes.

        Raises:
            TypeError, ValueError: bits is not such a number.
        """
        super().__init__(bits, device)

    def __repr__(self) -> str:
        return f"IndexBinaryFlat(bits={self.d}, ntotal={self.ntotal}, device='{self.device}')"

    @property
    def codes(self) -> Array:
        """The codes, uint8 [ntotal, code_size], without a copy.

        A read-only numpy view of an index on the CPU; a tensor for one on another device.
        """
        return self._as_held(self._held.codes)

    def search(self, query: Array, k: int, allowed: Allowed | None = None) -> tuple[Array, Array]:
        held, queries = self._held, self._checked(query, "query")
        n = held.ids.n
        k = check_k(k, n)
        bitmap = as_bitmap(allowed, n, held.ids.find, self.device)
        distances, rows = held.nearest(queries.to(self.device), k, bitmap)
        found, ids = like(query, distances, held.ids.at(rows))
        warn_if_padded(rows, n, filtered=allowed is not None)
        return found, ids

    def range_search(
        self, query: Array, radius: int, allowed: Allowed | None = None, strict: bool = False
    ) -> tuple[Array, Array, Array]:
        held, queries = self._held, self._checked(query, "query")
        radius = check_radius(radius, self.code_size, strict)
        bitmap = as_bitmap(allowed, held.ids.n, held.ids.find, self.device)
        limits, distances, rows = held.within(queries.to(self.device), radius, bitmap)
        bounds, found, ids = like(query, limits, distances, held.ids.at(rows))
        return bounds, found, ids

    def pairs(self, radius: int) -> Iterator[tuple[Array, Array, Array]]:
        """Stream the pairs of codes held that are at most `radius` bits apart, each pair once.

        Args:
            radius: largest distance in bits, 0 or more.

        Returns:
            An iterator of blocks: ids int64 [p] of the code that was added first, ids int64 [p] of
            the other, and distances int32 [p]; sorted by first row, distance and second row. numpy
            or tensors as `codes`. Codes added or removed meanwhile change nothing.

        Raises:
            TypeError, ValueError: a bad radius.
        """
        held = self._held
        codes = self._as_held(held.codes)
        found = pairs(codes, radius)
        if held.ids.given is None:
            return found
        (ids,) = like(codes, torch.from_numpy(held.ids.array()).to(self.device))
        return ((ids[i], ids[j], distances) for i, j, distances in found)

    def reset(self) -> None:
        self._held = Held.empty(self.code_size, self.device)

    def write(self, file: BinaryIO) -> None:
        write_flat(file, self._held.contents(self.d))

    def to_faiss(self) -> Any:
        """Copy into a faiss.IndexBinaryFlat, or IndexBinaryIDMap if ids were given.

        Raises:
            ImportError: faiss is not installed.
            ValueError: bits is not a multiple of 8, which faiss needs.
        """
        return copy_to_faiss(self._held.contents(self.d))

    @classmethod
    def from_faiss(cls, index: Any) -> "IndexBinaryFlat":
        """Copy a faiss.IndexBinaryFlat, or an IndexBinaryIDMap or IndexBinaryIDMap2 of one.

        Raises:
            ImportError: faiss is not installed.
            TypeError: another kind of index.
        """
        return cls._holding(copy_from_faiss(index))

    @classmethod
    def _holding(cls, contents: FlatFile, device: str | torch.device = "cpu") -> "IndexBinaryFlat":
        """Make an index of the given arrays themselves."""
        index = cls(contents.bits, device)
        index._held = Held.of(contents, index.device)
        return index

    def _as_held(self, codes: torch.Tensor) -> Array:
        if self.device.type != "cpu":
            return codes
        view = codes.numpy()
        view.flags.writeable = False
        return view


def as_flat(index: IndexBinary[Any]) -> IndexBinaryFlat:
    """The codes and ids of any index on the CPU in a flat one; itself where it is one."""
    if isinstance(index, IndexBinaryFlat):
        return index
    flat = IndexBinaryFlat(index.d)
    if index.numbered:
        flat.add(index.codes)
    else:
        flat.add_with_ids(index.codes, index.ids)
    return flat


def load_flat(
    path: str | os.PathLike, mmap: bool = False, device: str | torch.device = "cpu"
) -> IndexBinaryFlat:
    """`hashfast.load_index` where only a flat index will do."""
    return IndexBinaryFlat._holding(read_flat(path, mmap), device)
