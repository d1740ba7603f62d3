"""What `evaluate` found, with the settings it was found under."""

import os
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

_RANKS = (1, 5, 10, 50, 100, 500, 1000, 5000, 10000)


class PRCurve(NamedTuple):
    """Precision and recall of the items within each Hamming radius: radius int64, others float64.

    Pairs are pooled over queries (as in ITQ's recall_precision): of all (query, item) pairs within
    the radius, the share that is relevant; of all relevant pairs, the share within the radius.
    It starts at the first radius that returns anything.
    """

    radius: np.ndarray
    precision: np.ndarray
    recall: np.ndarray


@dataclass(frozen=True, repr=False, eq=False)
class Report:
    """Retrieval quality of a set of codes; made by `evaluate`. Averages are over queries.

    Results:
        map: mAP@topk.
        map_by_ties: mAP@topk for "expected", "best" and "worst", and for "index" if that was asked.
        average_precision: AP@topk of each query [q].
        precision_curve, recall_curve: P@k and recall@k for k = 1, 2, ... (P@top-M). Up to topk when
            ties are by index, up to the size of the database otherwise. Recall is 0 for a query
            with nothing relevant in the database.
        expected_precision_curve: P@k as its mean over all orders of ties, for the same k. Where it
            differs from precision_curve, that depends on the order of the database.
        pr_curve: precision and recall by Hamming radius, pairs pooled over queries.
        precision_within: precision of the items within Hamming radius 0, 1, ... bits; a query that
            returns nothing counts 0 (the field's habit), with `skip_empty` too.
        ties_at_k: share of queries whose items at ranks topk and topk + 1 are at equal distance.
        distinct_codes, bit_entropy, bit_balance: of the database codes. Entropy is the mean over
            bits in bits, balance is 1 - mean |2 share of ones - 1|; 1 is best for both.
    Settings, as given to `evaluate`; `queries` and `database` are numbers of items, without a
    query's own item under `exclude_self`.
    """

    map: float
    map_by_ties: dict[str, float]
    average_precision: np.ndarray
    precision_curve: np.ndarray
    recall_curve: np.ndarray
    expected_precision_curve: np.ndarray
    pr_curve: PRCurve
    precision_within: np.ndarray
    ties_at_k: float
    distinct_codes: int
    bit_entropy: float
    bit_balance: float
    topk: int | None
    ties: str
    denominator: str
    skip_empty: bool
    exclude_self: bool
    bits: int
    queries: int
    database: int

    def precision_at(self, k: int) -> float:
        """P@k: relevant items among the first k, divided by k (by the database size if smaller).

        Raises ValueError for k < 1, and for k > topk when ties are by index.
        """
        return float(self.precision_curve[self._rank(k) - 1])

    def expected_precision_at(self, k: int) -> float:
        """P@k as its mean over all orders of ties; raises as precision_at."""
        return float(self.expected_precision_curve[self._rank(k) - 1])

    def recall_at(self, k: int) -> float:
        """Share of a query's relevant items that are among the first k; raises as precision_at."""
        return float(self.recall_curve[self._rank(k) - 1])

    def plot(self, path: str | os.PathLike) -> None:
        """Draw the precision-recall curve and P@top-M (needs matplotlib); see `plots.curves`."""
        from hashfast import plots

        plots.curves({"": self}, path)

    def to_dict(self) -> dict[str, Any]:
        """Numbers and settings as JSON holds them, without what is one number a query or a rank."""
        curves = ("precision_curve", "recall_curve", "expected_precision_curve")
        left_out = {"average_precision", *curves}
        result = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}
        ranks = self._shown_ranks()
        result["precision_at"] = {str(k): self.precision_at(k) for k in ranks}
        result["expected_precision_at"] = {str(k): self.expected_precision_at(k) for k in ranks}
        result["recall_at"] = {str(k): self.recall_at(k) for k in ranks}
        result["precision_within"] = self.precision_within.tolist()
        result["pr_curve"] = {
            name: values.tolist() for name, values in self.pr_curve._asdict().items()
        }
        return result

    def __str__(self) -> str:
        by_ties = ", ".join(f"{name} {value:.4f}" for name, value in self.map_by_ties.items())
        ranks = [k for k in self._shown_ranks() if str(k).strip("0") == "1" or k == self.topk]
        within = min(2, self.bits)
        lines = {
            f"mAP@{self._shown_topk()}": f"{self.map:.4f}  ({by_ties})",
            "P@k": ", ".join(f"{k}: {self.precision_at(k):.4f}" for k in ranks),
            "expected P@k": ", ".join(f"{k}: {self.expected_precision_at(k):.4f}" for k in ranks),
            "recall@k": ", ".join(f"{k}: {self.recall_at(k):.4f}" for k in ranks),
            f"P@H<={within}": f"{self.precision_within[within]:.4f}",
            "ties at K": f"{self.ties_at_k:.1%} of queries",
            "codes": f"{self.distinct_codes} distinct, bit entropy {self.bit_entropy:.4f}, "
            f"balance {self.bit_balance:.4f}",
            "protocol": f"{self.queries} queries, {self.database} database items, "
            f"{self.bits} bits; ties={self.ties}, denominator={self.denominator}"
            + ", skip_empty" * self.skip_empty
            + ", exclude_self" * self.exclude_self,
        }
        if self.ties == "expected":
            del lines["expected P@k"]
        width = max(map(len, lines))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())

    __repr__ = __str__

    def _rank(self, k: int) -> int:
        if k < 1:
            raise ValueError(f"k is {k}; it must be at least 1")
        k = min(k, self.database)
        if k > len(self.precision_curve):
            raise ValueError(
                f"k is {k}, but with ties by index only the first topk={self.topk} were ranked; "
                "evaluate with a larger topk, or with ties='expected'"
            )
        return k

    def _shown_topk(self) -> str:
        return "all" if self.topk is None else str(self.topk)

    def _shown_ranks(self) -> list[int]:
        ranks = {*_RANKS, min(self.topk or self.database, self.database)}
        return sorted(k for k in ranks if k <= len(self.precision_curve))
