import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from hashfast.cli._galleries import check_comparable
from hashfast.cli._run import Output

if TYPE_CHECKING:
    from hashfast.index import Gallery


@dataclass(frozen=True)
class Command:
    """Retrieval metrics of query codes against database codes."""

    query: Annotated[Path, tyro.conf.Positional]
    """Gallery of the queries, with labels."""
    database: Annotated[Path, tyro.conf.Positional]
    """Gallery of the database, with labels."""
    topk: int | None = None
    """Cut the ranking here (default: rank the whole database)."""
    ties: Literal["index", "expected", "best", "worst"] = "index"
    """Order of items at equal distance: by row, mean over all orders, or a bound."""
    denominator: Literal["hits", "min"] = "hits"
    """AP is divided by the hits in the top K, or by min(K, relevant items)."""
    skip_empty: bool = False
    """Leave out queries without a hit instead of counting them 0."""
    exclude_self: bool = False
    """Query i is database item i: leave it out of its own ranking."""
    plot: Path | None = None
    """Picture of the precision-recall and precision curves."""
    force: bool = False
    """Evaluate although the galleries come from different models."""

    def run(self) -> Output:
        from hashfast._environment import environment
        from hashfast.index import Gallery
        from hashfast.metrics import evaluate

        query, database = Gallery.load(self.query), Gallery.load(self.database, mmap=True)
        for path, gallery in ((self.query, query), (self.database, database)):
            if gallery.labels.ndim == 1 and (gallery.labels < 0).any():
                raise ValueError(
                    f"{path} has items without a label: metrics need one for each (put the "
                    "pictures of each class in a folder of its own before encoding)"
                )
        check_comparable(self.query, query, self.database, database, self.force)
        query, database = self._matched(query, database)
        report = evaluate(
            query.index.codes,
            database.index.codes,
            query.labels,
            database.labels,
            topk=self.topk,
            ties=self.ties,
            denominator=self.denominator,
            skip_empty=self.skip_empty,
            exclude_self=self.exclude_self,
            bits=database.index.d,
        )
        if self.plot:
            report.plot(self.plot)
        galleries = {
            name: {"path": str(path.resolve()), **gallery.info}
            for name, path, gallery in (
                ("query", self.query, query),
                ("database", self.database, database),
            )
        }
        data = {**report.to_dict(), "galleries": galleries, "environment": environment()}
        return Output(str(report), data)

    def _matched(self, query: "Gallery", database: "Gallery") -> "tuple[Gallery, Gallery]":
        """The galleries with labels that mean the same classes."""
        from hashfast.index.gallery import same_classes

        ours, theirs = query.class_names, set(database.class_names)
        database, query = same_classes([database, query], [self.database, self.query])
        absent = [name for name in ours if name not in theirs]
        if absent and len(absent) == len(ours):
            raise ValueError(
                f"{self.query} and {self.database} have no class in common: {_some(ours)}, and "
                f"{_some(sorted(theirs))}"
            )
        if absent:
            warnings.warn(
                f"{self.database} has no class {_some(absent)}: their queries find nothing and "
                "count 0 (--skip-empty leaves them out)",
                stacklevel=1,
            )
        return query, database


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + ", ..." * (len(names) > 5)
