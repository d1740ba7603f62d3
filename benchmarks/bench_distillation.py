"""Peak memory and time of the losses whose usual formulation needs the most memory.

python benchmarks/bench_distillation.py [--quick]

    ntxent  2M rows: ours, a clean matrix of logits, and cosines of all pairs by broadcasting
    brcd    M images, 2M teacher's codes: ours, the same formula over a matrix, and by broadcasting
    rkd     distances and angles of n codes: ours, and with the tensor of all n^3 angles
    crcd    n codes, 500 negatives, width 128: ours

Forward and backward on one thread. Every figure is of a process of its own: memory is what its peak
rises by above what was held after a small first call, time the median of a few calls, in CPU time.
What would need more than LIMIT_GB is left out. Rows go to results/distillation-losses-CPU.csv.
Exits with 1 when a formulation has another value or gradient than ours.
"""

import argparse
import sys
from pathlib import Path

from _bench import stamp
from _losses import PROVIDERS, FreshProcess, agrees, needed_gb
from _processes import Remote
from _rows import RESULTS, Row, aligned, append_rows, machine_slug

LIMIT_GB = 6.0
SIZES = {
    "ntxent": (64, 256, 1024, 4096),
    "brcd": (64, 256, 1024, 4096),
    "rkd": (64, 256, 1024),
    "crcd": (16, 64),
}
QUICK = {"ntxent": (16,), "brcd": (16,), "rkd": (8,), "crcd": (4,)}
COLUMNS = (
    *("loss", "provider", "n", "peak_memory_mb", "cpu_median_ms"),
    *("threads", "device", "cpu", "torch", "triton", "hashfast", "commit", "date"),
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one small size each")
    parser.add_argument("--out", type=Path, help="CSV file to append to, instead of results/")
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    for loss, sizes in (QUICK if options.quick else SIZES).items():
        for provider in PROVIDERS[loss]:
            if loss != "crcd" and not agrees(loss, provider):
                print(f"{loss}: {provider} is another loss than ours", file=sys.stderr)
                return 1
        for n in sizes:
            for provider in PROVIDERS[loss]:
                if needed_gb(loss, provider, n) > LIMIT_GB:
                    continue
                with Remote(FreshProcess) as process:
                    memory, cpu = process.call("measure", loss, provider, n)
                found = {"peak_memory_mb": memory, "cpu_median_ms": cpu}
                rows.append(
                    {"loss": loss, "provider": provider, "n": n, **found, **stamp("cpu", 1)}
                )
                print(f"{loss} {provider} n={n}: {memory:.0f} MB, {cpu:.2f} ms", file=sys.stderr)
    out = options.out or RESULTS / f"distillation-losses-{machine_slug(rows[0]['device'])}.csv"
    append_rows(out, rows, COLUMNS)
    lines = [("loss", "n", "provider", "MB", "CPU ms")]
    for row in rows:
        memory, cpu = f"{row['peak_memory_mb']:.0f}", f"{row['cpu_median_ms']:.2f}"
        lines.append((row["loss"], str(row["n"]), row["provider"], memory, cpu))
    print(aligned(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
