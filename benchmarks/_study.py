"""Studies: many training runs, each a row of a CSV file as soon as it is done, and not repeated."""

import csv
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from _rows import append_rows, commit, today

from hashfast._environment import environment
from hashfast.data import Splits

Row = dict[str, Any]
PROVENANCE = ("device", "torch", "hashfast", "commit", "date")


class Study:
    """Runs that are done, by identity, and the file they are kept in.

    A study has `columns`, `kinds` (what the values of columns are that are no text), and `perform`,
    `identity` and `line`.
    """

    columns: tuple[str, ...]
    kinds: ClassVar[dict[str, Callable[[str], Any]]]

    def __init__(self, out: Path) -> None:
        self.out = out
        self.done: dict[Any, Row] = {}
        self.splits: dict[str, Splits] = {}
        if out.is_file():
            with out.open(newline="") as file:
                for line in csv.DictReader(file):
                    row = {key: self.kinds.get(key, str)(value) for key, value in line.items()}
                    self.done[self.identity(row)] = row

    def result(self, run: Any) -> Row:
        """The row of a run, from the file or by performing it now."""
        if run not in self.done:
            row = self.perform(run)
            append_rows(self.out, [row], self.columns)
            self.done[run] = row
            print(self.line(run, row), flush=True)
        return self.done[run]

    def perform(self, run: Any) -> Row:
        raise NotImplementedError

    def identity(self, row: Row) -> Any:
        """The run that a row is of."""
        raise NotImplementedError

    def line(self, run: Any, row: Row) -> str:
        """What is said of a run when it is done."""
        raise NotImplementedError


def provenance() -> Row:
    """What a row says of where and by what it was made."""
    found = environment("cpu")
    here = {key: found[key] for key in ("device", "torch", "hashfast")}
    return {**here, "commit": commit(), "date": today()}


def text(value: float | None) -> str:
    """A number as a column holds it; nothing for None."""
    return "" if value is None else f"{value:g}"


def number(value: str) -> float | None:
    """What `text` wrote."""
    return float(value) if value else None


def verdict(found: Sequence[tuple[bool, str]]) -> int:
    """Print which bars are met; 1 when one is missed."""
    for met, what in found:
        print(f"{'passed' if met else 'MISSED'}  {what}")
    sys.stdout.flush()
    return 0 if all(met for met, _ in found) else 1
