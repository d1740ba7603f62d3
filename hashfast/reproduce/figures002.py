"""The figures of paper 002 (HSWD), drawn from results."""

from collections.abc import Callable

import torch

from hashfast import plots
from hashfast.presets import QUANTIZATION_METHODS
from hashfast.reproduce.experiment import Found, Result, Shown
from hashfast.reproduce.results import first_seeds, map_table, mean_average_precision
from hashfast.reproduce.tables import Entry, tabulate

KINDS = {"original": "original", "swd": "SWD", "hswd": "HSWD"}
"""The kinds of quantisation in print."""
_MEASURES = {
    "quantization_error": "quantisation error",
    "bit_entropy": "bit entropy",
    "map": "mAP",
}


def draw_two_bits(found: Found) -> Shown:
    first, path = first_seeds(found), found.out / "two-bit.png"
    names = found.splits(found.plan.sources[0]).class_names
    outputs = {row: torch.tensor(result["outputs"]) for row, result in first.items()}
    labels = torch.tensor(next(iter(first.values()))["labels"])
    plots.two_bit(outputs, labels, path, names or None)
    note = "mAP of 2 bits on the first four classes; the picture shows their outputs."
    return Shown(map_table(found, "method"), (path,), (note,))


def draw_distances(found: Found) -> Shown:
    history, path = {}, found.out / "distances.png"
    for row, result in first_seeds(found).items():
        epochs = result["history"][-1]["epoch"]
        history[row] = {key: [None] * epochs for key in ("hswd", "swd", "map")}
        for point in result["history"]:
            for key, values in history[row].items():
                values[point["epoch"] - 1] = point[key]
    plots.distance_curves(history, path)
    note = (
        "Squared distances of up to 1,000 training outputs to random codes. mAP at the end of "
        "training; the learning rate is constant."
    )
    return Shown(map_table(found, "method"), (path,), (note,))


def draw_codes(found: Found) -> Shown:
    first, path = first_seeds(found), found.out / "tsne.png"
    codes = {row: 2.0 * (torch.tensor(result["outputs"]) > 0) - 1 for row, result in first.items()}
    labels = torch.tensor(next(iter(first.values()))["labels"])
    names = found.splits(found.plan.sources[0]).class_names
    plots.tsne(codes, labels, path, names or None)
    return Shown(map_table(found, "method"), (path,))


def draw_bars(found: Found) -> Shown:
    """Quantisation error, bit entropy and mAP: means over the seeds."""
    measures: dict[str, Callable[[Result], float]] = {
        "quantization_error": lambda result: result["quantization_error"],
        "bit_entropy": lambda result: result["report"]["bit_entropy"],
        "map": mean_average_precision,
    }
    table = tabulate(
        "method",
        [
            Entry(f"{run.row}, {run.column}", _MEASURES[key], value(result))
            for key, value in measures.items()
            for run, result in found.runs
        ],
    )
    bars: dict[str, dict[str, dict[str, float]]] = {}
    for run, _ in found.runs:
        method = f"{QUANTIZATION_METHODS[run.config.method]}, {run.column}"
        cells = table.rows[f"{run.row}, {run.column}"]
        bars.setdefault(method, {})[KINDS[run.config.quantization]] = {
            key: cells[column].mean for key, column in _MEASURES.items()
        }
    path = found.out / "quantization.png"
    plots.quantization_bars(bars, path)
    note = "Quantisation error: angle between output and code, in radians; entropy in bits."
    return Shown(table, (path,), (note,))
