"""Exact Hamming search as each library offers it, and the codes it is measured on.

Every provider lives in a process of its own and draws the same codes from the same seed there, so
that nothing large is sent and no library meets another one's threads.
"""

import importlib.metadata
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _bandwidth import Readers
from _timing import time_cpu

MOST_QUERIES = 512
CENTRES, FLIPS = 1000, 3
# Queries whose whole result is compared with numpy's; it takes a pass over the database for each.
COMPARED_WHOLE = 2

Answer = tuple[np.ndarray, np.ndarray]  # distances int32 [q, k], ids int64 [q, k]
Search = Callable[[np.ndarray, int], Answer]


@dataclass(frozen=True)
class Codes:
    """A database and queries for it, the same ones wherever they are drawn.

    kind: "random", or "learned": like the codes of a trained network they crowd around CENTRES
        centres, with up to FLIPS bits changed, so that many are equal.
    """

    n: int
    bits: int
    kind: str = "random"

    def database(self) -> np.ndarray:
        """uint8 [n, bits / 8]."""
        return self._draw(self.n, seed=1)

    def queries(self) -> np.ndarray:
        """uint8 [MOST_QUERIES, bits / 8]; fewer queries are the first of these."""
        return self._draw(MOST_QUERIES, seed=2)

    def _draw(self, rows: int, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        if self.kind == "random":
            return rng.integers(0, 256, (rows, self.bits // 8), dtype=np.uint8)
        centres = np.random.default_rng(0).integers(0, 256, (CENTRES, self.bits // 8), np.uint8)
        codes = centres[rng.integers(0, CENTRES, rows)]
        for _ in range(FLIPS):
            # Half of the positions are beyond the last bit and change nothing.
            bit = rng.integers(0, 2 * self.bits, rows)
            row = np.flatnonzero(bit < self.bits)
            codes[row, bit[row] // 8] ^= (1 << bit[row] % 8).astype(np.uint8)
        return codes


# ---- providers -----------------------------------------------------------------------------


class Provider:
    """A library in its process, with the codes and whatever searches over them are open.

    package: what it is installed by. surfaces: the ways it is called, the usual one first.
    most_pairs: larger searches are left out. most_threads: of one search.
    """

    package = ""
    surfaces: tuple[str, ...] = ("",)
    most_pairs = math.inf
    most_threads = math.inf

    def __init__(self) -> None:
        self.threads = 1
        self.searches: dict[str, Search] = {}

    def load(self, codes: Codes) -> None:
        """Draw the codes; what was held before is freed first."""
        self.searches.clear()
        self.database = self.query = np.empty((0, codes.bits // 8), np.uint8)
        self.database, self.query = codes.database(), codes.queries()

    def open(self, surface: str) -> float:
        """Make the search anew; returns the seconds from codes to an index, NaN without one."""
        self.searches.pop(surface, None)
        self.searches[surface], seconds = self.prepare(surface)
        return seconds

    def answer(self, surface: str, queries: int, k: int, threads: int) -> tuple[float, Answer]:
        """One call: its seconds, and what it finds."""
        self.set_threads(threads)
        start = time.perf_counter()
        answer = self.searches[surface](self.query[:queries], k)
        return time.perf_counter() - start, answer

    def time(
        self, surface: str, queries: int, k: int, threads: int, calls: int
    ) -> tuple[float, float]:
        """(wall, CPU) seconds a call."""
        self.set_threads(threads)
        search, query = self.searches[surface], self.query[:queries]
        return time_cpu(lambda: search(query, k), calls)

    def set_threads(self, threads: int) -> None:
        self.threads = threads

    def prepare(self, surface: str) -> tuple[Search, float]:
        """The search of a surface over the database, and the seconds that `open` returns."""
        raise NotImplementedError


class Hashfast(Provider):
    """The index, the function without an index, and an index that lies in a file.

    folder: for that file. readers: the compiled _bandwidth.c, if there is one.
    """

    package = "hashfast"
    surfaces = ("index", "oneshot", "mmap")

    def __init__(self, folder: Path, readers: Path | None) -> None:
        super().__init__()
        self.file = folder / "codes.ibxf"
        self.readers = Readers(readers) if readers else None
        # What the first call of all imports and loads is not part of any figure.
        import hashfast

        hashfast.search(np.zeros((1, 8), np.uint8), np.zeros((1, 8), np.uint8), 1)

    def load(self, codes: Codes) -> None:
        self.file.unlink(missing_ok=True)
        super().load(codes)

    def set_threads(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)

    def prepare(self, surface: str) -> tuple[Search, float]:
        import hashfast

        database = self.database
        if surface == "oneshot":
            return lambda query, k: hashfast.search(query, database, k), math.nan
        start = time.perf_counter()
        index = hashfast.IndexBinaryFlat(8 * database.shape[1])
        index.add(database)
        if surface == "mmap":
            if not self.file.exists():
                index.save(self.file)
            start = time.perf_counter()
            index = hashfast.load_index(self.file, mmap=True)
        self.scanned = index.codes
        return index.search, time.perf_counter() - start

    def read(self, reader: str, threads: int, calls: int) -> tuple[float, float]:
        """(wall, CPU) seconds to do no more than read the codes of the index opened last."""
        return time_cpu(lambda: self.readers.read(reader, self.scanned, threads), calls)


class Faiss(Provider):
    """IndexBinaryFlat."""

    package = "faiss-cpu"

    def set_threads(self, threads: int) -> None:
        import faiss

        faiss.omp_set_num_threads(threads)

    def prepare(self, surface: str) -> tuple[Search, float]:
        import faiss

        start = time.perf_counter()
        index = faiss.IndexBinaryFlat(8 * self.database.shape[1])
        index.add(self.database)
        return index.search, time.perf_counter() - start


class Usearch(Provider):
    """The exact search over an array; it keeps all distances, 16 bytes a pair."""

    package = "usearch"
    most_pairs = 4e6

    def prepare(self, surface: str) -> tuple[Search, float]:
        from usearch.index import MetricKind, ScalarKind, search

        database = self.database

        def run(query: np.ndarray, k: int) -> Answer:
            found = search(
                database,
                query,
                k,
                MetricKind.Hamming,
                exact=True,
                threads=self.threads,
                dtype=ScalarKind.B1,
            )
            shape = (len(query), k)
            distances = found.distances.reshape(shape).astype(np.int32)
            return distances, found.keys.reshape(shape).astype(np.int64)

        return run, math.nan


class Numpy(Provider):
    """XOR, bitwise_count and argpartition, a query at a time. Also judges what others find."""

    package = "numpy"
    most_pairs = 2e7
    most_threads = 1

    def prepare(self, surface: str) -> tuple[Search, float]:
        return self.search, math.nan

    def search(self, query: np.ndarray, k: int) -> Answer:
        distances, ids = np.empty((len(query), k), np.int32), np.empty((len(query), k), np.int64)
        for row, code in enumerate(query):
            to_all = hamming(code, self.database)
            nearest = np.argpartition(to_all, k - 1)[:k]
            ids[row] = nearest[np.argsort(to_all[nearest], kind="stable")]
            distances[row] = to_all[ids[row]]
        return distances, ids

    def judge(self, distances: np.ndarray, ids: np.ndarray) -> str:
        """Why this is not the answer to the first len(ids) queries; empty if it is.

        The first COMPARED_WHOLE queries are compared with a full ranking. Of the rest, rows are
        in order of (distance, id) and have the distances that are claimed.
        """
        n = len(self.database)
        if ids.min() < 0 or ids.max() >= n:
            return f"ids from {ids.min()} to {ids.max()}, expected 0 to {n - 1}"
        key = distances.astype(np.int64) * n + ids
        if (np.diff(key, axis=1) <= 0).any():
            return "not in order of (distance, id)"
        found = hamming(self.query[: len(ids), None], self.database[ids])
        if (found != distances).any():
            return f"{int((found != distances).sum())} of {ids.size} distances are not of their ids"
        for row, code in enumerate(self.query[: min(len(ids), COMPARED_WHOLE)]):
            expected = first_ids(hamming(code, self.database), ids.shape[1])
            if (ids[row] != expected).any():
                wrong = int((ids[row] != expected).sum())
                return f"{wrong} of {len(expected)} ids of query {row} are not the first nearest"
        return ""


PROVIDERS: dict[str, type[Provider]] = {
    "hashfast": Hashfast,
    "faiss": Faiss,
    "usearch": Usearch,
    "numpy": Numpy,
}


def version(provider: str) -> str | None:
    """The version that is installed; None if none is."""
    try:
        return importlib.metadata.version(PROVIDERS[provider].package)
    except importlib.metadata.PackageNotFoundError:
        return None


# ---- numpy's arithmetic --------------------------------------------------------------------


def hamming(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distances of codes uint8 [..., B], broadcast against each other: int32 [...]."""
    word = next(
        w for w in (np.uint64, np.uint32, np.uint16, np.uint8) if not a.shape[-1] % w().nbytes
    )
    return np.bitwise_count(a.view(word) ^ b.view(word)).sum(-1, dtype=np.int32)


def first_ids(distances: np.ndarray, k: int) -> np.ndarray:
    """The k smallest of distances [n] by (distance, id), as ids."""
    cut = np.partition(distances, k - 1)[k - 1]
    ids = np.concatenate([np.flatnonzero(distances < cut), np.flatnonzero(distances == cut)])[:k]
    return ids[np.argsort(distances[ids], kind="stable")]
