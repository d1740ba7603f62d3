"""Time every operation against its reference, torch.compile of it, and what users call today.

python benchmarks/bench_ops.py [--quick] [--ops hamming_topk class_mmd] [--device cuda]

A ratio is how many times faster than the baseline named in the table; below 1 it is slower. Exits
with 1 when an operation disagrees with its reference: its speed is then not printed.
"""

import argparse
import gc
import sys
import time
from pathlib import Path

import torch
from _bench import Recorder
from _cases import build, plan
from _rows import RESULTS, append_rows, machine_slug, table

from hashfast.ops import OPS

# For one measurement (all peers of a case in one mode and execution), and for the whole run.
SECONDS_EACH = {"cpu": 0.6, "cuda": 0.3}
QUICK_SECONDS_EACH = 0.1
SECONDS, QUICK_SECONDS = 240.0, 30.0


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ops", nargs="+", choices=sorted(OPS), default=sorted(OPS), metavar="OP")
    parser.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="auto: a GPU if there is one",
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one small shape each, no torch.compile; rows are kept only with --out",
    )
    parser.add_argument("--seconds", type=float, help="start nothing new after this time")
    parser.add_argument("--machine", help="name of the results file (default: the device's model)")
    parser.add_argument("--out", type=Path, help="CSV file to append to, instead of results/")
    options = parser.parse_args(arguments)
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.seconds is None:
        options.seconds = QUICK_SECONDS if options.quick else SECONDS
    if options.threads < 1:
        parser.error(f"--threads is {options.threads}; it must be at least 1")
    return options


def main(arguments: list[str] | None = None) -> int:
    start = time.perf_counter()
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    kind = torch.device(options.device).type
    each = QUICK_SECONDS_EACH if options.quick else SECONDS_EACH[kind]
    recorder = Recorder(options.device, options.threads, each)
    out = options.out
    if out is None and not options.quick:
        out = RESULTS / f"{machine_slug(options.machine or recorder.stamp['device'])}.csv"

    print_header(recorder, options.ops, kind)
    work = plan(options.ops, options.device, options.quick)
    for done, (name, number) in enumerate(work):
        if time.perf_counter() - start > options.seconds:
            left = ", ".join(sorted({name for name, _ in work[done:]}))
            recorder.notes.append(f"time is up: {len(work) - done} cases not run (of {left})")
            break
        case = build(
            name, number, options.device, threads=options.threads, compiled=not options.quick
        )
        rows = recorder.rows(case)
        if rows:
            clock = {"cpu": "CPU time", "wall": "wall time", "device": "device time"}
            against = f"ratio to {rows[0]['baseline']} in {clock[recorder.ratio_clock]}"
            print(
                f"\n{case.op}  {case.shape}  {rows[0]['dtype']}  ({against})\n{table(rows)}",
                flush=True,
            )
            if out:
                append_rows(out, rows)
        del case
        gc.collect()
        if recorder.graphs:
            torch.cuda.empty_cache()

    for note in recorder.notes:
        print(f"note: {note}")
    for wrong in recorder.wrong:
        print(f"WRONG: {wrong}", file=sys.stderr)
    where = f"; rows appended to {out}" if out else ""
    print(f"\n{time.perf_counter() - start:.0f} s{where}")
    return 1 if recorder.wrong else 0


def print_header(recorder: Recorder, names: list[str], kind: str) -> None:
    stamp = recorder.stamp
    versions = ", ".join(f"{name} {stamp[name]}" for name in ("hashfast", "torch", "triton"))
    print(f"{versions}; {stamp['device']}; host {stamp['cpu']}, {stamp['threads']} thread(s)")
    print(f"commit {stamp['commit']}; {stamp['date']}; backends on {kind}:")
    for name in names:
        why = OPS[name].why_reference(kind)
        print(f"  {name:<28} {OPS[name].backend(kind)}{f' ({why})' if why else ''}")


if __name__ == "__main__":
    sys.exit(main())
