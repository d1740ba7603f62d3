"""Tables of "ours (the paper's)": aligned Markdown, CSV and JSON."""

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PERCENT = "+.1%"


@dataclass(frozen=True)
class Cell:
    """What the seeds found, beside the paper's number.

    change, paper_change: relative to the row that is improved on; spec: how a number is printed.
    """

    values: tuple[float, ...]
    paper: float | None = None
    change: float | None = None
    paper_change: float | None = None
    spec: str = ".4f"

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Of the seeds, as a sample; None for one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        ours = format(self.mean, self.spec)
        if self.deviation is not None:
            ours += f"±{self.deviation:{self.spec}}"
        if self.change is not None:
            ours += f" {self.change:{PERCENT}}"
        if self.paper is None:
            return ours
        paper = format(self.paper, self.spec)
        if self.paper_change is not None:
            paper += f" {self.paper_change:{PERCENT}}"
        return f"{ours} ({paper})"

    def to_dict(self) -> dict[str, Any]:
        return {
            "mean": self.mean,
            "deviation": self.deviation,
            "values": list(self.values),
            "paper": self.paper,
            "change": self.change,
            "paper_change": self.paper_change,
        }


@dataclass
class Table:
    """corner: what the rows are; rows: {row: {column: cell}}, empty where there is none."""

    corner: str
    columns: Sequence[str]
    rows: Mapping[str, Mapping[str, Cell]] = field(default_factory=dict)

    def markdown(self) -> str:
        """Aligned, so that it reads as it stands."""
        lines = [[self.corner, *self.columns]]
        for row, cells in self.rows.items():
            lines.append([row, *(str(cells.get(column, "")) for column in self.columns)])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        lines.insert(1, ["-" * width for width in widths])
        return "\n".join(
            "| " + " | ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)) + " |"
            for line in lines
        )

    def csv(self) -> str:
        """A line a cell."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        names = ["mean", "deviation", "paper", "change", "paper_change"]
        writer.writerow([self.corner, "column", *names, "seeds"])
        for row, cells in self.rows.items():
            for column, cell in cells.items():
                numbers = cell.to_dict()
                values = [numbers[name] for name in names]
                writer.writerow([row, column, *values, len(cell.values)])
        return file.getvalue()

    def to_dict(self) -> dict[str, Any]:
        return {
            row: {column: cell.to_dict() for column, cell in cells.items()}
            for row, cells in self.rows.items()
        }


def relative(value: float | None, base: float | None) -> float | None:
    """value / base - 1, None where a number is missing."""
    return None if value is None or not base else value / base - 1


@dataclass(frozen=True)
class Entry:
    """One value found, where it stands, and the paper's; baseline: the row it is compared with."""

    row: str
    column: str
    value: float
    paper: float | None = None
    baseline: str | None = None


def tabulate(corner: str, entries: Iterable[Entry], spec: str = ".4f") -> Table:
    """Entries of the same row and column are seeds of one cell; rows and columns keep their
    order."""
    found: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        found.setdefault((entry.row, entry.column), []).append(entry)
    plain = {
        place: Cell(tuple(e.value for e in same), same[0].paper, spec=spec)
        for place, same in found.items()
    }
    table: dict[str, dict[str, Cell]] = {}
    for (row, column), cell in plain.items():
        base = plain.get((found[row, column][0].baseline or "", column))
        if base is not None:
            change, paper_change = relative(cell.mean, base.mean), relative(cell.paper, base.paper)
            cell = Cell(cell.values, cell.paper, change, paper_change, spec)
        table.setdefault(row, {})[column] = cell
    return Table(corner, list(dict.fromkeys(column for _, column in plain)), table)
