"""The figures of papers 000 and 001 (IEM), drawn from results."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from hashfast import plots
from hashfast.plots.quality import quality_bars, quality_lines
from hashfast.reproduce.experiment import Found, Result, Shown
from hashfast.reproduce.results import entries, map_table, mean_average_precision
from hashfast.reproduce.tables import Entry, tabulate


def draw_training(found: Found) -> Shown:
    """mAP over the training on condensed sets, a picture a column."""

    def draw(results: dict[str, Result], path: Any) -> None:
        lines = {
            row: [(point["steps"], point["map"]) for point in result["history"]]
            for row, result in results.items()
        }
        quality_lines(lines, path, xlabel="steps of training")

    return _shown(found, "training", draw)


def draw_precision(found: Found) -> Shown:
    return _shown(found, "precision", lambda r, path: plots.precision_curve(_reports(r), path))


def draw_precision_recall(found: Found) -> Shown:
    return _shown(found, "precision-recall", lambda r, path: plots.pr_curve(_reports(r), path))


def draw_seconds(found: Found) -> Shown:
    """mAP against the seconds of condensation, a picture a column."""

    def draw(results: dict[str, Result], path: Any) -> None:
        curves = {
            row: [(point["seconds"], point["map"]) for point in result["history"]]
            for row, result in results.items()
        }
        plots.condensation_curves(curves, path)

    note = "Seconds of condensation alone, without those of its evaluations."
    return _shown(found, "seconds", draw, note)


def draw_bars_by_hashing(found: Found) -> Shown:
    """Groups are columns, bars are rows."""
    table, path = map_table(found, "method"), found.out / "hashing.png"
    groups = {
        column: {row: cells[column].mean for row, cells in table.rows.items() if column in cells}
        for column in table.columns
    }
    quality_bars({"mAP": groups}, path)
    return Shown(table, (path,))


def draw_tasks(found: Found) -> Shown:
    """Accuracy of classifiers beside mAP."""
    measures: dict[str, Callable[[Result], float]] = {
        "accuracy": lambda result: result["accuracy"],
        "mAP": mean_average_precision,
    }
    found_entries: list[Entry] = []
    panels: dict[str, dict[str, dict[str, float]]] = {measure: {} for measure in measures}
    for measure, value in measures.items():
        for entry in entries(found, value):
            paper = entry.paper if measure == "mAP" else None
            column = f"{entry.column} {measure}"
            found_entries.append(Entry(entry.row, column, entry.value, paper))
    table = tabulate("method", found_entries)
    for measure in measures:
        for column in dict.fromkeys(run.column for run, _ in found.runs):
            panels[measure][column] = {
                row: cells[f"{column} {measure}"].mean for row, cells in table.rows.items()
            }
    path = found.out / "tasks.png"
    quality_bars(panels, path)
    note = "Accuracy of a classifier trained on the set; the figure of the paper prints no numbers."
    return Shown(table, (path,), (note,))


def _shown(
    found: Found, name: str, draw: Callable[[dict[str, Result], Any], None], *notes: str
) -> Shown:
    """A table of mAP, and a picture a column of the first seed of every row."""
    columns: dict[str, dict[str, Result]] = {}
    for run, result in found.runs:
        columns.setdefault(run.column, {}).setdefault(run.row, result)
    pictures = []
    for column, results in columns.items():
        path = found.out / f"{name}-{column.replace(' ', '-')}.png"
        draw(results, path)
        pictures.append(path)
    return Shown(map_table(found, "method"), tuple(pictures), notes)


def _reports(results: dict[str, Result]) -> Any:
    """The part of reports that their curves are drawn from."""
    return {
        row: SimpleNamespace(
            pr_curve=SimpleNamespace(
                **{key: np.array(values) for key, values in result["report"]["pr_curve"].items()}
            ),
            precision_curve=np.array(result["precision_curve"]),
        )
        for row, result in results.items()
    }
