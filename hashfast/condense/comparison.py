"""A table of condensed sets, and their curves."""

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

Results = Mapping[str, Mapping[str, Sequence[dict[str, Any]]]]


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    results: {row: {column: what `evaluate_set` returns, for each seed}}, where columns of
    accuracies hold "accuracy" alone; topk: where mAP is cut.
    """

    results: Results
    seeds: tuple[int, ...]
    topk: int

    @property
    def columns(self) -> list[str]:
        return list(next(iter(self.results.values()), {}))

    def values(self, row: str, column: str) -> list[float]:
        """mAP or accuracy of every seed."""
        return [run["map" if "map" in run else "accuracy"] for run in self.results[row][column]]

    def mean(self, row: str, column: str) -> float:
        return statistics.fmean(self.values(row, column))

    def deviation(self, row: str, column: str) -> float | None:
        """Of the seeds, as a sample; None for one seed."""
        values = self.values(row, column)
        return statistics.stdev(values) if len(values) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Means, deviations and values, as JSON holds them."""
        return {
            "seeds": list(self.seeds),
            "topk": self.topk,
            "rows": {
                row: {
                    column: {
                        "mean": self.mean(row, column),
                        "deviation": self.deviation(row, column),
                        "values": self.values(row, column),
                    }
                    for column in cells
                }
                for row, cells in self.results.items()
            },
        }

    def plot(self, path: str | os.PathLike, column: str | None = None) -> None:
        """Draw precision against recall and P@top-M, a line a row (needs matplotlib).

        The curves are those of the first seed. column: one with mAP, the first if None. Raises
        ValueError for another.
        """
        from hashfast import plots

        drawn = [name for name in self.columns if not name.endswith("accuracy")]
        column = drawn[0] if column is None else column
        if column not in drawn:
            raise ValueError(f"column is {column!r}; expected one of {', '.join(drawn)}")
        reports: dict[str, Any] = {row: _curves(c[column][0]) for row, c in self.results.items()}
        plots.curves(reports, path)

    def __str__(self) -> str:
        lines = [["", *self.columns]]
        for row in self.results:
            lines.append([row, *(self._cell(row, column) for column in self.columns)])
        widths = [max(map(len, texts)) for texts in zip(*lines, strict=True)]
        table = [
            "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ]
        several = len(self.seeds) > 1
        legend = f"mean±deviation of {len(self.seeds)} seeds" if several else "one seed"
        return "\n".join([*table, f"{legend}, mAP@{self.topk}"])

    def _cell(self, row: str, column: str) -> str:
        deviation = self.deviation(row, column)
        spread = "" if deviation is None else f"±{deviation:.4f}"
        return f"{self.mean(row, column):.4f}{spread}"


def _curves(run: dict[str, Any]) -> SimpleNamespace:
    """The part of a report that its curves are drawn from."""
    curve = {name: np.asarray(values) for name, values in run["report"]["pr_curve"].items()}
    return SimpleNamespace(
        pr_curve=SimpleNamespace(**curve), precision_curve=np.asarray(run["precision_curve"])
    )
