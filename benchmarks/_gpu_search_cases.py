"""Which searches are measured on a GPU, what bounds them, and the bars they are held against."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from _rows import CUDA_GRAPH, EAGER
from _search_cases import Bar

from hashfast.reproduce.numbers004 import SEARCH_MS, TABLE_3_BATCHES

N, BITS, QUERIES, K = 10**7, (32, 64, 128, 256, 512), (1, 8, 48, 512, 4096), 100
KINDS = ("random", "clustered", "learned")
PAPER_BITS = 64


@dataclass(frozen=True)
class Case:
    """One search; codes: one of KINDS."""

    n: int
    bits: int
    queries: int
    k: int = K
    codes: str = KINDS[0]

    def __str__(self) -> str:
        return f"n={self.n:,} b={self.bits} q={self.queries} k={self.k}, {self.codes} codes"

    @property
    def paper_ms(self) -> float | None:
        """What Table 3 of paper 004 has for it: faiss, on the server of its V100."""
        row = SEARCH_MS.get((self.n, self.k))
        if row is None or self.bits != PAPER_BITS or self.queries not in TABLE_3_BATCHES:
            return None
        return row[TABLE_3_BATCHES.index(self.queries)]


def _bars() -> list[Case]:
    return [
        *(Case(N, 64, queries) for queries in QUERIES),
        Case(5 * N, 64, 512, k=1000),
        *(Case(N, bits, 512) for bits in BITS),
        *(Case(N, 64, 512, codes=kind) for kind in KINDS),
    ]


def _table3() -> list[Case]:
    return [
        Case(n, PAPER_BITS, queries, k) for (n, k), queries in product(SEARCH_MS, TABLE_3_BATCHES)
    ]


def _small() -> list[Case]:
    n = N // 10
    return [
        *(Case(n, 64, queries) for queries in (1, 64, 512)),
        Case(n, 256, 64),
        *(Case(n, 64, 64, codes=kind) for kind in KINDS),
    ]


def _full() -> list[Case]:
    """Every axis around the searches of the bars."""
    return [
        *_bars(),
        *(Case(n, bits, queries) for n, bits, queries in product((N // 10, N), BITS, QUERIES)),
        *(Case(N, 64, queries, codes=kind) for queries, kind in product(QUERIES, KINDS)),
        *(Case(N, 64, queries, k) for queries, k in product((1, 48, 512), (1, 10, 1000, 16384))),
    ]


SETS = {"bars": _bars, "table3": _table3, "small": _small, "full": _full}


def cases(name: str, **overrides: Sequence | None) -> list[Case]:
    """The cases of a set, each one once, those over the same codes together.

    overrides: values that take the place of the set's own, for any of n, bits, queries, k, codes.
    """
    given = {axis: values for axis, values in overrides.items() if values}
    chosen = {
        replace(case, **dict(zip(given, values, strict=True)))
        for case in SETS[name]()
        for values in product(*given.values())
    }
    return sorted(chosen, key=lambda case: (case.codes, case.n, case.bits, case.queries, case.k))


# ---- what bounds a search ------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """Rates of a GPU that no exact search which compares every pair can pass.

    bytes: read from memory a second. products: ANDs of two bits that are counted, a second;
    together: how many of them come at least at a time. operations: on integers of a lane, a second.
    """

    bytes: float
    products: float
    together: int
    operations: float

    def seconds(self, case: Case) -> dict[str, float]:
        """The least time for each of the three.

        Memory: the codes are read once. Products: a pair takes those of its bits and of their
        complements. Operations: half of one a pair, because one looks at three numbers at once.
        """
        pairs = case.n * case.queries
        products = -(-2 * case.bits // self.together) * self.together
        return {
            "memory": case.n * case.bits / 8 / self.bytes,
            "products": pairs * products / self.products,
            "operations": pairs / 2 / self.operations,
        }

    def binding(self, case: Case) -> tuple[str, float]:
        """The one that takes longest, and its seconds."""
        seconds = self.seconds(case)
        name = max(seconds, key=seconds.__getitem__)
        return name, seconds[name]


# Of a multiprocessor in a cycle: tensor cores of Ampere and Hopper do one m16n8k128, popcounts of
# 16 words replace 64 products each elsewhere, and there are 64 operations.
BIT_PRODUCTS, POPCOUNTS, OPERATIONS = 16 * 8 * 128, 16 * 64, 64
CLOCK_RATE = 13  # CU_DEVICE_ATTRIBUTE_CLOCK_RATE, in kHz


def device_limits(bytes_a_second: float) -> Limits:
    """Of the present GPU at its highest clock, with its memory as it was measured.

    Raises RuntimeError when the driver does not tell the clock.
    """
    device = torch.cuda.current_device()
    found = torch.cuda.get_device_properties(device)
    kilohertz = ctypes.c_int()
    driver = ctypes.CDLL("libcuda.so.1")
    status = driver.cuDeviceGetAttribute(ctypes.byref(kilohertz), CLOCK_RATE, device)
    if status or kilohertz.value <= 0:
        raise RuntimeError(f"cuDeviceGetAttribute tells no clock rate (status {status})")
    return limits_of(
        found.multi_processor_count, kilohertz.value * 1e3, found.major, bytes_a_second
    )


def limits_of(processors: int, hertz: float, major: int, bytes_a_second: float) -> Limits:
    """major: of the compute capability; only 8 and 9 multiply bits by themselves."""
    cycles = processors * hertz
    products, together = (BIT_PRODUCTS, 128) if major in (8, 9) else (POPCOUNTS, 64)
    return Limits(bytes_a_second, products * cycles, together, OPERATIONS * cycles)


# ---- bars ----------------------------------------------------------------------------------


def _bar(name: str, bound: float, column: str, at_most: bool = False, **where: object) -> Bar:
    fixed = {"n": N, "bits": 64, "k": K, "codes": KINDS[0], "execution": CUDA_GRAPH} | where
    return Bar(
        name,
        bound,
        column,
        {"provider": ("hashfast",)}
        | {key: value if isinstance(value, tuple) else (value,) for key, value in fixed.items()},
        at_most,
    )


BARS = (
    _bar("q >= 512, b=64: 10^12 pairs a second", 12, "tpairs_s", queries=(512, 4096)),
    _bar("q = 512, b=128: 10^12 pairs a second", 7, "tpairs_s", bits=128, queries=512),
    _bar("q = 512, b=64: milliseconds", 0.6, "median_ms", True, queries=512),
    _bar("q <= 48, b=64: milliseconds", 0.05, "median_ms", True, queries=(1, 8, 48)),
    _bar(
        "n=50,000,000, q = 512, k=1000, b=64: milliseconds",
        4,
        "median_ms",
        True,
        n=5 * N,
        queries=512,
        k=1000,
    ),
    _bar(
        "Table 3 of paper 004, every cell: times faster than the paper's",
        1,
        "paper_ratio",
        n=tuple(sorted({n for n, _ in SEARCH_MS})),
        k=tuple(sorted({k for _, k in SEARCH_MS})),
        queries=TABLE_3_BATCHES,
        execution=EAGER,
    ),
)
