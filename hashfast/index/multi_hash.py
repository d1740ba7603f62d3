"""The exact index for single queries: multi-index hashing."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, BinaryIO, Self

import numpy as np
import torch

from hashfast import _ext
from hashfast._inputs import Array
from hashfast.index.allowed import Allowed, as_bitmap
from hashfast.index.base import IndexBinary
from hashfast.index.checks import check_k, check_radius, like, no_memory, warn_if_padded
from hashfast.index.held import Ids, Rows
from hashfast.index.multi_hash_file import MultiHashFile, write_multi_hash
from hashfast.index.substrings import check_tables, choose_widths

if TYPE_CHECKING:
    from hashfast._index import MultiHash

_CPU = torch.device("cpu")
MOST_CODES = 2**31 - 1
_COPIES_UP_TO = 128  # bits
# Codes added last are compared one by one; more of them than this are sorted into the tables first.
_LEAST_TAIL, _TAIL_PART = 1000, 64


@dataclass(frozen=True)
class Hashed:
    """Tables of the codes of the first rows, the codes behind them, and the ids of all."""

    tables: "MultiHash"
    tail: Rows
    ids: Ids

    def more(self, codes: torch.Tensor, ids: torch.Tensor | None) -> Self:
        """Hold codes uint8 [m, code_size] too, with ids as bytes [m, 8] or without."""
        if self.ids.n + len(codes) > MOST_CODES:
            raise ValueError(
                f"the index would hold {self.ids.n + len(codes)} codes; it takes {MOST_CODES} at "
                "most: split them over several indexes (IndexBinarySharded)"
            )
        more_ids = self.ids.more(len(codes), ids)
        return type(self)(self.tables, self.tail.more(codes), more_ids)

    def only(self, rows: torch.Tensor) -> Self:
        """Hold copies of these rows, int64 [m], none of them in a table yet."""
        codes = Rows.of(self.codes()[rows.numpy()], _CPU)
        return type(self)(no_tables(codes.room.shape[1]), codes, self.ids.only(rows))

    def codes_at(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.codes()[rows.numpy()])

    @cached_property
    def has_long_tail(self) -> bool:
        """Whether the codes of the tail are better sorted into the tables."""
        return is_long(self.tail.n, self.tables.rows)

    @cached_property
    def behind(self) -> np.ndarray:
        """Codes of the tail, uint8 [t, code_size]."""
        return self.tail.rows.numpy()

    def codes(self) -> np.ndarray:
        """The codes in row order, uint8 [n, code_size]."""
        if not self.tables.rows:
            return self.behind
        return self.tables.codes(self.behind)

    def nearest(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Distances int32 and rows int64, both [q, k], of those that a bitmap allows."""
        threads = torch.get_num_threads()
        try:
            return self.tables.search(queries, k, self.behind, allowed, threads)
        except MemoryError as error:
            raise no_memory(self.ids.n, k, len(queries)) from error

    def within(
        self, queries: np.ndarray, radius: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Limits int64 [q + 1], distances int32 and rows int64 of the hits."""
        threads = torch.get_num_threads()
        return self.tables.range_search(queries, radius, self.behind, allowed, threads)


class IndexBinaryMultiHash(IndexBinary[Hashed]):
    """Packed codes in hash tables of several substrings, for searches by few queries on the CPU.

    Multi-index hashing (Norouzi, Punjani, Fleet, CVPR 2012). Results are exact and the same as
    those of IndexBinaryFlat, unlike those of faiss's IndexBinaryMultiHash, which looks no further
    than a given distance. Of 10 million 64-bit codes it looks at about one in a thousand; where the
    nearest codes are so far away that most would have to be looked at, it compares all of them.

    Codes are kept in the tables only: code_size + 4 bytes a code in each, without `copies` 4 bytes
    in all but the first, and 4 bytes for each of the 2**width values of a substring. Codes added
    since they were made are compared one by one until they are more than 1,000 and a 64th of all;
    then the next search, `save` or `build` makes the tables anew, for which there must be memory
    beside the old ones. At most 2**31 - 1 codes.

    Any number of threads may read while one adds or removes; each call sees the codes of one
    moment. Several queries are shared among torch.get_num_threads() threads.
    """

    def __init__(
        self,
        bits: int,
        *,
        tables: int | None = None,
        collapse: bool = True,
        copies: bool | None = None,
    ) -> None:
        """Make an empty index.

        Args:
            bits: bits per code, 1 to 4096; need not be a multiple of 8.
            tables: how many substrings, 1 to 64 and at most `bits`. Default: chosen for the number
                of codes when the tables are made.
            collapse: keep codes that are equal once, with the list of their rows.
            copies: keep the codes in every table, where those of a bucket lie together, instead of
                in the first one only: faster, and more memory. Default: up to 128 bits.

        Raises:
            TypeError, ValueError: one of them is not such a number.
            ImportError: the compiled module is missing.
        """
        self._tables = check_tables(bits, tables)
        self.collapse = bool(collapse)
        self.copies = copies_by_default(bits) if copies is None else bool(copies)
        super().__init__(bits, _CPU)

    def __repr__(self) -> str:
        return (
            f"IndexBinaryMultiHash(bits={self.d}, ntotal={self.ntotal}, "
            f"tables={len(self.widths) or self._tables})"
        )

    @property
    def codes(self) -> np.ndarray:
        """The codes in row order, uint8 [ntotal, code_size]; a copy, collected from a table."""
        held = self._held
        return held.codes() if held.tables.rows else held.behind.copy()

    @property
    def widths(self) -> tuple[int, ...]:
        """Bits of the substring of each table; empty before the first tables are made."""
        tables = self._held.tables
        return tuple(tables.widths) if tables.rows else ()

    @property
    def distinct(self) -> int:
        """Entries of each table: the codes in them, equal ones counted once if they are collapsed.

        Codes that are in no table yet are not counted."""
        return self._held.tables.entries

    @property
    def nbytes(self) -> int:
        """Bytes of the tables, of codes that are in none yet, and of ids given."""
        held = self._held
        given = 0 if held.ids.given is None else held.ids.given.room.nbytes
        return held.tables.nbytes + held.tail.room.nbytes + given

    def build(self) -> None:
        """Make the tables of all codes now, on torch.get_num_threads() threads, if there are codes
        that are in none."""
        self._update(lambda held: self._rebuilt(held) if held.tail.n else held)

    def search(self, query: Array, k: int, allowed: Allowed | None = None) -> tuple[Array, Array]:
        held, queries = self._ready(), self._query_array(query)
        n = held.ids.n
        k = check_k(k, n)
        bitmap = None if allowed is None else as_bytes(allowed, held.ids)
        distances, rows = held.nearest(queries, k, bitmap)
        if k > n or allowed is not None:
            warn_if_padded(distances, n, filtered=allowed is not None)
        found, ids = arrays_like(query, distances, ids_at(held.ids, rows))
        return found, ids

    def range_search(
        self, query: Array, radius: int, allowed: Allowed | None = None, strict: bool = False
    ) -> tuple[Array, Array, Array]:
        held, queries = self._ready(), self._query_array(query)
        radius = check_radius(radius, self.code_size, strict)
        limits, distances, rows = held.within(queries, radius, as_bytes(allowed, held.ids))
        bounds, found, ids = arrays_like(query, limits, distances, ids_at(held.ids, rows))
        return bounds, found, ids

    def reset(self) -> None:
        empty = Rows.empty(self.code_size, _CPU)
        with self._writing:
            self._held = Hashed(no_tables(self.code_size), empty, Ids(None, 0))

    def write(self, file: BinaryIO) -> None:
        write_multi_hash(file, self.contents())

    def contents(self) -> MultiHashFile:
        """What a file of this index holds, without a copy; a long tail is sorted in first."""
        held = self._ready()
        return MultiHashFile(
            self.d,
            self._tables,
            self.collapse,
            self.copies,
            held.tables,
            held.behind,
            held.ids.bytes(),
        )

    @classmethod
    def _holding(cls, contents: MultiHashFile) -> Self:
        """Make an index of the arrays themselves that a file has."""
        bits, tables, collapse, copies, hashed, tail, ids, _ = contents
        index = cls(bits, tables=tables, collapse=collapse, copies=copies)
        n = hashed.rows + len(tail)
        index._held = Hashed(hashed, Rows.of(tail, _CPU), Ids.of(ids, n, _CPU))
        return index

    def _ready(self) -> Hashed:
        if self._held.has_long_tail:
            # Another search may have made the tables while this one waited for them.
            self._update(lambda held: self._rebuilt(held) if held.has_long_tail else held)
        return self._held

    def _rebuilt(self, held: Hashed) -> Hashed:
        tables = make_tables(held.codes(), self.d, self._tables, self.collapse, self.copies)
        return Hashed(tables, Rows.empty(self.code_size, _CPU), held.ids)


def is_long(tail: int, rows: int) -> bool:
    """Whether so many codes behind those of the tables are better sorted into them."""
    return tail > max(_LEAST_TAIL, rows // _TAIL_PART)


def copies_by_default(bits: int) -> bool:
    """Longer codes in every table take too much memory."""
    return bits <= _COPIES_UP_TO


def make_tables(
    codes: np.ndarray, bits: int, tables: int | None, collapse: bool, copies: bool
) -> "MultiHash":
    """Tables of codes uint8 [n, code_size], made on torch.get_num_threads() threads."""
    widths = choose_widths(len(codes), bits, codes.shape[1], tables, copies)
    threads = torch.get_num_threads()
    return _ext.index().MultiHash.build(codes, widths, collapse, copies, threads)


def no_tables(code_size: int) -> "MultiHash":
    return _ext.index().MultiHash.build(np.empty((0, code_size), np.uint8), [1], True, True, 1)


def as_bytes(allowed: Allowed | None, ids: Ids) -> np.ndarray | None:
    """The bitmap of allowed rows that the tables take."""
    bitmap = as_bitmap(allowed, ids.n, ids.find, _CPU)
    return None if bitmap is None else np.ascontiguousarray(bitmap.numpy())


def ids_at(ids: Ids, rows: np.ndarray) -> np.ndarray:
    """Ids of found rows, int64 of any shape; -1 stays."""
    return rows if ids.given is None else ids.at(torch.from_numpy(rows)).numpy()


def arrays_like(query: Array, *results: np.ndarray) -> tuple[Array, ...]:
    """`like` for results in numpy."""
    if isinstance(query, torch.Tensor):
        return like(query, *(torch.from_numpy(result) for result in results))
    return results
