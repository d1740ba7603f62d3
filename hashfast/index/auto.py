"""The index that measures: a scan or multi-index hashing, whichever is faster."""

import math
import time
import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, BinaryIO, Self

import numpy as np
import torch

from hashfast._inputs import Array, to_tensor
from hashfast.index.allowed import Allowed
from hashfast.index.base import IndexBinary
from hashfast.index.checks import as_integer, check_k, check_radius, warn_if_padded
from hashfast.index.costs import HASH, METHODS, SCAN, Kind, Known, Plan
from hashfast.index.held import Held, Ids, Rows
from hashfast.index.multi_hash import (
    MOST_CODES,
    Hashed,
    arrays_like,
    as_bytes,
    copies_by_default,
    ids_at,
    is_long,
    make_tables,
    no_tables,
)
from hashfast.index.multi_hash_file import AUTO, MultiHashFile, write_multi_hash
from hashfast.index.substrings import check_tables

if TYPE_CHECKING:
    from hashfast._index import MultiHash

_CPU = torch.device("cpu")
_SCANNED = 64  # queries, enough for the scan to be at its best
_ROUNDS = 3  # of `measure`
_K = 10
_MOST_CHOICES = 1000

Found = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Both:
    """Codes in row order with their ids, tables of the first rows, and what is known of them."""

    held: Held
    tables: "MultiHash"
    known: Known

    @cached_property
    def ids(self) -> Ids:
        return self.held.ids

    def more(self, codes: torch.Tensor, ids: torch.Tensor | None) -> Self:
        return self._with(self.held.more(codes, ids), self.tables)

    def only(self, rows: torch.Tensor) -> Self:
        held = self.held.only(rows)
        return self._with(held, no_tables(held.codes.shape[1]))

    def codes_at(self, rows: torch.Tensor) -> torch.Tensor:
        return self.held.codes_at(rows)

    def _with(self, held: Held, tables: "MultiHash") -> Self:
        known, n = self.known, held.ids.n
        if abs(n - known.n) > known.n // 4:
            known = Known(n)
        return replace(self, held=held, tables=tables, known=known)

    @cached_property
    def hashed(self) -> Hashed:
        behind = self.held.codes[self.tables.rows :]
        return Hashed(self.tables, Rows(behind, len(behind)), self.ids)

    @cached_property
    def wants_tables(self) -> bool:
        """Whether tables should be made before they are searched."""
        n = self.ids.n
        return self.may_hash and is_long(n - self.tables.rows, self.tables.rows)

    @property
    def may_hash(self) -> bool:
        return self.ids.n <= MOST_CODES and not self.known.no_room

    def search(
        self, method: str, queries: np.ndarray, kind: Kind, bitmap: np.ndarray | None
    ) -> Found:
        """What the kind asks for, by one of the methods; rows, not ids."""
        if method == HASH:
            find = self.hashed.nearest if kind.what == "k" else self.hashed.within
            return find(queries, kind.size, bitmap)
        scan = self.held.nearest if kind.what == "k" else self.held.within
        allowed = None if bitmap is None else to_tensor(bitmap)
        return tuple(part.numpy() for part in scan(to_tensor(queries), kind.size, allowed))


class IndexBinaryAuto(IndexBinary[Both]):
    """Packed codes in row order and in hash tables; every search takes the faster way.

    A scan (as in IndexBinaryFlat) is best for many queries, few codes and distant neighbours,
    multi-index hashing (as in IndexBinaryMultiHash) for few queries, many codes and near
    neighbours. Both give the same results. Which is faster depends on the codes as well, so it is
    measured: the first searches of a kind (number of queries, k or radius, share of the codes that
    is allowed, threads) try both, later ones take the better; `explain` tells which and why,
    `measure` finds out at once. When a quarter of the codes is new, all is measured again.

    Takes the memory of both, of ids once. Tables are made by the first search, and anew as
    IndexBinaryMultiHash does; where there is no memory for them, or more than 2**31 - 1 codes, all
    is scanned. On the CPU.

    Any number of threads may read while one adds or removes; each call sees the codes of one
    moment.
    """

    def __init__(self, bits: int) -> None:
        """Make an empty index.

        Args:
            bits: bits per code, 1 to 4096; need not be a multiple of 8.

        Raises:
            TypeError, ValueError: bits is not such a number.
            ImportError: the compiled module is missing.
        """
        check_tables(bits, None)
        super().__init__(bits, _CPU)

    def __repr__(self) -> str:
        tables = len(self._held.tables.widths) if self._held.tables.rows else 0
        return f"IndexBinaryAuto(bits={self.d}, ntotal={self.ntotal}, tables={tables})"

    @property
    def codes(self) -> Array:
        """The codes, uint8 [ntotal, code_size], without a copy; read-only."""
        view = self._held.held.codes.numpy()
        view.flags.writeable = False
        return view

    @property
    def nbytes(self) -> int:
        """Bytes of codes, tables, and ids given."""
        both = self._held
        given = 0 if both.ids.given is None else both.ids.given.room.nbytes
        return both.held.rows.room.nbytes + both.tables.nbytes + given

    def search(self, query: Array, k: int, allowed: Allowed | None = None) -> tuple[Array, Array]:
        queries, both = self._query_array(query), self._held
        k = check_k(k, both.ids.n)
        known = len(queries), "k", k, -1, torch.get_num_threads()  # equal to a Kind, made faster
        if allowed is None and both.known.chosen.get(known) == HASH and not both.wants_tables:
            distances, rows = both.hashed.nearest(queries, k, None)
        else:
            both, (distances, rows) = self._search(queries, "k", k, allowed)
        n = both.ids.n
        if k > n or allowed is not None:
            warn_if_padded(distances, n, filtered=allowed is not None)
        found, ids = arrays_like(query, distances, ids_at(both.ids, rows))
        return found, ids

    def range_search(
        self, query: Array, radius: int, allowed: Allowed | None = None, strict: bool = False
    ) -> tuple[Array, Array, Array]:
        queries = self._query_array(query)
        limit = check_radius(radius, self.code_size, strict)
        both, (limits, distances, rows) = self._search(queries, "radius", limit, allowed)
        bounds, found, ids = arrays_like(query, limits, distances, ids_at(both.ids, rows))
        return bounds, found, ids

    def explain(
        self,
        queries: int = 1,
        k: int | None = None,
        *,
        radius: int | None = None,
        allowed: int | None = None,
    ) -> Plan:
        """How the next search by so many queries would go, and why.

        Args:
            queries: how many.
            k: neighbours per query. Default: 10.
            radius: of a range search, instead of k.
            allowed: how many codes may be found. Default: all.

        Raises:
            TypeError, ValueError: not such numbers.
        """
        queries = as_integer(queries, "queries", 0)
        if allowed is not None:
            allowed = as_integer(allowed, "allowed", 0, self.ntotal)
        both = self._held
        return _plan(both, _kind(both, queries, *self._wanted(k, radius), allowed))

    def measure(
        self,
        query: Array,
        k: int | None = None,
        *,
        radius: int | None = None,
        allowed: Allowed | None = None,
    ) -> Plan:
        """Try both ways with these queries, three times each, and tell the better.

        Later searches of the kind know then what is better. Of many queries only some are used.

        Args:
            query: uint8 [q, code_size], q at least 1: queries like those to come. Codes that the
                index holds are no such queries, as each finds itself at distance 0.
            k, radius, allowed: as `search` and `range_search` take them; k is 10 by default.

        Raises:
            TypeError, ValueError: as these raise, and for no query.
        """
        queries = self._query_array(query)
        if not len(queries):
            raise ValueError("query is empty; expected queries like those to come")
        what, size = self._wanted(k, radius)
        both = self._ready()
        bitmap = as_bytes(allowed, both.ids)
        kind = _kind(both, len(queries), what, size, _count(bitmap))
        tried = _tried(len(queries))
        if both.may_hash:
            for _ in range(_ROUNDS):
                for method in METHODS:
                    _timed(both, method, queries[: tried.get(method)], kind, bitmap)
            both.known.chosen.clear()
        return _plan(both, kind)

    def build(self) -> None:
        """Make the tables now, instead of in the first search."""
        self._ready()

    def reset(self) -> None:
        empty = Held.empty(self.code_size, _CPU)
        with self._writing:
            self._held = Both(empty, no_tables(self.code_size), Known(0))

    def write(self, file: BinaryIO) -> None:
        both = self._ready()
        copies, behind, ids = copies_by_default(self.d), both.hashed.behind, both.ids.bytes()
        write_multi_hash(
            file, MultiHashFile(self.d, None, True, copies, both.tables, behind, ids, AUTO)
        )

    @classmethod
    def _holding(cls, contents: MultiHashFile) -> Self:
        """Make an index of the arrays that a file has; codes are put in row order."""
        index = cls(contents.bits)
        tables, tail = contents.hashed, contents.tail
        codes = tables.codes(np.ascontiguousarray(tail)) if tables.rows else tail
        n = len(codes)
        held = Held(Rows.of(codes, _CPU), Ids.of(contents.ids, n, _CPU))
        index._held = Both(held, tables, Known(n))
        return index

    def _search(
        self, queries: np.ndarray, what: str, size: int, allowed: Allowed | None
    ) -> tuple[Both, Found]:
        """What is found, and of which codes."""
        both = self._held
        while True:
            bitmap = None if allowed is None else as_bytes(allowed, both.ids)
            kind = _kind(both, len(queries), what, size, _count(bitmap))
            method = _method(both, kind)
            if method == SCAN or not both.wants_tables:
                break
            both = self._ready()  # other codes, perhaps, and another bitmap
        if method is not None:
            return both, both.search(method, queries, kind, bitmap)
        costs, names = both.known.costs, kind.by_method()
        tried = _tried(len(queries))
        if not tried:
            return both, _timed(both, costs.next(names), queries, kind, bitmap)
        parts, start = [], 0
        for name, count in tried.items():
            some = queries[start : start + count]
            parts.append(_timed(both, name, some, kind, bitmap))
            start += count
        parts.append(_timed(both, costs.better(names), queries[start:], kind, bitmap))
        return both, _joined(parts)

    def _wanted(self, k: int | None, radius: int | None) -> tuple[str, int]:
        if radius is None:
            return "k", check_k(_K if k is None else k, self.ntotal)
        if k is not None:
            raise ValueError(f"k is {k} and radius {radius}: a search has one of the two")
        return "radius", check_radius(radius, self.code_size)

    def _ready(self) -> Both:
        """The codes with tables, where there can be some."""
        if self._held.wants_tables:
            # Another search may have made the tables while this one waited for them.
            self._update(lambda both: self._rebuilt(both) if both.wants_tables else both)
        return self._held

    def _rebuilt(self, both: Both) -> Both:
        codes = both.held.codes.numpy()
        try:
            tables = make_tables(codes, self.d, None, True, copies_by_default(self.d))
        except MemoryError:
            warnings.warn(
                f"there is no memory for tables of {len(codes)} codes: all searches scan them",
                stacklevel=5,
            )
            return replace(both, known=Known(len(codes), no_room=True))
        return replace(both, tables=tables)


def _kind(both: Both, queries: int, what: str, size: int, allowed: int | None) -> Kind:
    share = -1 if allowed is None else (both.ids.n // max(allowed, 1)).bit_length()
    return Kind(queries, what, size, share, torch.get_num_threads())


def _count(bitmap: np.ndarray | None) -> int | None:
    return None if bitmap is None else int(np.bitwise_count(bitmap).sum(dtype=np.int64))


def _method(both: Both, kind: Kind) -> str | None:
    """The better method; None where that is not known yet."""
    if not kind.queries or not both.may_hash:
        return SCAN
    chosen = both.known.chosen
    method = chosen.get(kind)
    if method is None:
        plan = both.known.costs.plan(kind.by_method())
        if plan is None:
            return None
        if len(chosen) >= _MOST_CHOICES:  # of as many kinds, few come again
            chosen.clear()
        method = chosen[kind] = plan.method
    return method


def _plan(both: Both, kind: Kind) -> Plan:
    if not kind.queries:
        return Plan(SCAN, {}, "there are no queries")
    if not both.may_hash:
        return Plan(SCAN, {}, f"there is no room for tables of {both.ids.n} codes")
    costs, names = both.known.costs, kind.by_method()
    known = costs.plan(names)
    if known is not None:
        return known
    seen = {name: costs.seconds(name, names[name]) for name in METHODS}
    seen = {name: seconds for name, seconds in seen.items() if not math.isnan(seconds)}
    reason = "the first searches of a kind try both, to measure them"
    return Plan(costs.next(names), seen, reason)


def _tried(queries: int) -> dict[str, int]:
    """How many queries of a large batch try each method; none where all of them are needed."""
    tried = {HASH: max(4, 8 * torch.get_num_threads()), SCAN: _SCANNED}
    return tried if queries >= 2 * sum(tried.values()) else {}


def _timed(
    both: Both, method: str, queries: np.ndarray, kind: Kind, bitmap: np.ndarray | None
) -> Found:
    start = time.perf_counter()
    found = both.search(method, queries, kind, bitmap)
    seconds = (time.perf_counter() - start) / len(queries)
    both.known.costs.add(method, kind.by_method()[method], seconds)
    return found


def _joined(parts: list[Found]) -> Found:
    """Results of consecutive queries as those of all; of three arrays the first are limits."""
    columns = list(zip(*parts, strict=True))
    if len(columns) == 3:
        ends = [0, *accumulate(int(limits[-1]) for limits in columns[0])]
        shifted = [limits[1:] + end for limits, end in zip(columns[0], ends, strict=False)]
        columns[0] = (np.zeros(1, np.int64), *shifted)
    return tuple(np.concatenate(column) for column in columns)
