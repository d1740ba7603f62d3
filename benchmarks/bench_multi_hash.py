"""Time exact search by one query that does not look at all codes, on one thread, beside faiss.

python benchmarks/bench_multi_hash.py [--set bars|small] [--codes uniform clustered learned]

Every index lives in a process of its own and they take turns. Calls are timed one by one, over
queries that all differ. A ratio is how many times faster than faiss's IndexBinaryFlat, by the
medians of CPU time. faiss's IndexBinaryHash and IndexBinaryMultiHash are approximate: `recall` is
the share of the neighbours that they find. Exits with 1 when IndexBinaryMultiHash finds other
distances or ids than the scan, or the scan other distances than faiss: no speed is then printed.
"""

import argparse
import math
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from _bench import stamp
from _codes import KINDS, MOST_QUERIES, Codes
from _latency import APPROXIMATE, PROVIDERS, Latencies, MultiHash, joined
from _peers import disagreement
from _processes import Remote
from _rows import RESULTS, Row, aligned, append_rows, duration, machine_slug
from _search import Answer
from _search_cases import Bar, bar_verdicts
from bench_search import Held, label

SETS = {"bars": (10**7, (1, 10, 100)), "small": (10**5, (1, 10))}
SECONDS_EACH = {"bars": 3.0, "small": 0.5}
BITS = 64
BASELINE = "faiss.IndexBinaryFlat"
JUDGE = "hashfast.IndexBinaryFlat"
OURS = "hashfast.IndexBinaryMultiHash"
COLLAPSE, EACH_CODE = MultiHash.surfaces
MIN_CALLS = 200
# Queries that faiss's flat index is compared on; ours is on all that are timed.
BASELINE_QUERIES = 32

COLUMNS = (
    *("provider", "setting", "codes", "n", "bits", "k", "threads", "calls"),
    *("p50_ms", "p90_ms", "p99_ms", "max_ms", "cpu_median_ms", "build_s", "bytes_code"),
    *("recall", "ratio", "baseline", "ratio_clock", "speedup"),
    *("device", "cpu", "torch", "hashfast", "commit", "date"),
)

Key = tuple[str, str]  # a provider and its setting


class Built(NamedTuple):
    """Seconds from codes to an index, and bytes a code that its process grew by."""

    seconds: float
    bytes_code: float


class MultiHashBench:
    """Checks and times; `notes` and `wrong` say what could not be measured.

    made: what all rows of a run share.
    seconds: for the calls of all providers at one k, or until each had MIN_CALLS.
    """

    def __init__(self, made: Row, seconds: float) -> None:
        self.stamp, self.seconds = made, seconds
        self.providers: Mapping[str, Held] = {}
        self.notes: list[str] = []
        self.wrong: list[str] = []

    def build(self, providers: Mapping[str, Held], codes: Codes) -> dict[Key, Built]:
        """Make all indexes over the codes.

        providers: by name; the two flat indexes, which decide what is right, among them.
        """
        self.providers = providers
        built = {}
        for name, provider in self.providers.items():
            provider.call("load", codes)
            for setting in settings(name, codes.kind):
                try:
                    built[name, setting] = Built(*provider.call("build", setting))
                except RuntimeError as error:
                    self._leave_out(str(codes), (name, setting), str(error))
        return built

    def rows(self, codes: Codes, k: int, built: Mapping[Key, Built]) -> list[Row]:
        """A row for every index that is right; none when one of ours is not."""
        case = f"{codes} k={k}"
        truth = self.providers[JUDGE].call("answer", "", MOST_QUERIES, k, 1)[1]
        recall = {}
        for key in built:
            try:
                why, recall[key] = self._checked(key, k, truth)
            except RuntimeError as error:
                why = str(error)
            if why:
                recall.pop(key, None)
                self._leave_out(case, key, why)
                if key[0] not in APPROXIMATE:
                    return []
        timings = self._timings(k, list(recall))
        for key in recall:
            if key[0] == OURS and self._checked(key, k, truth)[0]:
                self._leave_out(case, key, "a later call does not find the same")
                return []
        return [
            self._row(codes, k, key, built[key], timings) | {"recall": recall[key]}
            for key in recall
        ]

    def _checked(self, key: Key, k: int, truth: Answer) -> tuple[str, float]:
        """Why this index is wrong (empty: it is not), and the share of neighbours it finds."""
        name, setting = key
        queries = {BASELINE: BASELINE_QUERIES, OURS: MOST_QUERIES}.get(name, MIN_CALLS)
        found = self.providers[name].call("find", setting, queries, k)
        expected = [part[:queries] for part in truth]
        if name in APPROXIMATE:
            return "", recall_of(found, expected[0])
        # The ids of faiss's flat index are in another order where distances are equal.
        for what, got, right in zip(("distances", "ids"), found, expected, strict=True):
            if name != BASELINE or what == "distances":
                why = disagreement(torch.from_numpy(got), torch.from_numpy(right))
                if why:
                    return f"{what} are not those of {JUDGE}: {why}", math.nan
        return "", 1.0

    def _leave_out(self, case: str, key: Key, why: str) -> None:
        text = f"{case}: {label(*key)}: not timed, {why}"
        self.notes.append(text)
        if key[0] not in APPROXIMATE:
            self.wrong.append(text)

    def _timings(self, k: int, keys: list[Key]) -> dict[Key, Latencies]:
        parts: dict[Key, list[Latencies]] = {key: [] for key in keys}
        calls = dict.fromkeys(keys, 0)
        start = time.perf_counter()
        while min(calls.values()) < MIN_CALLS or time.perf_counter() - start < self.seconds:
            for name, setting in keys:
                first = calls[name, setting] % MOST_QUERIES
                part = self.providers[name].call("latencies", setting, k, first)
                parts[name, setting].append(part)
                calls[name, setting] += len(part.wall)
        return {key: joined(parts[key]) for key in keys}

    def _row(
        self, codes: Codes, k: int, key: Key, built: Built, timings: Mapping[Key, Latencies]
    ) -> Row:
        def seconds(key: Key) -> float:
            return float(np.median(timings[key].cpu)) if key in timings else math.nan

        ours = key == (OURS, COLLAPSE)
        return {name: self.stamp[name] for name in COLUMNS if name in self.stamp} | {
            "provider": key[0],
            "setting": key[1],
            "codes": codes.kind,
            "n": codes.n,
            "bits": codes.bits,
            "k": k,
            **timings[key].columns(),
            "build_s": built.seconds,
            "bytes_code": built.bytes_code,
            "ratio": seconds((BASELINE, "")) / seconds(key),
            "baseline": BASELINE,
            "ratio_clock": "cpu",
            "speedup": seconds((OURS, EACH_CODE)) / seconds(key) if ours else math.nan,
        }


def settings(provider: str, kind: str) -> tuple[str, ...]:
    """How a provider is set up; keeping every code for itself only says something of equal ones."""
    if provider == OURS and kind != "learned":
        return (COLLAPSE,)
    return PROVIDERS[provider].surfaces


def recall_of(found: Answer, expected: np.ndarray) -> float:
    """The share of k neighbours that are found: ids, no farther than the k-th neighbour is."""
    distances, ids = found
    return float(((ids >= 0) & (distances <= expected[:, -1:])).mean())


def table(rows: list[Row]) -> str:
    """The rows of one k."""
    head = ("provider", "built in", "bytes a code", "p50", "p90", "p99", "CPU", "recall", "ratio")
    lines = [head]
    for row in rows:
        lines.append(
            (
                label(row["provider"], row["setting"]),
                duration(1e3 * row["build_s"]),
                f"{row['bytes_code']:.1f}",
                *(duration(row[f"{key}_ms"]) for key in ("p50", "p90", "p99", "cpu_median")),
                f"{row['recall']:.3f}",
                f"{row['ratio']:.2f}x",
            )
        )
    return aligned(lines)


def _bar(kind: str, k: int, least: float) -> Bar:
    where = {"provider": (OURS,), "setting": (COLLAPSE,), "n": (10**7,), "bits": (BITS,)}
    return Bar(
        f"{kind}, k={k}: x faiss's scan", least, "ratio", where | {"codes": (kind,), "k": (k,)}
    )


BARS = (
    *(_bar("uniform", k, 20) for k in (1, 10)),
    *(_bar("clustered", k, least) for k, least in ((1, 1000), (10, 200), (100, 80))),
)


def verdicts(rows: list[Row]) -> list[str]:
    """A line for every bar that something was measured for, and for what collapsing saves."""
    return bar_verdicts(BARS, rows, 1) + [
        f"found   {row['codes']}, n={row['n']:,}, k={row['k']}: the same with equal codes kept "
        f"once, {row['speedup']:.2f}x as fast"
        for row in rows
        if not math.isnan(row["speedup"])
    ]


def integer(text: str) -> int:
    return int(float(text))  # 1e7 is how these numbers are written


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", choices=sorted(SETS), default="bars", help="(default bars)")
    parser.add_argument("--n", type=integer, help="codes, instead of the set's own")
    parser.add_argument("--bits", type=int, default=BITS, help=f"(default {BITS})")
    parser.add_argument("--codes", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--k", nargs="+", type=int, help="k, instead of the set's own")
    parser.add_argument("--seconds", type=float, help="for the calls at each k, in turns")
    parser.add_argument("--machine", help="name of the results file (default: the CPU's model)")
    parser.add_argument(
        "--out",
        type=Path,
        help="CSV file to append to, instead of results/; without it rows of the small set and of "
        "another n are not kept",
    )
    options = parser.parse_args(arguments)
    n, ks = SETS[options.set]
    options.kept = options.set == "bars" and options.n is None
    options.n = options.n or n
    options.k = options.k or ks
    options.seconds = SECONDS_EACH[options.set] if options.seconds is None else options.seconds
    if options.bits % 8 or options.bits <= 0 or not all(0 < k <= options.n for k in options.k):
        parser.error(
            f"{options.bits} bits, n={options.n}, k={options.k}: bits come in eights, k up to n"
        )
    return options


def main(arguments: list[str] | None = None) -> int:
    start = time.perf_counter()
    options = parse(arguments)
    made = stamp("cpu", 1)
    out = options.out
    if out is None and options.kept:
        out = RESULTS / f"multi-hash-{machine_slug(options.machine or made['device'])}.csv"
    print(f"hashfast {made['hashfast']}; {made['cpu']}; commit {made['commit']}; {made['date']}")
    bench = MultiHashBench(made, options.seconds)
    rows = []
    for kind in options.codes:
        codes = Codes(options.n, options.bits, kind)
        with ExitStack() as stack:
            # A process that held other codes before would find room for these in what it kept.
            fresh = {
                name: stack.enter_context(Remote(factory)) for name, factory in PROVIDERS.items()
            }
            built = bench.build(fresh, codes)
            for k in options.k:
                found = bench.rows(codes, k, built)
                if found:
                    print(f"\n{codes} k={k}\n{table(found)}", flush=True)
                    if out:
                        append_rows(out, found, COLUMNS)
                rows += found
    for note in bench.notes:
        print(f"note: {note}")
    for wrong in bench.wrong:
        print(f"WRONG: {wrong}", file=sys.stderr)
    print("\n".join(["", *verdicts(rows)]))
    print(f"{time.perf_counter() - start:.0f} s")
    return 1 if bench.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
