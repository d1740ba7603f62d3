"""Time finding all near-duplicates among codes: `hashfast.pairs`, beside faiss's range search.

python benchmarks/bench_pairs.py [--n 1000000] [--bits 64] [--radius 3] [--threads 1 2]

One code in a hundred is a copy of another with up to `radius` bits flipped. faiss compares every
code with every other, and ours each pair once; faiss is timed on a share of the queries and scaled.
Exits with 1 when the two find different pairs among that share.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from _bench import stamp
from _rows import RESULTS, Row, append_rows, duration, machine_slug
from _timing import time_cpu

import hashfast

COLUMNS = (
    *("provider", "n", "bits", "radius", "threads", "wall_s", "cpu_s", "pairs", "timed_share"),
    *("device", "cpu", "torch", "hashfast", "commit", "date"),
)
SHARE = 4096  # queries that faiss is timed on


def near_duplicates(n: int, bits: int, radius: int) -> np.ndarray:
    """Random codes uint8 [n, bits / 8], one in a hundred a near-copy."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (n, bits // 8), dtype=np.uint8)
    copies = rng.choice(n, max(n // 100, 1), replace=False)
    codes[copies] = codes[rng.integers(0, n, len(copies))]
    for row in copies:
        for bit in rng.integers(0, bits, rng.integers(0, radius + 1)):
            codes[row, bit // 8] ^= 1 << (bit % 8)
    return codes


def ours(codes: np.ndarray, radius: int) -> np.ndarray:
    """Pairs int64 [p, 2], the first row the smaller one."""
    blocks = [np.stack(pair[:2], 1) for pair in hashfast.pairs(codes, radius)]
    return np.concatenate([np.empty((0, 2), np.int64), *blocks])


def faiss_pairs(codes: np.ndarray, radius: int, threads: int) -> tuple[np.ndarray, float, float]:
    """Pairs of the first SHARE rows, and (wall, CPU) seconds that all rows would take."""
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexBinaryFlat(8 * codes.shape[1])
    index.add(codes)
    query = codes[:SHARE]
    found: list[np.ndarray] = []

    def search() -> None:
        limits, _, right = index.range_search(query, radius + 1)
        left = np.repeat(np.arange(len(query)), np.diff(limits.astype(np.int64)))
        found.append(np.stack([left, right], 1)[right > left])

    wall, cpu = time_cpu(search, 1)
    scale = len(codes) / len(query)
    return found[-1], wall * scale, cpu * scale


def measure(n: int, bits: int, radius: int, threads: int) -> tuple[list[Row], bool]:
    """A row for each, and whether they agree."""
    torch.set_num_threads(threads)
    codes = near_duplicates(n, bits, radius)
    made = stamp("cpu", threads)
    shared = {"n": n, "bits": bits, "radius": radius} | {c: made[c] for c in COLUMNS if c in made}
    found: list[np.ndarray] = []
    wall, cpu = time_cpu(lambda: found.append(ours(codes, radius)), 1)
    rows = [
        shared
        | {"provider": "hashfast.pairs", "wall_s": wall, "cpu_s": cpu, "timed_share": 1.0}
        | {"pairs": len(found[-1])}
    ]
    theirs, wall, cpu = faiss_pairs(codes, radius, threads)
    share = min(SHARE, n) / n
    rows.append(
        shared
        | {"provider": "faiss range_search", "wall_s": wall, "cpu_s": cpu, "timed_share": share}
        | {"pairs": len(theirs)}
    )
    mine = found[-1][found[-1][:, 0] < SHARE]
    same = sorted(map(tuple, mine.tolist())) == sorted(map(tuple, theirs.tolist()))
    return rows, same


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--n", type=int, default=10**6)
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--radius", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, help="CSV file to append to, instead of results/")
    options = parser.parse_args(arguments)
    for threads in options.threads:
        rows, same = measure(options.n, options.bits, options.radius, threads)
        if not same:
            print("WRONG: hashfast and faiss find different pairs", file=sys.stderr)
            return 1
        for row in rows:
            print(
                f"{row['provider']:<20} n={row['n']:,} b={row['bits']} radius={row['radius']} "
                f"threads={threads}: {duration(row['wall_s'] * 1e3)} wall, "
                f"{duration(row['cpu_s'] * 1e3)} CPU, {row['pairs']:,} pairs"
                + ("" if row["timed_share"] == 1 else f" ({row['timed_share']:.1%} timed, scaled)")
            )
        out = options.out or RESULTS / f"pairs-{machine_slug(rows[0]['device'])}.csv"
        append_rows(out, rows, COLUMNS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
