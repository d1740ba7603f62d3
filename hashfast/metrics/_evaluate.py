"""The evaluator: one pass over the queries, a block at a time."""

import operator
import warnings
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hashfast import ops
from hashfast._inputs import Array, Labels
from hashfast.metrics._code_quality import bit_balance, bit_entropy, bit_rates
from hashfast.metrics._inputs import Collection, check_pair, share_a_class
from hashfast.metrics._report import Report
from hashfast.metrics._ties import (
    ORDERS,
    Denominator,
    TieGroups,
    average_precision,
    hit_gains,
)
from hashfast.metrics._totals import RadiusTotals, RankTotals

Ties = Literal["index", "expected", "best", "worst"]

# Ranks held at once, at about 50 bytes each: enough work for every parallel loop in between.
_CPU_BLOCK, _GPU_BLOCK = 1 << 21, 1 << 24


def evaluate(
    query_codes: Array,
    database_codes: Array,
    query_labels: Labels,
    database_labels: Labels,
    *,
    topk: int | None = None,
    ties: Ties = "index",
    denominator: Denominator = "hits",
    skip_empty: bool = False,
    exclude_self: bool = False,
    bits: int | None = None,
) -> Report:
    """Retrieval quality of packed codes by Hamming ranking: mAP@K, P@K, recall, PR curve and more.

    AP@K adds the precisions at the ranks of the relevant items in the top K and divides by the
    number of these items; mAP is its mean over queries. Relevant means sharing at least one class.
    The defaults compute what CalcTopMap of DeepHash-pytorch and the evaluators of DHD, CIBHash and
    BRCD do, with the order of ties made explicit.

    Args:
        query_codes, database_codes: uint8 [q, bytes] and [n, bytes], numpy or torch, as
            `hashfast.pack` makes them. The work is done on the device of the database codes.
        query_labels, database_labels: class ids [q] and [n], or multi-hot [q, C] and [n, C].
        topk: K; None, or more than n, ranks the whole database.
        ties: the order of database items at equal distance. "index": by position in the database,
            what a stable sort gives. "expected": the exact mean over all orders, which does not
            depend on positions. "best", "worst": the highest and lowest value over all orders, of
            each query (and of each k of P@k and recall@k) on its own.
        denominator: "hits" divides AP@K by the relevant items in the top K (the field's habit),
            "min" by min(K, relevant items in the database).
        skip_empty: leave queries without a hit in the top K out of mAP (HashNet, TBH), and queries
            without a hit in the top k out of P@k and recall@k, instead of counting them 0. Unless
            ties are by index, that means without a hit in every order of the ties.
        exclude_self: query i is database item i; it is left out of its own ranking.
        bits: bits of a code, when that is not a multiple of 8.

    Returns:
        A `Report`. Its `map_by_ties` always holds the "expected", "best" and "worst" mAP too, and
        its `expected_precision_curve` P@k in expectation.

    Raises:
        TypeError: codes that are not uint8, class ids or topk that are not integers.
        ValueError: no queries, no database, sizes that do not match, topk < 1, unknown options.
    """
    _check_choice("ties", ties, get_args(Ties))
    _check_choice("denominator", denominator, get_args(Denominator))
    database = Collection.checked(database_codes, database_labels, "database", bits)
    device = database.codes.device
    query = Collection.checked(query_codes, query_labels, "query", bits, device)
    check_pair(query, database)
    bits = 8 * query.codes.shape[1] if bits is None else bits
    _check_self(query, database, exclude_self)
    q, n = len(query.codes), len(database.codes) - int(exclude_self)
    topk = None if topk is None else _check_topk(topk)
    k = n if topk is None else min(topk, n)

    by_radius = RadiusTotals(bits, device)
    by_rank = {
        rule: RankTotals(k if ties == "index" else n, device)
        for rule in dict.fromkeys((ties, "expected"))
    }
    ap: dict[str, Tensor] = {
        order: torch.empty(q, dtype=torch.float64, device=device)
        for order in dict.fromkeys((ties, *ORDERS))
    }
    cut = 0
    # A query needs its ranking, or a case for each number of hits in a group that K cuts.
    width = max(8 * bits, k if ties == "index" or k < n else 0)
    block = max(1, (_CPU_BLOCK if device.type == "cpu" else _GPU_BLOCK) // width)
    for start in range(0, q, block):
        rows = slice(start, start + block)
        part = query.rows(rows)
        own = torch.arange(start, start + len(part.codes), device=device) if exclude_self else None
        size, relevant = _histograms(part, database, bits, own)
        by_radius.add(size, relevant)
        cut += int((size.cumsum(1) != k).all(1).sum())
        groups = TieGroups.from_histograms(size, relevant)
        for order in ORDERS:
            ap[order][rows] = average_precision(groups, k, order, denominator)
        # A hit adds 1 to the hits of its query, and 1 / relevant items to its recall.
        total = groups.relevant.sum(1)
        weights = torch.stack([torch.ones_like(total), 1 / total.clamp(min=1)])
        for rule, totals in by_rank.items():
            if rule == "index":
                relevance = _ranked_relevance(part, database, k, own)
                hits = relevance.cumsum(1)
                ap["index"][rows] = _precision_of_ranking(relevance, hits, total, denominator)
                totals.add(weights @ relevance, (hits == 0).sum(1))
            else:
                gains = hit_gains(groups, rule, weights, totals.depth)
                totals.add(gains, groups.before_first_hit())

    # In the best order AP is 0 only for a query that has no hit in any order.
    served = {name: ap["index" if name == "index" else "best"] > 0 for name in ap}
    maps = {
        name: float(ap[name].sum() / (served[name].sum().clamp(min=1) if skip_empty else q))
        for name in ap
    }
    precision_curve, recall_curve = by_rank[ties].curves(skip_empty)
    rates = bit_rates(database.codes, bits)
    return Report(
        map=maps[ties],
        map_by_ties=maps,
        average_precision=ap[ties].cpu().numpy(),
        precision_curve=precision_curve,
        recall_curve=recall_curve,
        expected_precision_curve=by_rank["expected"].curves(skip_empty)[0],
        pr_curve=by_radius.pr_curve(),
        precision_within=by_radius.precision_within(),
        ties_at_k=cut / q,
        distinct_codes=len(database.codes.unique(dim=0)),
        bit_entropy=bit_entropy(rates),
        bit_balance=bit_balance(rates),
        topk=topk,
        ties=ties,
        denominator=denominator,
        skip_empty=skip_empty,
        exclude_self=exclude_self,
        bits=bits,
        queries=q,
        database=n,
    )


def _histograms(
    part: Collection, database: Collection, bits: int, own: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Items and relevant items at each distance, int64 [q, bits + 1], less the query's own item."""
    size = ops.hamming_histogram(part.codes, database.codes)[:, : bits + 1]
    relevant = ops.hamming_histogram(part.codes, database.codes, part.labels, database.labels)
    relevant = relevant[:, : bits + 1]
    if own is not None:
        size[:, 0] -= 1
        relevant[:, :1] -= share_a_class(part.labels, database.labels[own].unsqueeze(1)).long()
    return size, relevant


def _ranked_relevance(part: Collection, database: Collection, k: int, own: Tensor | None) -> Tensor:
    """1 where the item at a rank is relevant, else 0: float64 [q, k]; ties by database position."""
    if own is None:
        _, ids = ops.hamming_topk(part.codes, database.codes, k)
    else:
        _, ids = ops.hamming_topk(part.codes, database.codes, k + 1)
        left_out = ids == own.unsqueeze(1)
        left_out[:, -1] |= ~left_out.any(1)
        ids = ids[~left_out].unflatten(0, (-1, k))
    return share_a_class(part.labels, database.labels[ids]).double()


def _precision_of_ranking(
    relevance: Tensor, hits: Tensor, total: Tensor, denominator: Denominator
) -> Tensor:
    """AP [q] of rankings: relevance and hits so far [q, k], relevant items in the database [q]."""
    k = relevance.shape[1]
    sums = (relevance * hits / torch.arange(1, k + 1, device=hits.device)).sum(1)
    count = hits[:, -1] if denominator == "hits" else total.clamp(max=k)
    return sums / count.clamp(min=1)


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
                stacklevel=3,
            )
    elif not torch.equal(query.codes, database.codes[:q]):
        raise ValueError(
            "exclude_self: query i must be database item i, but the query codes are not the first "
            f"{q} database codes"
        )
    elif n == 1:
        raise ValueError("exclude_self leaves nothing to rank in a database of one item")
