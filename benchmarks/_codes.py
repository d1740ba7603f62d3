"""Databases of codes that an index meets: uniform, clustered, and as trained networks make them.

They are drawn in blocks, so that a hundred million of them need no more memory than they hold, and
from seeds, so that every process draws the same ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

KINDS = ("uniform", "clustered", "learned")
MOST_QUERIES = 1024
BLOCK = 2**20
# Bits are flipped with a probability of so many binary digits.
DIGITS = 16

CLUSTERS, FLIPS = 1000, 0.08
# Of 50,000 codes of a trained network 6,615 were distinct: most images of a class get nearly the
# code of the class, and about one in twelve, whatever their number, one that is its own.
CLASSES, SURE_FLIPS, UNSURE = 100, 0.001, 0.085

DATABASE, QUERIES, CENTRES = 1, 2, 3  # seeds


@dataclass(frozen=True)
class Codes:
    """Codes of one kind, and queries drawn as they are but with a seed of their own.

    kind: "uniform"; "clustered": around CLUSTERS centres, each bit flipped with probability FLIPS;
        "learned": around CLASSES centres, with few bits flipped, so that most have many equals.
    """

    n: int
    bits: int
    kind: str

    def __str__(self) -> str:
        return f"{self.kind} n={self.n:,} b={self.bits}"

    def database(self) -> np.ndarray:
        """uint8 [n, bits / 8]."""
        return self._drawn(self.n, DATABASE)

    def queries(self) -> np.ndarray:
        """uint8 [MOST_QUERIES, bits / 8]; fewer queries are the first of these."""
        return self._drawn(MOST_QUERIES, QUERIES)

    def _drawn(self, rows: int, seed: int) -> np.ndarray:
        codes = np.empty((rows, self.bits // 8), np.uint8)
        start = 0
        for block in self._blocks(rows, seed):
            codes[start : start + len(block)] = block
            start += len(block)
        return codes

    def _blocks(self, rows: int, seed: int) -> Iterator[np.ndarray]:
        rng, size = np.random.default_rng(seed), self.bits // 8
        centres = random_bytes(np.random.default_rng(CENTRES), self._centres(), size)
        for start in range(0, rows, BLOCK):
            number = min(BLOCK, rows - start)
            if self.kind == "uniform":
                yield random_bytes(rng, number, size)
                continue
            codes = centres[rng.integers(0, len(centres), number)]
            if self.kind == "clustered":
                yield codes ^ flips(rng, number, size, FLIPS)
                continue
            unsure = np.flatnonzero(rng.random(number) < UNSURE)
            codes ^= flips(rng, number, size, SURE_FLIPS)
            codes[unsure] ^= flips(rng, len(unsure), size, FLIPS)
            yield codes

    def _centres(self) -> int:
        return CLASSES if self.kind == "learned" else CLUSTERS


def random_bytes(rng: np.random.Generator, rows: int, size: int) -> np.ndarray:
    """uint8 [rows, size]; 64 bits at a time, which is several times faster than byte by byte."""
    words = rng.integers(0, 2**64, -(-rows * size // 8), np.uint64)
    return words.view(np.uint8)[: rows * size].reshape(rows, size)


def flips(rng: np.random.Generator, rows: int, size: int, probability: float) -> np.ndarray:
    """uint8 [rows, size] whose bits are 1 with the probability, rounded to DIGITS binary digits.

    From the last digit to the first: a fair bit OR what there is adds half to half of the
    probability, a fair bit AND it only halves it.
    """
    digits = round(probability * 2**DIGITS)
    found = np.zeros((rows, size), np.uint8)
    for digit in range(DIGITS):
        fair = random_bytes(rng, rows, size)
        if digits >> digit & 1:
            found |= fair
        else:
            found &= fair
    return found
