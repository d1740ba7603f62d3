"""One query a call: the indexes that answer it, each in a process, and how long every call takes.

Every call is timed by itself, over queries that are all different, because a mean over calls hides
the slow ones and a query that is asked again finds its codes in the cache.
"""

import ctypes
import functools
import gc
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _codes import Codes
from _processes import peak_memory_mb
from _rows import Row
from _search import Answer, Provider, Search

# One call after another in a process before the next one has its turn, at most this long.
TURN_SECONDS = 0.02


class Latencies(NamedTuple):
    """Wall and CPU seconds of calls, float64 [calls] each."""

    wall: np.ndarray
    cpu: np.ndarray

    def columns(self) -> dict[str, float]:
        """As they stand in a row of results, in milliseconds."""
        p50, p90, p99 = 1e3 * np.percentile(self.wall, (50, 90, 99))
        return {
            "calls": len(self.wall),
            "p50_ms": p50,
            "p90_ms": p90,
            "p99_ms": p99,
            "max_ms": 1e3 * self.wall.max(),
            "cpu_median_ms": 1e3 * float(np.median(self.cpu)),
        }


def joined(parts: list[Latencies]) -> Latencies:
    return Latencies(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def time_calls(search: Search, queries: np.ndarray, k: int, seconds: float = math.inf) -> Latencies:
    """Search by one query after another, until all had a call or `seconds` are over."""
    wall, cpu = [], []
    ones = [queries[i : i + 1] for i in range(len(queries))]
    clock, busy = time.perf_counter, time.process_time
    gc.disable()
    try:
        start = clock()
        for query in ones:
            # The CPU's clock is a system call: outside, where wall time does not see it.
            before = busy()
            begin = clock()
            search(query, k)
            end = clock()
            cpu.append(busy() - before)
            wall.append(end - begin)
            if end - start > seconds:
                break
    finally:
        gc.enable()
    return Latencies(np.array(wall), np.array(cpu) - clock_seconds())


@functools.cache
def clock_seconds() -> float:
    """What looking at the CPU's clock takes of its time: most of a microsecond."""
    clock = time.process_time
    return float(np.median([-clock() + clock() for _ in range(1000)]))


def one_by_one(search: Search, queries: np.ndarray, k: int) -> Answer:
    """What the calls find: distances [q, k], ids [q, k]."""
    found = [search(queries[i : i + 1], k) for i in range(len(queries))]
    distances, ids = (np.concatenate(part) for part in zip(*found, strict=True))
    return distances, ids


def resident() -> int:
    """Bytes of memory this process holds, once what was freed is given back."""
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


# ---- providers -----------------------------------------------------------------------------


class Single(Provider):
    """An index in its process; `surfaces` are the ways it is set up."""

    def load(self, codes: Codes) -> None:
        self.bits = codes.bits
        super().load(codes)

    def build(self, surface: str) -> tuple[float, float]:
        """Make the index anew; returns its seconds, and bytes a code that the process grew by."""
        self.searches.pop(surface, None)
        self.set_threads(1)
        before = resident()
        seconds = self.open(surface)
        return seconds, (resident() - before) / len(self.database)

    def find(self, surface: str, queries: int, k: int) -> Answer:
        """What single-query calls find for the first queries."""
        return one_by_one(self.searches[surface], self.query[:queries], k)

    def latencies(self, surface: str, k: int, first: int) -> Latencies:
        """Calls for about TURN_SECONDS from query `first` on, none of them twice."""
        queries = np.roll(self.query, -first, 0)
        return time_calls(self.searches[surface], queries, k, TURN_SECONDS)


class Hashfast(Single):
    package = "hashfast"

    def __init__(self) -> None:
        super().__init__()
        # What the first call of all imports and loads is not part of any figure.
        import hashfast

        hashfast.search(np.zeros((1, 8), np.uint8), np.zeros((1, 8), np.uint8), 1)

    def set_threads(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)


class Flat(Hashfast):
    """IndexBinaryFlat, which also says what is right."""

    def prepare(self, surface: str) -> tuple[Search, float]:
        import hashfast

        start = time.perf_counter()
        index = hashfast.IndexBinaryFlat(self.bits)
        index.add(self.database)
        return index.search, time.perf_counter() - start


class MultiHash(Hashfast):
    """IndexBinaryMultiHash, with equal codes kept once or each for itself."""

    surfaces = ("collapse", "each code")

    def prepare(self, surface: str) -> tuple[Search, float]:
        import hashfast

        start = time.perf_counter()
        index = hashfast.IndexBinaryMultiHash(self.bits, collapse=surface == self.surfaces[0])
        index.add(self.database)
        index.build()
        return index.search, time.perf_counter() - start


class Faiss(Single):
    """IndexBinaryFlat of faiss."""

    package = "faiss-cpu"

    def set_threads(self, threads: int) -> None:
        import faiss

        faiss.omp_set_num_threads(threads)

    def prepare(self, surface: str) -> tuple[Search, float]:
        start = time.perf_counter()
        index = self.empty()
        index.add(self.database)
        return index.search, time.perf_counter() - start

    def empty(self) -> Any:
        import faiss

        return faiss.IndexBinaryFlat(self.bits)


class FaissHash(Faiss):
    """IndexBinaryHash: one table, keyed by as many bits as tell the codes apart. Approximate.

    A surface is how many bits a key may differ in; one index serves them all.
    """

    surfaces = ("nflip=2", "nflip=3")

    def build(self, surface: str) -> tuple[float, float]:
        if not self.searches:
            self.taken = super().build("")
        index, flips = self.searches[""].__self__, int(surface.removeprefix("nflip="))

        def search(query: np.ndarray, k: int) -> Answer:
            index.nflip = flips
            return index.search(query, k)

        self.searches[surface] = search
        return self.taken

    def empty(self) -> Any:
        import faiss

        return faiss.IndexBinaryHash(self.bits, key_bits(len(self.database), self.bits))


class FaissMultiHash(FaissHash):
    """IndexBinaryMultiHash of faiss: as many such tables as the code has room for. Approximate."""

    surfaces = ("nflip=1", "nflip=2")

    def empty(self) -> Any:
        import faiss

        tables = max(round(self.bits / key_bits(len(self.database), self.bits)), 1)
        return faiss.IndexBinaryMultiHash(self.bits, tables, self.bits // tables)


def key_bits(n: int, bits: int) -> int:
    """log2(n), so that a key has about one code."""
    return min(max(round(math.log2(n)), 1), bits)


PROVIDERS: dict[str, type[Single]] = {
    "faiss.IndexBinaryFlat": Faiss,
    "hashfast.IndexBinaryFlat": Flat,
    "hashfast.IndexBinaryMultiHash": MultiHash,
    "faiss.IndexBinaryHash": FaissHash,
    "faiss.IndexBinaryMultiHash": FaissMultiHash,
}
APPROXIMATE = ("faiss.IndexBinaryHash", "faiss.IndexBinaryMultiHash")


# ---- a large index ---------------------------------------------------------------------------


class Scale:
    """An IndexBinaryMultiHash of very many codes in its process: made, kept in a file, searched."""

    def build(self, codes: Codes, threads: int) -> Row:
        """Make the index of codes that lie in memory; what it took, and what it holds."""
        import torch

        import hashfast

        self.codes, self.queries = codes, codes.queries()
        hashfast.search(self.queries[:1], self.queries, 1)  # imports and loads the rest
        before = resident()
        database = codes.database()
        torch.set_num_threads(threads)
        wall, cpu = time.perf_counter(), time.process_time()
        self.index = hashfast.IndexBinaryMultiHash(codes.bits)
        self.index.add(database)
        del database
        self.index.build()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        torch.set_num_threads(1)
        peak = 1e6 * peak_memory_mb()
        return {
            "build_threads": threads,
            "build_s": wall,
            "build_cpu_s": cpu,
            "peak_gb": peak / 1e9,
            "peak_code": (peak - before) / codes.n,
            "bytes_code": self.index.nbytes / codes.n,
            "resident_code": (resident() - before) / codes.n,
            "tables": len(self.index.widths),
            "distinct": self.index.distinct,
        }

    def save(self, path: Path) -> Row:
        start = time.perf_counter()
        self.index.save(path)
        return {"save_s": time.perf_counter() - start, "file_gb": path.stat().st_size / 1e9}

    def load(self, path: Path) -> Row:
        """Go on with the file where it lies; the index in memory is freed."""
        import hashfast

        del self.index
        start = time.perf_counter()
        self.index = hashfast.load_index(path, mmap=True)
        return {"load_s": time.perf_counter() - start}

    def scan(self, queries: int, k: int) -> None:
        """Find the truth for the first queries by looking at all codes, which are drawn again."""
        import hashfast

        self.truth = hashfast.search(self.queries[:queries], self.codes.database(), k)

    def recall(self, k: int) -> float:
        """The share of the k neighbours, in their order, that single-query calls find."""
        distances, ids = (part[:, :k] for part in self.truth)
        found = one_by_one(self.index.search, self.queries[: len(ids)], k)
        return float(((found[0] == distances) & (found[1] == ids)).mean())

    def latencies(self, k: int, calls: int) -> Row:
        first = time_calls(self.index.search, self.queries[:1], k).columns()
        timed = time_calls(self.index.search, self.queries[1 : calls + 1], k)
        return timed.columns() | {"first_ms": first["max_ms"]}
