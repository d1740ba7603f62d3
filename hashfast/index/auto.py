"""The index that measures: a scan or multi-index hashing, whichever is faster."""

import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, BinaryIO

import numpy as np
import torch

from hashfast._inputs import Array
from hashfast.index.allowed import Allowed
from hashfast.index.base import IndexBinary
from hashfast.index.checks import as_integer, check_k, check_radius
from hashfast.index.costs import HASH, METHODS, SCAN, Costs, Plan
from hashfast.index.flat import IndexBinaryFlat
from hashfast.index.held import Held, Rows
from hashfast.index.io import FlatFile
from hashfast.index.multi_hash import Hashed, IndexBinaryMultiHash, no_tables
from hashfast.index.multi_hash_file import AUTO, MultiHashFile, write_multi_hash

_FEW_CODES = 20_000  # a scan of them takes no longer than a few probes
# A large batch tries both methods on a part each: enough queries for the scan to be at its best.
_TRIED = {HASH: 4, SCAN: 64}
_LARGE = 2 * sum(_TRIED.values())
_ROUNDS = 3  # of `measure`

Run = Callable[[IndexBinary[Any], Array], tuple[Array, ...]]


@dataclass(frozen=True)
class _Kind:
    """What the time of a search depends on besides the codes."""

    queries: int
    wanted: tuple[str, int]  # ("k", k) or ("radius", radius)
    filtered: bool
    threads: int

    def by_method(self) -> dict[str, Hashable]:
        """Names, for each method, of the searches that take about the same time a query."""
        what, size = self.wanted
        alike = what, size.bit_length() if what == "k" else size, self.filtered, self.threads
        # A query in the tables does not care for the others, but for whether threads share them.
        batch, shared = min(self.queries, 1024).bit_length(), self.queries >= 16
        return {SCAN: (batch, *alike), HASH: (shared, *alike)}


class IndexBinaryAuto(IndexBinary[Held]):
    """Packed codes in an IndexBinaryFlat and an IndexBinaryMultiHash; the faster one searches.

    A scan is best for many queries, few codes and distant neighbours, multi-index hashing for few
    queries, many codes and near neighbours. Both give the same results. Which is faster depends on
    the codes as well, so it is measured: the first searches of a kind (number of queries, k or
    radius, filtered or not, threads) try both, later ones take the better; `explain` tells which
    and why, `measure` finds out at once. When a quarter of the codes is new, all is measured again.

    Takes the memory of both. Tables are made by the first search that tries them, of 20,000 codes
    or more, and made anew as IndexBinaryMultiHash does. On the CPU. Any number of threads may read
    while one adds or removes.

    Attributes:
        flat: the index that scans.
        hash: the index with tables; empty until they are first tried.
    """

    def __init__(self, bits: int) -> None:
        """Make an empty index.

        Args:
            bits: bits per code, 1 to 4096; need not be a multiple of 8.

        Raises:
            TypeError, ValueError: bits is not such a number.
            ImportError: the compiled module is missing.
        """
        self.hash = IndexBinaryMultiHash(bits)
        self.flat = IndexBinaryFlat(bits)
        self._writing = threading.Lock()
        self._forget()
        super().__init__(bits, "cpu")

    def __repr__(self) -> str:
        return f"IndexBinaryAuto(bits={self.d}, ntotal={self.ntotal}, tables={self.hash.widths})"

    @property
    def _held(self) -> Held:  # type: ignore[override]  # both indexes hold the same
        return self.flat._held

    @property
    def codes(self) -> Array:
        """The codes, uint8 [ntotal, code_size], without a copy; read-only."""
        return self.flat.codes

    @property
    def nbytes(self) -> int:
        """Bytes of both indexes."""
        return self.flat.codes.nbytes + self.hash.nbytes

    def search(self, query: Array, k: int, allowed: Allowed | None = None) -> tuple[Array, Array]:
        if type(k) is int and isinstance(query, Array):
            # Once it is known which is faster, asking takes next to nothing.
            chosen = self._chosen.get((query.shape, k, allowed is None, torch.get_num_threads()))
            if chosen is not None:
                return chosen.search(query, k, allowed)
        self._checked(query, "query")
        k = check_k(k, self.ntotal)
        distances, ids = self._search(
            query, ("k", k), allowed, lambda index, some: index.search(some, k, allowed)
        )
        return distances, ids

    def range_search(
        self, query: Array, radius: int, allowed: Allowed | None = None, strict: bool = False
    ) -> tuple[Array, Array, Array]:
        self._checked(query, "query")
        limit = check_radius(radius, self.code_size, strict)
        limits, distances, ids = self._search(
            query,
            ("radius", limit),
            allowed,
            lambda index, some: index.range_search(some, radius, allowed, strict),
        )
        return limits, distances, ids

    def explain(
        self, queries: int = 1, k: int = 10, *, radius: int | None = None, filtered: bool = False
    ) -> Plan:
        """How the next search by so many queries would go, and why.

        Args:
            queries: how many.
            k: neighbours per query.
            radius: of a range search, instead of k.
            filtered: whether only some codes are allowed.

        Raises:
            TypeError, ValueError: not such numbers.
        """
        queries = as_integer(queries, "queries", 0)
        return self._plan(self._kind(queries, self._wanted(k, radius), filtered))

    def measure(
        self,
        query: Array,
        k: int = 10,
        *,
        radius: int | None = None,
        allowed: Allowed | None = None,
    ) -> Plan:
        """Try both ways with these queries, three times each, and tell the better.

        Later searches of the kind know then what is better. Of many queries only some are used.

        Args:
            query: uint8 [q, code_size], q at least 1: queries like those to come. Codes that the
                index holds are no such queries, as each finds itself at distance 0.
            k, radius, allowed: as `search` and `range_search` take them.

        Raises:
            TypeError, ValueError: as these raise, and for no query.
        """
        self._checked(query, "query")
        if not len(query):
            raise ValueError("query is empty; expected queries like those to come")
        wanted = self._wanted(k, radius)
        kind = self._kind(len(query), wanted, allowed is not None)

        def run(index: IndexBinary[Any], some: Array) -> tuple[Array, ...]:
            if radius is not None:
                return index.range_search(some, radius, allowed)
            return index.search(some, k, allowed)

        if self.ntotal >= _FEW_CODES:
            self._make_tables()
            for _ in range(_ROUNDS):
                for method in METHODS:
                    some = query[: _TRIED[method]] if len(query) >= _LARGE else query
                    self._timed(method, kind, some, run)
        return self._plan(kind)

    def build(self) -> None:
        """Make the tables of all codes now, instead of in the first search that tries them."""
        self._make_tables()
        self.hash.build()

    def reset(self) -> None:
        with self._writing:
            self.flat.reset()
            self.hash.reset()
            self._forget()

    def write(self, file: BinaryIO) -> None:
        self.build()
        write_multi_hash(file, self.hash.contents()._replace(kind=AUTO))

    @classmethod
    def _holding(cls, contents: MultiHashFile) -> "IndexBinaryAuto":
        """Make an index of the arrays themselves that a file has; codes are put in row order."""
        index = cls(contents.bits)
        index.hash = IndexBinaryMultiHash._holding(contents)
        held = index.hash._held
        index.flat = IndexBinaryFlat._holding(
            FlatFile(contents.bits, held.codes(), held.ids.bytes())
        )
        index._forget()
        return index

    def _search(
        self, query: Array, wanted: tuple[str, int], allowed: Allowed | None, run: Run
    ) -> tuple[Array, ...]:
        if self.ntotal < _FEW_CODES or not len(query):
            return run(self.flat, query)
        self._make_tables()
        kind = self._kind(len(query), wanted, allowed is not None)
        costs, names = self._costs, kind.by_method()
        plan = costs.plan(names)
        if plan is not None:
            chosen = self._index(plan.method)
            what, size = wanted
            if what == "k":
                self._chosen[query.shape, size, allowed is None, kind.threads] = chosen
            return run(chosen, query)
        if len(query) < _LARGE:
            method = min(METHODS, key=lambda name: costs.count(name, names[name]))
            return self._timed(method, kind, query, run)
        parts, start = [], 0
        for method in METHODS:
            parts.append(self._timed(method, kind, query[start : start + _TRIED[method]], run))
            start += _TRIED[method]
        better = min(METHODS, key=lambda name: costs.seconds(name, names[name]))
        parts.append(self._timed(better, kind, query[start:], run))
        return _joined(parts)

    def _timed(self, method: str, kind: _Kind, query: Array, run: Run) -> tuple[Array, ...]:
        start = time.perf_counter()
        found = run(self._index(method), query)
        seconds = (time.perf_counter() - start) / len(query)
        self._costs.add(method, kind.by_method()[method], seconds)
        return found

    def _plan(self, kind: _Kind) -> Plan:
        n = self.ntotal
        if n < _FEW_CODES:
            return Plan(SCAN, {}, f"{n} codes are few")
        names = kind.by_method()
        known = self._costs.plan(names)
        if known is not None:
            return known
        seen = {name: self._costs.seconds(name, names[name]) for name in METHODS}
        seen = {name: seconds for name, seconds in seen.items() if not math.isnan(seconds)}
        method = min(METHODS, key=lambda name: self._costs.count(name, names[name]))
        return Plan(method, seen, "the first searches of a kind try both, to measure them")

    def _wanted(self, k: int, radius: int | None) -> tuple[str, int]:
        if radius is not None:
            return "radius", check_radius(radius, self.code_size)
        return "k", check_k(k, self.ntotal)

    def _kind(self, queries: int, wanted: tuple[str, int], filtered: bool) -> _Kind:
        return _Kind(queries, wanted, filtered, torch.get_num_threads())

    def _index(self, method: str) -> IndexBinaryFlat | IndexBinaryMultiHash:
        return self.flat if method == SCAN else self.hash

    def _make_tables(self) -> None:
        with self._writing:
            if self.hash.ntotal or not self.flat.ntotal:
                return
            held = self.flat._held
            empty = no_tables(self.code_size)
            self.hash._held = Hashed(empty, Rows(held.codes, held.rows.n), held.ids)
        self.hash.build()

    def _update(self, change: Callable[[Any], Any]) -> None:
        with self._writing:
            if self.hash.ntotal:
                self.hash._update(change)  # first: it can refuse more codes than it takes
            self.flat._update(change)
            if abs(self.ntotal - self._measured) > self._measured // 4:
                self._forget()

    def _forget(self) -> None:
        """Forget what was measured; searches that are under way may still add to the old."""
        self._measured = self.flat.ntotal
        self._costs = Costs()
        self._chosen: dict[Hashable, IndexBinaryFlat | IndexBinaryMultiHash] = {}


def _joined(parts: list[tuple[Array, ...]]) -> tuple[Array, ...]:
    """Results of consecutive queries as those of all; of three the first are limits."""
    if len(parts[0]) == 3:
        ends = [0, *accumulate(int(limits[-1]) for limits, _, _ in parts)]
        parts = [
            (limits[1:] + end, *found) for (limits, *found), end in zip(parts, ends, strict=False)
        ]
        first = parts[0]
        parts[0] = (_with_zero(first[0]), *first[1:])
    return tuple(_concatenated(column) for column in zip(*parts, strict=True))


def _with_zero(limits: Array) -> Array:
    return _concatenated([limits[:1] * 0, limits])


def _concatenated(arrays: Sequence[Any]) -> Array:
    join: Any = torch.cat if isinstance(arrays[0], torch.Tensor) else np.concatenate
    return join(arrays)
