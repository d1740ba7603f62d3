"""Time IndexBinaryAuto beside the two that it chooses from: does it take the faster one?

python benchmarks/bench_planner.py [--set bars|small] [--n 1e4 1e6] [--k 1 100] [--queries 1 64]

The three indexes search the same codes in turns, on one thread, after a few calls that let the
planner see its own times. A planner that takes more than ALLOWED times the CPU time of the better
one is measured again, for longer, and the second figure counts. Exits with 1 when it still does,
or when the three do not find the same.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _bench import stamp
from _codes import KINDS, MOST_QUERIES, Codes
from _rows import RESULTS, Row, aligned, append_rows, duration, machine_slug
from _timing import measure, time_cpu
from bench_multi_hash import integer

import hashfast

SETS: dict[str, dict[str, Sequence[int]]] = {
    "bars": {"n": (10**4, 10**5, 10**6, 10**7), "k": (1, 10, 100, 1000), "queries": (1, 16, 256)},
    "small": {"n": (10**4, 10**5), "k": (1, 100), "queries": (1, 16)},
}
SECONDS_EACH = {"bars": 1.0, "small": 0.3}
BITS, WARM_UP, ALLOWED = 64, 5, 1.10
# One call stands for queries like it: at least so many are searched in each.
QUERIES_EACH, MIN_ROUNDS = 32, 3
# Longer than what else a machine does; a cell that misses gets so many times as long again.
SAMPLE_SECONDS, AGAIN = 5e-3, 4
AUTO, FLAT, MULTI = "auto", "flat", "multi_hash"

COLUMNS = (
    *("codes", "n", "bits", "queries", "k", "threads"),
    *(f"{name}_{clock}_ms" for name in (AUTO, FLAT, MULTI) for clock in ("cpu", "wall")),
    *("ratio", "best", "plan", "rounds"),
    *("device", "cpu", "torch", "hashfast", "commit", "date"),
)


def indexes(codes: Codes) -> dict[str, Any]:
    """The three over the same codes, ready to search."""
    made = {
        AUTO: hashfast.IndexBinaryAuto(codes.bits),
        FLAT: hashfast.IndexBinaryFlat(codes.bits),
        MULTI: hashfast.IndexBinaryMultiHash(codes.bits),
    }
    database = codes.database()
    for index in made.values():
        index.add(database)
    made[MULTI].build()
    return made


def cell(
    made: dict[str, Any], codes: Codes, queries: np.ndarray, q: int, k: int, seconds: float
) -> Row:
    """Times of one pass over the queries, q at a time.

    Raises ValueError when the three do not find the same.
    """
    passes = max(QUERIES_EACH // q, 1)
    batches = [queries[i * q : (i + 1) * q] for i in range(passes)]

    def search_all(index: Any) -> list[np.ndarray]:
        return [part for batch in batches for part in index.search(batch, k)]

    expected = search_all(made[FLAT])
    for name in (*[AUTO] * WARM_UP, MULTI):
        if not all(map(np.array_equal, search_all(made[name]), expected)):
            raise ValueError(f"{codes} q={q} k={k}: {name} does not find what the scan finds")
    thunks = {name: partial(search_all, index) for name, index in made.items()}
    for longer in (1, AGAIN):
        timings = measure(thunks, time_cpu, longer * seconds, MIN_ROUNDS, SAMPLE_SECONDS)
        best = min((FLAT, MULTI), key=lambda name: timings[name].cpu)
        ratio = timings[AUTO].cpu / timings[best].cpu
        if ratio <= ALLOWED:
            break
    row: Row = {"codes": codes.kind, "n": codes.n, "bits": codes.bits, "queries": q, "k": k}
    for name, timing in timings.items():
        row[f"{name}_cpu_ms"] = 1e3 * timing.cpu / passes
        row[f"{name}_wall_ms"] = 1e3 * timing.median / passes
    return row | {
        "ratio": ratio,
        "best": best,
        "plan": " ".join(str(made[AUTO].explain(q, k)).split()),
        "rounds": timings[AUTO].rounds,
    }


def table(rows: list[Row]) -> str:
    """The cells of one database, a line each."""
    lines = [("q", "k", "auto", "scan", "multi-hash", "auto / best", "")]
    for row in rows:
        times = (duration(row[f"{name}_cpu_ms"]) for name in (AUTO, FLAT, MULTI))
        missed = row["ratio"] > ALLOWED
        lines.append(
            (
                *(str(row["queries"]), str(row["k"]), *times, f"{row['ratio']:.2f}"),
                f"MISSED: {row['plan']}" if missed else "",
            )
        )
    return aligned(lines)


def verdict(rows: list[Row]) -> str:
    """The share of cells that are as fast as the better one, or nearly, and the worst of them."""
    share = sum(row["ratio"] <= ALLOWED for row in rows) / len(rows)
    worst = max(rows, key=lambda row: row["ratio"])
    return (
        f"{'passed' if share == 1 else 'MISSED'}  within {ALLOWED - 1:.0%} of the better one in "
        f"{share:.0%} of {len(rows)} cells; worst {worst['ratio']:.2f}: {worst['codes']} "
        f"n={worst['n']:,} q={worst['queries']} k={worst['k']}"
    )


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", choices=sorted(SETS), default="bars", help="(default bars)")
    axes = ("n", "k", "queries")
    for axis in axes:
        parser.add_argument(
            f"--{axis}", nargs="+", type=integer, help=f"{axis} instead of the set's own"
        )
    parser.add_argument("--bits", type=int, default=BITS, help=f"(default {BITS})")
    parser.add_argument("--codes", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seconds", type=float, help="for each cell, in turns")
    parser.add_argument("--machine", help="name of the results file (default: the CPU's model)")
    parser.add_argument(
        "--out",
        type=Path,
        help="CSV file to append to, instead of results/; without it rows of the small set and of "
        "changed ones are not kept",
    )
    options = parser.parse_args(arguments)
    options.kept = options.set == "bars" and not any(getattr(options, axis) for axis in axes)
    for axis in axes:
        setattr(options, axis, getattr(options, axis) or SETS[options.set][axis])
    options.seconds = SECONDS_EACH[options.set] if options.seconds is None else options.seconds
    if options.bits % 8 or options.bits <= 0 or max(options.queries) > MOST_QUERIES:
        parser.error(
            f"{options.bits} bits, {max(options.queries)} queries: bits come in eights, queries "
            f"up to {MOST_QUERIES}"
        )
    if max(options.k) > min(options.n):
        parser.error(f"k={max(options.k)}: k up to n, {min(options.n)} here")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    torch.set_num_threads(1)
    made = stamp("cpu", 1)
    out = options.out
    if out is None and options.kept:
        out = RESULTS / f"planner-{machine_slug(options.machine or made['device'])}.csv"
    print(f"hashfast {made['hashfast']}; {made['cpu']}; commit {made['commit']}; {made['date']}")
    rows: list[Row] = []
    for kind in options.codes:
        for n in options.n:
            codes = Codes(n, options.bits, kind)
            held, queries = indexes(codes), codes.queries()
            try:
                found = [
                    {key: made[key] for key in COLUMNS if key in made}
                    | cell(held, codes, queries, q, k, options.seconds)
                    for q in options.queries
                    for k in options.k
                ]
            except ValueError as error:
                print(f"WRONG: {error}", file=sys.stderr)
                return 1
            print(f"\n{codes}\n{table(found)}", flush=True)
            if out:
                append_rows(out, found, COLUMNS)
            rows += found
    print(f"\n{verdict(rows)}")
    return 1 if any(row["ratio"] > ALLOWED for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
