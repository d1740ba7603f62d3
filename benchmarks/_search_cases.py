"""Which searches are measured, and the bars they are held against."""

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from _rows import Row

N, BITS, QUERIES, K = 10**7, (32, 64, 128, 256), (1, 4, 8, 16, 32, 64, 512), 100
SURFACES = ("index", "oneshot", "mmap")


@dataclass(frozen=True)
class Case:
    """One search; surfaces: the ways of calling hashfast that are measured on it."""

    n: int
    bits: int
    queries: int
    k: int = K
    threads: int = 1
    surfaces: tuple[str, ...] = SURFACES[:1]

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"n={self.n:,} b={self.bits} q={self.queries} k={self.k}, {threads}"


def _bars() -> list[Case]:
    return [
        *(Case(N, bits, queries) for bits in BITS for queries in QUERIES),
        *(Case(N, bits, 1, threads=2) for bits in BITS),
        *(Case(N, 64, queries, threads=2) for queries in (16, 512)),
        *(Case(n, 64, 64, k=1000) for n in (N, N // 10)),
    ]


def _small() -> list[Case]:
    n = N // 10
    return [
        *(Case(n, 64, queries, surfaces=SURFACES) for queries in (1, 16, 64)),
        *(Case(n, 64, queries, threads=2) for queries in (1, 16)),
        Case(n, 64, 64, k=1000),
        Case(n, 256, 64),
    ]


def _full() -> list[Case]:
    """Every axis, and the surfaces, around the searches of the bars."""
    sizes = (N // 10, N)
    return [
        *_bars(),
        *(Case(N, 64, queries, surfaces=SURFACES) for queries in (1, 16, 64)),
        *(Case(n, bits, queries) for n, bits, queries in product(sizes, BITS, QUERIES)),
        *(Case(n, bits, 64, k=k) for n, bits, k in product(sizes, BITS, (1, 10, 1000))),
        *(Case(N, bits, queries, threads=2) for bits, queries in product(BITS, QUERIES)),
    ]


SETS = {"bars": _bars, "small": _small, "full": _full}


def cases(name: str, **overrides: Sequence[int] | None) -> list[Case]:
    """The cases of a set, each one once, those over the same codes together.

    overrides: values that take the place of the set's own, for any of n, bits, queries, k, threads.
    """
    given = {axis: values for axis, values in overrides.items() if values}
    chosen = [
        replace(case, **dict(zip(given, values, strict=True)))
        for case in SETS[name]()
        for values in product(*given.values())
    ]
    surfaces: dict[Case, tuple[str, ...]] = {}
    for case in chosen:
        alike = replace(case, surfaces=())
        surfaces[alike] = max(surfaces.get(alike, ()), case.surfaces, key=len)
    return sorted(
        (replace(case, surfaces=all_of_them) for case, all_of_them in surfaces.items()),
        key=lambda case: (case.n, case.bits, case.threads),
    )


@dataclass(frozen=True)
class Bar:
    """A figure of the rows `where` fits must reach `bound`; the lowest of them counts.

    at_most: the highest must not pass it instead.
    """

    name: str
    bound: float
    column: str
    where: dict[str, Any]
    at_most: bool = False

    def value(self, rows: Iterable[Row]) -> float:
        """NaN when nothing of it was measured."""
        found = [
            row[self.column]
            for row in rows
            if all(row[key] in values for key, values in self.where.items())
            and not math.isnan(row[self.column])
        ]
        return (max if self.at_most else min)(found, default=math.nan)

    def passed(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound


def bar_verdicts(bars: Iterable[Bar], rows: list[Row], digits: int) -> list[str]:
    """A line for every bar that something was measured for."""
    lines = []
    for bar in bars:
        value = bar.value(rows)
        if not math.isnan(value):
            verdict = "passed" if bar.passed(value) else "MISSED"
            lines.append(f"{verdict}  {bar.name}: {value:.{digits}f} (bar {bar.bound})")
    return lines


def _bar(name: str, least: float, column: str, **where: int | Sequence[int]) -> Bar:
    rows = {"n": N, "bits": 64, "k": K, "threads": 1} | where
    return Bar(
        name,
        least,
        column,
        {"provider": ("hashfast",), "surface": SURFACES[:1], "codes": ("random",)}
        | {key: (value,) if isinstance(value, int) else value for key, value in rows.items()},
    )


BARS = (
    *(
        _bar(f"q >= 64, b={bits}: x faiss", least, "ratio", bits=bits, queries=(64, 512))
        for bits, least in zip(BITS, (20, 16, 9, 6), strict=True)
    ),
    _bar("k=1000, b=64: x faiss", 10, "ratio", k=1000, queries=64),
    _bar("k=1000, b=64, n=1,000,000: x faiss", 10, "ratio", n=N // 10, k=1000, queries=64),
    _bar("q = 8 to 32, b=64: x faiss", 7, "ratio", queries=(8, 16, 32)),
    _bar("q = 4, b=64: x faiss", 5, "ratio", queries=4),
    *(
        _bar(
            f"q = 1, b={bits}, {threads} thread{'s' * (threads > 1)}: share of read bandwidth",
            0.85,
            "of_bandwidth",
            bits=bits,
            queries=1,
            threads=threads,
        )
        for threads in (1, 2)
        for bits in BITS
    ),
    *(
        _bar(f"q = {q}, b=64: 2 threads x 1 thread", 1.8, "speedup", queries=q, threads=2)
        for q in (16, 512)
    ),
)


def add_options(
    parser: argparse.ArgumentParser, sets: Iterable[str], axes: Iterable[str], processor: str
) -> None:
    """What both searches' benchmarks take: cases, time for each, where rows go."""

    def integer(text: str) -> int:
        return int(float(text))  # 1e7 is how these numbers are written

    parser.add_argument("--set", choices=sorted(sets), default="bars", help="(default bars)")
    for axis in axes:
        parser.add_argument(
            f"--{axis}", nargs="+", type=integer, help=f"{axis} instead of the set's own"
        )
    parser.add_argument("--seconds", type=float, help="for each measurement, in turns")
    parser.add_argument(
        "--machine", help=f"name of the results file (default: the {processor}'s model)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="CSV file to append to, instead of results/; without it rows of the small set and of "
        "changed ones are not kept",
    )
