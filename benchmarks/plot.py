"""Draw the results: for operations, time against size; for searches, ratio and thread scaling.

python benchmarks/plot.py [results/nvidia-h200.csv ...]

Of rows measured more than once the latest counts. An operation gets a figure with a line a provider
and bars from the 20th to the 80th percentile. Results of bench_search.py (search-*.csv) get one of
the ratio to faiss and one of the speed on several threads, with a line a width of the codes.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _peers import HASHFAST, REFERENCE
from _rows import RESULTS, Row, read_rows
from _search_cases import K

# Okabe and Ito's colours are told apart with any colour vision; markers tell them apart in print.
COLOURS = ("#0072B2", "#000000", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
MARKERS = "osDv^PX"
FIRST = (HASHFAST, REFERENCE, "torch.compile")
MODES = ("forward", "backward", "forward+backward")


OPERATION = ("op", "provider", "mode", "execution", "shape", "dtype", "threads", "device")
SEARCH = ("provider", "surface", "codes", "n", "bits", "queries", "k", "threads", "device")


def latest(rows: list[Row], key: Sequence[str] = OPERATION) -> list[Row]:
    """One row for each thing measured, which is what `key` names: the last one by date."""
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

    found = {row["mode"] for row in rows}
    modes = [*(mode for mode in MODES if mode in found), *sorted(found - {*MODES})]
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
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)
    print(path)


def draw_searches(rows: list[Row], folder: Path, stem: str) -> None:
    """hashfast's index at k = K: how many times faster than faiss, and than one thread."""
    ours = [
        row
        for row in latest(rows, SEARCH)
        if row["provider"] == HASHFAST and row["surface"] == "index" and row["k"] == K
    ]
    draw_by_queries(
        [row for row in ours if row["threads"] == 1],
        "ratio",
        lambda row: f"n = {row['n']:,}, {row['codes']} codes",
        ("times faster than faiss, one thread", lambda row: 1),
        folder / f"{stem}-ratio.png",
    )
    draw_by_queries(
        [row for row in ours if row["threads"] > 1],
        "speedup",
        lambda row: f"n = {row['n']:,}, {row['codes']} codes, {row['threads']} threads",
        ("times faster than on one thread", lambda row: row["threads"]),
        folder / f"{stem}-threads.png",
    )


def draw_by_queries(
    rows: list[Row],
    column: str,
    panel_of: Callable[[Row], str],
    measured: tuple[str, Callable[[Row], float]],
    path: Path,
) -> None:
    """A panel for each text `panel_of` has, a line for each width of the codes.

    measured: what the column holds, and where a row's panel has its dashed line.
    """
    if not rows:
        return
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row["n"], row["bits"], row["queries"])):
        panels[panel_of(row)].append(row)
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(1.2 + 4.2 * len(panels), 4),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    widths = sorted({row["bits"] for row in rows})
    ticks = sorted({row["queries"] for row in rows})
    for panel, (title, found) in zip(axes[0], panels.items(), strict=True):
        for number, bits in enumerate(widths):
            points = [(row["queries"], row[column]) for row in found if row["bits"] == bits]
            if points:
                panel.plot(
                    *zip(*points, strict=True),
                    label=f"{bits} bits",
                    color=COLOURS[number % len(COLOURS)],
                    marker=MARKERS[number % len(MARKERS)],
                )
        panel.axhline(measured[1](found[0]), color="grey", linestyle="--", linewidth=1)
        panel.set(xscale="log", title=title, xlabel="queries in a call")
        panel.set_xticks(ticks, labels=map(str, ticks))
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    axes[0][0].set_ylim(bottom=0)
    axes[0][0].set_ylabel(measured[0])
    axes[0][0].legend()
    figure.suptitle(f"exact top-{K} on {rows[0]['cpu']}")
    save(figure, path)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, help="results (default: all of results/)")
    parser.add_argument("--out", type=Path, default=RESULTS / "plots", help="folder for the PNGs")
    options = parser.parse_args(arguments)
    files = options.files or sorted(
        path
        for path in RESULTS.glob("*.csv")
        if path.read_text().startswith(("op,", "provider,surface,"))
    )
    if not files:
        print(f"no results in {RESULTS}: run benchmarks/bench_ops.py first", file=sys.stderr)
        return 1
    for file in files:
        rows = read_rows(file)
        if file.stem.startswith("search-"):
            draw_searches(rows, options.out, file.stem)
            continue
        by_op = defaultdict(list)
        for row in latest(rows):
            by_op[row["op"]].append(row)
        for op, found in sorted(by_op.items()):
            draw(op, found, options.out / f"{file.stem}-{op}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
