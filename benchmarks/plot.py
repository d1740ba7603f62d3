"""Draw one figure an operation from the results: time against size, a line a provider.

python benchmarks/plot.py [results/nvidia-h200.csv ...]

Of rows measured more than once the latest counts. Bars span the 20th to the 80th percentile.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

from _peers import HASHFAST, REFERENCE
from _rows import RESULTS, Row, read_rows

# Okabe and Ito's colours are told apart with any colour vision; markers tell them apart in print.
COLOURS = ("#0072B2", "#000000", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
MARKERS = "osDv^PX"
FIRST = (HASHFAST, REFERENCE, "torch.compile")
MODES = ("forward", "backward", "forward+backward")


def latest(rows: list[Row]) -> list[Row]:
    """One row for each thing measured: the last one by date."""
    key = ("op", "provider", "mode", "execution", "shape", "dtype", "threads", "device")
    newest = {
        tuple(row[name] for name in key): row for row in sorted(rows, key=lambda row: row["date"])
    }
    return list(newest.values())


def providers(rows: list[Row]) -> list[str]:
    names = {row["provider"] for row in rows}
    return [name for name in FIRST if name in names] + sorted(names.difference(FIRST))


def draw(op: str, rows: list[Row], path: Path) -> None:
    """A panel for each mode (across) and execution (down)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    modes = [mode for mode in MODES if any(row["mode"] == mode for row in rows)]
    executions = sorted({row["execution"] for row in rows}, reverse=True)  # eager first
    names = providers(rows)
    figure, axes = plt.subplots(
        len(executions),
        len(modes),
        figsize=(1.5 + 4.2 * len(modes), 0.9 + 3.4 * len(executions)),
        sharex=True,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for i, execution in enumerate(executions):
        for j, mode in enumerate(modes):
            panel = axes[i][j]
            for number, name in enumerate(names):
                points = sorted(
                    (row["size"], row["median_ms"], row["p20_ms"], row["p80_ms"])
                    for row in rows
                    if (row["execution"], row["mode"], row["provider"]) == (execution, mode, name)
                )
                if not points:
                    continue
                size, median, low, high = zip(*points, strict=True)
                below = [m - value for m, value in zip(median, low, strict=True)]
                above = [value - m for m, value in zip(median, high, strict=True)]
                panel.errorbar(
                    size,
                    median,
                    yerr=(below, above),
                    label=name,
                    color=COLOURS[number % len(COLOURS)],
                    marker=MARKERS[number % len(MARKERS)],
                    linewidth=2.4 if name == HASHFAST else 1.3,
                    markersize=6,
                    capsize=2,
                )
            panel.set(xscale="log", yscale="log", title=f"{mode}, {execution}")
            panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.xaxis.set_major_formatter(EngFormatter(sep=""))
            panel.xaxis.set_minor_formatter(NullFormatter())
            panel.tick_params(axis="x", labelrotation=45)
            panel.grid(which="major", alpha=0.3)
            if i == len(executions) - 1:
                panel.set_xlabel("size: elements, pairs, or bytes compared")
        axes[i][0].set_ylabel("median time, ms")
    handles = {
        text: handle
        for panel in axes.flat
        for handle, text in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=min(len(handles), 5))
    stamp = rows[0]
    threads = f", {stamp['threads']} thread(s)" if stamp["device"] in stamp["cpu"] else ""
    figure.suptitle(f"{op} on {stamp['device']}{threads}, torch {stamp['torch']}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, help="results (default: all of results/)")
    parser.add_argument("--out", type=Path, default=RESULTS / "plots", help="folder for the PNGs")
    options = parser.parse_args(arguments)
    files = options.files or sorted(p for p in RESULTS.glob("*.csv") if p.stem != "quality")
    if not files:
        print(f"no results in {RESULTS}: run benchmarks/bench_ops.py first", file=sys.stderr)
        return 1
    for file in files:
        by_op = defaultdict(list)
        for row in latest(read_rows(file)):
            by_op[row["op"]].append(row)
        for op, rows in sorted(by_op.items()):
            path = options.out / f"{file.stem}-{op}.png"
            draw(op, rows, path)
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
