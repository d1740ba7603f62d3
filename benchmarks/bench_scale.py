"""Exact search over a hundred million codes on one machine: building, memory, files, latencies.

python benchmarks/bench_scale.py [--n 1e8] [--codes uniform clustered learned] [--folder /big/disk]

Each kind of codes has a fresh process, so that its peak of memory is its own. Calls are timed one
by one, over queries that all differ, on one thread; first with the index in memory, then with its
file mapped. Exits with 1 when the index finds something else than a scan of the codes does: no
latency is then printed.
"""

import argparse
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

from _bench import stamp
from _codes import KINDS, MOST_QUERIES, Codes
from _latency import Scale
from _processes import Remote
from _rows import RESULTS, Row, aligned, append_rows, duration, machine_slug
from bench_multi_hash import integer

N, BITS, KS = 10**8, 64, (1, 10, 100)
IN_MEMORY, MAPPED = "memory", "mapped file"

COLUMNS = (
    *("codes", "n", "bits", "k", "place", "threads", "calls"),
    *("p50_ms", "p90_ms", "p99_ms", "max_ms", "cpu_median_ms", "first_ms", "recall", "checked"),
    *(
        "build_threads",
        "build_s",
        "build_cpu_s",
        "peak_gb",
        "peak_code",
        "bytes_code",
        "resident_code",
    ),
    *("tables", "distinct", "save_s", "file_gb", "load_s"),
    *("device", "cpu", "torch", "hashfast", "commit", "date"),
)


def measure(scale: Remote, codes: Codes, options: argparse.Namespace, folder: Path) -> list[Row]:
    """A row for every k and place.

    Raises ValueError when the index does not find what the scan finds.
    """
    build = scale.call("build", codes, options.threads)
    scale.call("scan", options.checked, max(options.k))
    path = folder / "codes.ibmh"
    rows, files = [], {"load_s": math.nan}
    for place in (IN_MEMORY, MAPPED):
        if place == MAPPED:
            files |= scale.call("load", path)
        for k in options.k:
            timed = scale.call("latencies", k, options.calls)
            recall = scale.call("recall", k)
            if recall < 1:
                raise ValueError(f"{codes} k={k}, {place}: {recall:.2%} of what the scan finds")
            rows.append(
                {"codes": codes.kind, "n": codes.n, "bits": codes.bits, "k": k, "place": place}
                | timed
                | build
                | {"recall": recall, "checked": options.checked}
            )
        if place == IN_MEMORY:
            files |= scale.call("save", path)
    path.unlink()
    return [row | files for row in rows]


def table(rows: list[Row]) -> str:
    """The latencies of one kind of codes."""
    lines = [("k", "place", "first call", "p50", "p90", "p99", "max", "CPU", "recall")]
    for row in rows:
        times = ("first", "p50", "p90", "p99", "max", "cpu_median")
        lines.append(
            (
                *(str(row["k"]), row["place"]),
                *(duration(row[f"{key}_ms"]) for key in times),
                f"{row['recall']:.3f} of {row['checked']}",
            )
        )
    return aligned(lines)


def summary(row: Row) -> str:
    """What building, holding and keeping these codes takes, and what a billion of them would."""
    return (
        f"{row['codes']} n={row['n']:,} b={row['bits']}: {row['tables']} tables, "
        f"{row['distinct']:,} distinct codes\n"
        f"  built in {row['build_s']:.1f} s ({row['build_cpu_s']:.1f} s of CPU) on "
        f"{row['build_threads']} threads; peak of memory {row['peak_gb']:.2f} GB\n"
        f"  holds {row['bytes_code']:.1f} bytes a code; the process grew by "
        f"{row['resident_code']:.1f}\n"
        f"  saved in {row['save_s']:.1f} s, {row['file_gb']:.2f} GB; "
        f"mapped in {duration(1e3 * row['load_s'])}\n"
        f"  at this rate 1e9 codes: {row['bytes_code']:.1f} GB held, {row['peak_code']:.1f} GB "
        f"while they are built, in {1e9 / row['n'] * row['build_s'] / 60:.0f} min"
    )


def verdicts(rows: list[Row]) -> list[str]:
    """A line for every bar; they are set for a hundred million codes of 64 bits."""
    rows = [row for row in rows if (row["n"], row["bits"]) == (N, BITS)]
    if not rows:
        return []
    uniform = [
        row["p50_ms"]
        for row in rows
        if (row["codes"], row["k"], row["place"]) == ("uniform", 10, IN_MEMORY)
    ]
    entry = BITS / 8 + 4
    bars: list[tuple[str, float, float]] = [
        ("seconds to build", max(row["build_s"] for row in rows), 90),
        (
            f"bytes a code, of {entry:.0f} a table",
            max(row["bytes_code"] / row["tables"] for row in rows),
            entry,
        ),
        ("peak of memory in GiB", max(row["peak_gb"] for row in rows) * 1e9 / 2**30, 20),
        *(("median ms, uniform, k=10", value, 1.5) for value in uniform),
    ]
    return [
        f"{'passed' if value <= most else 'MISSED'}  {name}: {value:.2f} (bar {most:g})"
        for name, value, most in bars
    ]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=integer, default=N, help=f"codes (default {N:.0e})")
    parser.add_argument("--bits", type=int, default=BITS, help=f"(default {BITS})")
    parser.add_argument("--codes", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--k", nargs="+", type=int, default=KS)
    parser.add_argument("--threads", type=int, default=2, help="to build (default 2)")
    parser.add_argument("--calls", type=int, default=500, help="timed at each k (default 500)")
    parser.add_argument("--checked", type=int, default=32, help="queries also scanned (default 32)")
    parser.add_argument("--folder", type=Path, help="where the file goes (default: temporary)")
    parser.add_argument("--machine", help="name of the results file (default: the CPU's model)")
    parser.add_argument(
        "--out",
        type=Path,
        help="CSV file to append to, instead of results/; without it only rows of 1e8 are kept",
    )
    options = parser.parse_args(arguments)
    if options.bits % 8 or options.bits <= 0 or not all(0 < k <= options.n for k in options.k):
        parser.error(
            f"{options.bits} bits, n={options.n}, k={options.k}: bits come in eights, k up to n"
        )
    if not 0 < options.calls < MOST_QUERIES or not 0 < options.checked <= MOST_QUERIES:
        parser.error(f"there are {MOST_QUERIES} queries, one of them for the first call")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    made: dict[str, Any] = stamp("cpu", 1)
    out = options.out
    if out is None and options.n == N:
        out = RESULTS / f"scale-{machine_slug(options.machine or made['device'])}.csv"
    print(f"hashfast {made['hashfast']}; {made['cpu']}; commit {made['commit']}; {made['date']}")
    rows: list[Row] = []
    wrong = []
    for kind in options.codes:
        codes = Codes(options.n, options.bits, kind)
        with (
            tempfile.TemporaryDirectory(prefix="hashfast-", dir=options.folder) as folder,
            Remote(Scale) as scale,
        ):
            try:
                found = measure(scale, codes, options, Path(folder))
            except (RuntimeError, ValueError) as error:
                wrong.append(str(error))
                continue
        found = [{key: made[key] for key in COLUMNS if key in made} | row for row in found]
        print(f"\n{summary(found[0])}\n{table(found)}", flush=True)
        if out:
            append_rows(out, found, COLUMNS)
        rows += found
    for why in wrong:
        print(f"WRONG: {why}", file=sys.stderr)
    print("\n".join(["", *verdicts(rows)]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
