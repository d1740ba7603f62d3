"""The evaluator, and mAP alone; both take the queries a block at a time."""

import torch
from torch import Tensor

from hashfast._inputs import Array, Labels
from hashfast.metrics._code_quality import bit_balance, bit_entropy, bit_rates, distinct
from hashfast.metrics._rankings import Rankings, Ties
from hashfast.metrics._report import Report
from hashfast.metrics._ties import ORDERS, Denominator, average_precision, hit_gains
from hashfast.metrics._totals import RadiusTotals, RankTotals


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
    rankings = Rankings.checked(
        query_codes,
        database_codes,
        query_labels,
        database_labels,
        topk=topk,
        ties=ties,
        denominator=denominator,
        skip_empty=skip_empty,
        exclude_self=exclude_self,
        bits=bits,
    )
    device, bits, k = rankings.device, rankings.bits, rankings.k
    depth = k if ties == "index" else rankings.items
    by_radius = RadiusTotals(bits, device)
    by_rank = {rule: RankTotals(depth, device) for rule in dict.fromkeys((ties, "expected"))}
    ap: dict[str, Tensor] = {name: rankings.per_query() for name in dict.fromkeys((ties, *ORDERS))}
    relevant, first, cut = rankings.per_query(), rankings.per_query(), 0
    for rows, groups in rankings.tie_groups():
        by_radius.add(groups)
        _, last = groups.at_rank(k)
        cut += int((last.before + last.size > k).sum())
        relevant[rows], first[rows] = groups.all_relevant(), groups.before_first_hit()
        for order in ORDERS:
            ap[order][rows] = average_precision(groups, k, order, denominator)
            if order in by_rank:
                gains = hit_gains(groups, order, _recall(relevant[rows]), depth)
                by_rank[order].add(gains, first[rows])
    if ties == "index":
        for rows, hits in rankings.hits():
            total = relevant[rows]
            ap[ties][rows] = hits.average_precision(k, total if denominator == "min" else None)
            by_rank[ties].add(hits.gains(_recall(total), k), hits.before_first_hit(k))

    # Under ties a query is left out when even the most favourable order has no hit in its top K.
    served = {name: ap[name] > 0 if name == "index" else first < k for name in ap}
    maps = {name: rankings.mean(ap[name], served[name]) for name in ap}
    precision_curve, recall_curve = by_rank[ties].curves(skip_empty)
    rates = bit_rates(rankings.database.codes, bits)
    return Report(
        map=maps[ties],
        map_by_ties=maps,
        average_precision=ap[ties].cpu().numpy(),
        precision_curve=precision_curve,
        recall_curve=recall_curve,
        expected_precision_curve=by_rank["expected"].curves(skip_empty)[0],
        pr_curve=by_radius.pr_curve(),
        precision_within=by_radius.precision_within(),
        ties_at_k=cut / len(relevant),
        distinct_codes=distinct(rankings.database.codes),
        bit_entropy=bit_entropy(rates),
        bit_balance=bit_balance(rates),
        topk=rankings.topk,
        ties=ties,
        denominator=denominator,
        skip_empty=skip_empty,
        exclude_self=exclude_self,
        bits=bits,
        queries=len(relevant),
        database=rankings.items,
    )


def mean_average_precision(
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
) -> float:
    """mAP@K alone: the `map` of what `evaluate` returns, without the work for the rest.

    Takes, and raises, what `evaluate` does.
    """
    rankings = Rankings.checked(
        query_codes,
        database_codes,
        query_labels,
        database_labels,
        topk=topk,
        ties=ties,
        denominator=denominator,
        skip_empty=skip_empty,
        exclude_self=exclude_self,
        bits=bits,
    )
    k, ap, served = rankings.k, rankings.per_query(), rankings.per_query(torch.bool)
    if ties == "index":
        for rows, hits in rankings.hits():
            relevant = rankings.relevant(rows) if denominator == "min" else None
            ap[rows] = hits.average_precision(k, relevant)
            served[rows] = ap[rows] > 0
    else:
        for rows, groups in rankings.tie_groups():
            ap[rows] = average_precision(groups, k, ties, denominator)
            served[rows] = groups.before_first_hit() < k
    return rankings.mean(ap, served)


def _recall(relevant: Tensor) -> Tensor:
    """What a hit adds to the recall of its query, [q]: 1 / relevant items."""
    return 1 / relevant.clamp(min=1)
