"""The rankings that are judged, and what the operations tell of them, a block at a time."""

import operator
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from hashfast import ops
from hashfast._inputs import Array, Labels
from hashfast.metrics._hits import RankedHits
from hashfast.metrics._inputs import Collection, check_pair
from hashfast.metrics._ties import Denominator, TieGroups, most_cases

Ties = Literal["index", "expected", "best", "worst"]

# Numbers that a block of queries may need at once, at about 50 bytes each.
_CPU_BLOCK, _GPU_BLOCK = 1 << 22, 1 << 24


@dataclass(frozen=True)
class Rankings:
    """Every query's ranking of the database, and how it is judged; arguments as for `evaluate`.

    items: database items in a ranking. k: ranks that count for AP, at most `items`.
    """

    query: Collection
    database: Collection
    bits: int
    items: int
    topk: int | None
    k: int
    ties: Ties
    denominator: Denominator
    skip_empty: bool
    exclude_self: bool

    @classmethod
    def checked(
        cls,
        query_codes: Array,
        database_codes: Array,
        query_labels: Labels,
        database_labels: Labels,
        topk: Any,
        ties: Ties,
        denominator: Denominator,
        skip_empty: bool,
        exclude_self: bool,
        bits: int | None,
    ) -> Self:
        """Raises, and warns the caller's caller, as `evaluate` says."""
        _check_choice("ties", ties, get_args(Ties))
        _check_choice("denominator", denominator, get_args(Denominator))
        database = Collection.checked(database_codes, database_labels, "database", bits)
        device = database.codes.device
        query = Collection.checked(query_codes, query_labels, "query", bits, device)
        check_pair(query, database)
        _check_self(query, database, exclude_self)
        items = len(database.codes) - int(exclude_self)
        topk = None if topk is None else _check_topk(topk)
        return cls(
            query=query,
            database=database,
            bits=8 * query.codes.shape[1] if bits is None else bits,
            items=items,
            topk=topk,
            k=items if topk is None else min(topk, items),
            ties=ties,
            denominator=denominator,
            skip_empty=skip_empty,
            exclude_self=exclude_self,
        )

    @property
    def device(self) -> torch.device:
        return self.database.codes.device

    def tie_groups(self) -> Iterator[tuple[slice, TieGroups]]:
        """Blocks of queries, and what lies at each distance from them."""
        for rows in self._blocks(max(8 * self.bits, most_cases(self.items))):
            query = self.query.rows(rows)
            size = ops.hamming_histogram(query.codes, self.database.codes)[:, : self.bits + 1]
            if self.exclude_self:
                size[:, 0] -= 1
            yield rows, TieGroups.from_histograms(size, self._relevant_at_distances(rows))

    def hits(self) -> Iterator[tuple[slice, RankedHits]]:
        """Blocks of queries, and the ranks of their hits with ties by index."""
        for rows in self._blocks(max(8 * self.bits, self.k)):
            query, own = self.query.rows(rows), None
            if self.exclude_self:
                own = torch.arange(rows.start, rows.stop, device=self.device)
            hits = ops.hamming_hits(
                query.codes, self.database.codes, self.k, query.labels, self.database.labels, own
            )
            yield rows, RankedHits(*hits)

    def relevant(self, rows: slice) -> Tensor:
        """Relevant items in the rankings of a block of queries, int64 [q]."""
        return self._relevant_at_distances(rows).sum(1)

    def per_query(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """One number a query, [q], for the blocks to write into.

        Results kept block by block would lie between the blocks' large tensors, whose memory could
        then not be used again.
        """
        return torch.empty(len(self.query.codes), dtype=dtype, device=self.device)

    def mean(self, values: Tensor, served: Tensor) -> float:
        """Mean of values [q]; served [q] are the queries that count when the empty ones do not."""
        return float(values.sum() / (served.sum().clamp(min=1) if self.skip_empty else len(values)))

    def _relevant_at_distances(self, rows: slice) -> Tensor:
        """Relevant items at each distance, int64 [q, bits + 1]."""
        query, database = self.query.rows(rows), self.database
        counts = ops.hamming_histogram(query.codes, database.codes, query.labels, database.labels)
        counts = counts[:, : self.bits + 1]
        if self.exclude_self:
            counts[:, 0] -= query.share_a_class(database.rows(rows)).long()
        return counts

    def _blocks(self, width: int) -> Iterator[slice]:
        """Blocks of queries, each of which needs `width` numbers at once."""
        held = _CPU_BLOCK if self.device.type == "cpu" else _GPU_BLOCK
        queries, step = len(self.query.codes), max(1, held // width)
        for start in range(0, queries, step):
            yield slice(start, min(start + step, queries))


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, choices))}")


def _check_topk(topk: Any) -> int:
    try:
        topk = operator.index(topk)
    except TypeError:
        raise TypeError(f"topk is {topk!r}; expected a positive integer, or None") from None
    if topk < 1:
        raise ValueError(
            f"topk is {topk}; it must be at least 1, or None to rank the whole database"
        )
    return topk


def _check_self(query: Collection, database: Collection, exclude_self: bool) -> None:
    q, n = len(query.codes), len(database.codes)
    if not exclude_self:
        if query.same(database):
            warnings.warn(
                "the queries are the database, so every query finds itself: "
                "exclude_self=True leaves it out of its own ranking",
                stacklevel=4,
            )
    elif not torch.equal(query.codes, database.codes[:q]):
        raise ValueError(
            "exclude_self: query i must be database item i, but the query codes are not the first "
            f"{q} database codes"
        )
    elif n == 1:
        raise ValueError("exclude_self leaves nothing to rank in a database of one item")
