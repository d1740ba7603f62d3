"""Time mAP of packed codes beside the usual loop and torchmetrics; measure its peak memory.

python benchmarks/bench_metrics.py [--quick] [--device cuda]

1,000 queries of 59,000 codes of 64 bits, mAP@1000 and mAP of the whole ranking. The loop ranks one
query after the other with np.argsort, as CalcTopMap of DeepHash-pytorch does; ratios are to it.
torchmetrics is slow: it is given a tenth of the queries, and ten times its time is shown. Each
takes codes and labels in its own form, made beforehand. Exits with 1 when hashfast finds another
value than the loop with a stable sort.

With --device cuda hashfast ranks 10,000 queries of 50,000 codes on the GPU, and a tenth of them on
the CPU; the loop, which stays on the CPU, gets one in fifty and decides about these.
"""

import argparse
import importlib.metadata
import importlib.util
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from _bench import stamp
from _mean_ap import (
    FreshProcess,
    MeanAP,
    Retrieval,
    argsort_loop,
    evaluate,
    mean_average_precision,
    torchmetrics_map,
)
from _peers import HASHFAST
from _processes import Remote
from _rows import RESULTS, Row, aligned, append_rows, duration, first_line, machine_slug
from _timing import Timing, measure, time_cpu
from threadpoolctl import threadpool_limits

from hashfast.ops import OPS

# Queries and codes.
SIZES = {"time": (1000, 59_000), "memory": (10_000, 50_000)}
GPU_SIZE, GPU_SHARE = (10_000, 50_000), 0.02
QUICK_SIZES = {"time": (50, 3000), "memory": (200, 3000)}
BITS, TOPK = 64, 1000
MEMORY_BAR_MB = 2**31 / 1e6
SECONDS_EACH, ROUNDS = 1.0, 3
LOOP, EVALUATE = "argsort loop", "hashfast.evaluate"

COLUMNS = (
    *("measured", "provider", "backend", "topk", "n", "bits", "queries", "threads", "map"),
    *("median_ms", "p20_ms", "p80_ms", "cpu_median_ms", "rounds", "timed_share"),
    *("ratio", "baseline", "ratio_clock", "before_mb", "peak_memory_mb"),
    *("device", "cpu", "torch", "hashfast", "commit", "date"),
)


class Way(NamedTuple):
    """One way to compute mAP.

    timed, checked: make a call from data and topk; `checked` ranks equal distances by id.
    tolerance: how far from the loop's value. share: of the queries that it is given; checked_share:
    of these, those whose value is compared.
    """

    timed: Callable[[Retrieval, int | None], MeanAP]
    checked: Callable[[Retrieval, int | None], MeanAP]
    backend: str
    tolerance: float = 1e-9
    share: float = 1.0
    checked_share: float = 1.0


def ways() -> dict[str, Way]:
    """What is installed, the loop first."""
    served = (op.backend("cpu") for name, op in OPS.items() if name.startswith("hamming_"))
    ours = " + ".join(sorted(set(served)))
    found = {
        LOOP: Way(argsort_loop, partial(argsort_loop, kind="stable"), f"numpy {np.__version__}"),
        EVALUATE: Way(evaluate, evaluate, ours),
        "hashfast.metrics.mean_average_precision": Way(
            mean_average_precision, mean_average_precision, ours
        ),
    }
    if importlib.util.find_spec("torchmetrics"):
        backend = f"torchmetrics {importlib.metadata.version('torchmetrics')}"
        by_id = partial(torchmetrics_map, by_id=True)
        # It adds in float32.
        found["RetrievalMAP"] = Way(torchmetrics_map, by_id, backend, tolerance=1e-5, share=0.1)
    return found


def gpu_ways() -> dict[str, Way]:
    """The loop and hashfast on the CPU, and hashfast on the GPU."""
    on_cpu = ways()
    served = (op.backend("cuda") for name, op in OPS.items() if name.startswith("hamming_"))
    run = partial(evaluate, device="cuda")
    backend = " + ".join(sorted(set(served)))
    return {
        LOOP: on_cpu[LOOP]._replace(share=GPU_SHARE),
        f"{EVALUATE} on the CPU": on_cpu[EVALUATE]._replace(share=0.1, checked_share=0.2),
        EVALUATE: Way(run, run, backend, checked_share=GPU_SHARE),
    }


class MetricsBench:
    """Checks and times ways of computing mAP; `notes` and `wrong` say what was not timed."""

    def __init__(
        self, ways: Mapping[str, Way], threads: int, seconds: float, device: str = "cpu"
    ) -> None:
        self.ways, self.seconds = ways, seconds
        self.stamp = stamp(device, threads)
        # A GPU's time is not in the CPU time of the process.
        self.clock = "cpu" if threads == 1 and device == "cpu" else "median"
        self.notes: list[str] = []
        self.wrong: list[str] = []

    def rows(self, data: Retrieval, topk: int | None) -> list[Row]:
        """A row for every way that finds what the loop with a stable sort finds."""
        values, calls = {}, {}
        for name, way in self.ways.items():
            given = data.first(max(1, round(way.share * len(data.query))))
            compared = given.first(max(1, round(way.checked_share * len(given.query))))
            expected = argsort_loop(compared, topk, kind="stable")()
            try:
                value = way.checked(compared, topk)()
                why = (
                    ""
                    if abs(value - expected) <= way.tolerance
                    else (f"mAP is {value:.9f}, that of the stable loop {expected:.9f}")
                )
                values[name] = value if way.checked_share == 1 else way.checked(given, topk)()
            except Exception as error:
                why = first_line(error)
            if why:
                self._leave_out(f"mAP@{shown(topk)}, {name}: not timed, {why}", name)
            else:
                calls[name] = way.timed(given, topk)
        timings = {
            name: Timing(*(each / self.ways[name].share for each in timing[:4]), timing.rounds)
            for name, timing in measure(calls, time_cpu, self.seconds, ROUNDS).items()
        }
        clock = self.clock
        return [
            self._stamped("time", name, data.query.shape[0], data.database.shape, topk)
            | {
                "map": values[name],
                **timing.columns(),
                "timed_share": self.ways[name].share,
                "ratio": getattr(timings[LOOP], clock) / getattr(timing, clock),
                "baseline": LOOP,
                "ratio_clock": "cpu" if clock == "cpu" else "wall",
            }
            for name, timing in timings.items()
        ]

    def memory(self, queries: int, n: int, topk: int | None) -> Row:
        """A row for the peak memory of one `evaluate` in a process of its own."""
        with Remote(FreshProcess) as process:
            before, peak = process.call("peak_mb", queries, n, BITS, topk)
        row = self._stamped("memory", EVALUATE, queries, (n, BITS), topk)
        return row | {"threads": 1, "rounds": 1, "before_mb": before, "peak_memory_mb": peak}

    def _stamped(
        self, measured: str, name: str, queries: int, database: tuple[int, int], topk: int | None
    ) -> Row:
        return {key: self.stamp[key] for key in COLUMNS if key in self.stamp} | {
            "measured": measured,
            "provider": name,
            "backend": self.ways[name].backend,
            "topk": shown(topk),
            "queries": queries,
            "n": database[0],
            "bits": database[1],
        }

    def _leave_out(self, text: str, name: str) -> None:
        self.notes.append(text)
        if name.startswith(HASHFAST):
            self.wrong.append(text)


def shown(topk: int | None) -> str:
    return "all" if topk is None else str(topk)


def table(rows: list[Row]) -> str:
    lines = [("provider", "backend", "mAP", "median", "p20 .. p80", "CPU", "ratio", "")]
    for row in rows:
        share = row["timed_share"]
        lines.append(
            (
                *(row["provider"], row["backend"], f"{row['map']:.6f}"),
                duration(row["median_ms"]),
                f"{duration(row['p20_ms'])} .. {duration(row['p80_ms'])}",
                duration(row["cpu_median_ms"]),
                f"{row['ratio']:.2f}x",
                "" if share == 1 else f"{share:.0%} of the queries, scaled",
            )
        )
    return aligned(lines)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes; rows are kept only with --out"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="(default cpu)")
    parser.add_argument("--threads", type=int, default=1, help="of the timed part (default 1)")
    parser.add_argument("--machine", help="name of the results file (default: the CPU's model)")
    parser.add_argument("--out", type=Path, help="CSV file to append to, instead of results/")
    options = parser.parse_args(arguments)
    if options.threads < 1:
        parser.error(f"--threads is {options.threads}; it must be at least 1")
    return options


def main(arguments: list[str] | None = None) -> int:
    start = time.perf_counter()
    options = parse(arguments)
    on_gpu = options.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        print("this torch sees no CUDA GPU: leave --device out", file=sys.stderr)
        return 2
    seconds, sizes = (0.0, QUICK_SIZES) if options.quick else (SECONDS_EACH, SIZES)
    measured = GPU_SIZE if on_gpu and not options.quick else sizes["time"]
    found_ways = gpu_ways() if on_gpu else ways()
    bench = MetricsBench(found_ways, options.threads, seconds, options.device)
    out = options.out
    if out is None and not options.quick:
        out = RESULTS / f"metrics-{machine_slug(options.machine or bench.stamp['device'])}.csv"
    made = bench.stamp
    print(f"hashfast {made['hashfast']}, torch {made['torch']}; {made['device']}; {made['cpu']}")
    print(f"commit {made['commit']}; {made['date']}")

    torch.set_num_threads(options.threads)
    with threadpool_limits(options.threads):
        data = Retrieval.drawn(*measured, BITS)
        for topk in (TOPK, None):
            found = bench.rows(data, topk)
            q, n = measured
            head = f"mAP@{shown(topk)}  q={q:,} n={n:,} b={BITS}, {options.threads} thread(s)"
            clock = {"cpu": "CPU", "wall": "wall"}[found[0]["ratio_clock"]]
            print(f"\n{head}  (ratio to the {LOOP} in {clock} time)\n{table(found)}", flush=True)
            if out:
                append_rows(out, found, COLUMNS)
    print()
    q, n = sizes["memory"]
    for topk in () if on_gpu else (TOPK, None):
        row = bench.memory(q, n, topk)
        peak, before = row["peak_memory_mb"], row["before_mb"]
        verdict = "passed" if peak <= MEMORY_BAR_MB else "MISSED"
        print(
            f"{verdict}  {EVALUATE}, q={q:,} n={n:,} b={BITS}, mAP@{shown(topk)}: peak {peak:.0f} "
            f"MB, {before:.0f} MB before the call (bar {MEMORY_BAR_MB:.0f} MB)",
            flush=True,
        )
        if out:
            append_rows(out, [row], COLUMNS)
    if out:
        print(f"rows appended to {out}")
    for note in bench.notes:
        print(f"note: {note}")
    for wrong in bench.wrong:
        print(f"WRONG: {wrong}", file=sys.stderr)
    print(f"{time.perf_counter() - start:.0f} s")
    return 1 if bench.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
