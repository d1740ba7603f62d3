"""Rankings under every rule for ties, against loops over ranked lists and over all their orders."""

import itertools
import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics_by_hand import (
    brute_force,
    list_precision,
    make_case,
    ranked_lists,
    run,
    tie_orders,
)
from scipy.stats import hypergeom

import hashfast
from hashfast.metrics import evaluate
from hashfast.metrics._ties import (
    ORDERS,
    TieGroups,
    _hypergeometric,
    _likely_hits,
    average_precision,
    most_cases,
)

KS = [1, 2, 3, 5, 8, 11, 12, 30, None]


@pytest.mark.parametrize("denominator", ["hits", "min"])
@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("multi_hot", [False, True])
def test_tie_orders_against_every_permutation(k, denominator, multi_hot):
    """K runs through groups, along their ends, and past the database of 12 items."""
    case = make_case(q=6, n=12, bits=3, seed=1, multi_hot=multi_hot)
    expected = [brute_force(ranked, k or 12, denominator) for ranked in ranked_lists(case)]
    for order in ORDERS:
        report = run(case, topk=k, ties=order, denominator=denominator)
        values = [query[order] for query in expected]
        np.testing.assert_allclose(report.average_precision, values, rtol=0, atol=1e-12)
        assert report.map == report.map_by_ties[order] == pytest.approx(np.mean(values), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 7),
    bits=st.integers(1, 3),
    classes=st.integers(2, 4),
    multi_hot=st.booleans(),
    k=st.none() | st.integers(1, 9),
    denominator=st.sampled_from(["hits", "min"]),
)
def test_every_rule_on_any_small_collection(seed, n, bits, classes, multi_hot, k, denominator):
    case = make_case(q=3, n=n, bits=bits, classes=classes, seed=seed, multi_hot=multi_hot)
    ranked = list(ranked_lists(case))
    expected = [brute_force(items, k or n, denominator) for items in ranked]
    for values, items in zip(expected, ranked, strict=True):
        values["index"] = float(list_precision([hit for _, hit in items], k or n, denominator))
    for ties in ("index", *ORDERS):
        report = run(case, topk=k, ties=ties, denominator=denominator)
        values = [query[ties] for query in expected]
        np.testing.assert_allclose(report.average_precision, values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("denominator", ["hits", "min"])
@pytest.mark.parametrize("k", [1, 4, 17, 39, 40, 99, None])
@pytest.mark.parametrize("multi_hot", [False, True])
def test_index_order_is_the_stable_ranking(k, denominator, multi_hot):
    case = make_case(multi_hot=multi_hot)
    ranked = [[hit for _, hit in items] for items in ranked_lists(case)]
    values = [float(list_precision(hits, k or 40, denominator)) for hits in ranked]
    report = run(case, topk=k, denominator=denominator)
    np.testing.assert_allclose(report.average_precision, values, rtol=0, atol=1e-12)
    assert report.map == pytest.approx(np.mean(values), abs=1e-12)
    assert set(report.map_by_ties) == {"index", *ORDERS}
    assert report.map_by_ties["worst"] <= report.map <= report.map_by_ties["best"]
    for depth in range(1, min(k or 40, 40) + 1):
        precision = [sum(hits[:depth]) / depth for hits in ranked]
        recall = [sum(hits[:depth]) / max(sum(hits), 1) for hits in ranked]
        assert report.precision_at(depth) == pytest.approx(np.mean(precision), abs=1e-12)
        assert report.recall_at(depth) == pytest.approx(np.mean(recall), abs=1e-12)


@pytest.mark.parametrize(
    ("order", "reduce"), [("expected", np.mean), ("best", max), ("worst", min)]
)
def test_precision_and_recall_at_every_k_under_ties(order, reduce):
    case = make_case(q=5, n=11, bits=3, seed=3)
    report = run(case, topk=4, ties=order)
    assert len(report.precision_curve) == len(report.recall_curve) == 11
    orders = [list(tie_orders(ranked)) for ranked in ranked_lists(case)]
    for k in range(1, 12):
        hits = [reduce([sum(hits[:k]) for hits in query]) for query in orders]
        recall = [found / max(sum(query[0]), 1) for found, query in zip(hits, orders, strict=True)]
        assert report.precision_at(k) == pytest.approx(np.mean(hits) / k, abs=1e-12)
        assert report.recall_at(k) == pytest.approx(np.mean(recall), abs=1e-12)


def test_fewer_hits_can_be_the_best_order():
    """Ranks: hit, miss, miss, then one of two tied items, one relevant. Missing it gives AP 1."""
    database = hashfast.pack(np.array([[0, 0, 0], [0, 0, 1], [0, 0, 1], [1, 1, 1], [1, 1, 1]]))
    query, labels = database[:1], np.array([1, 0, 0, 1, 0])
    report = evaluate(query, database, np.array([1]), labels, topk=4, bits=3)
    assert report.map_by_ties == pytest.approx(
        {"index": 0.75, "expected": 0.875, "best": 1.0, "worst": 0.75}
    )
    assert report.ties_at_k == 1.0


def exact_expectation(counts, k):
    """Mean AP@k ("hits") of groups of (size, relevant) in rational arithmetic."""
    total, before, hits_before = Fraction(0), 0, 0
    for size, relevant in counts:
        if before + size >= k:
            break
        total += exact_sum(size, relevant, before, hits_before)
        before, hits_before = before + size, hits_before + relevant
    places, mean = k - before, Fraction(0)
    for h in range(max(0, places - size + relevant), min(places, relevant) + 1):
        ways = math.comb(relevant, h) * math.comb(size - relevant, places - h)
        value = total + exact_sum(places, h, before, hits_before)
        mean += Fraction(ways, math.comb(size, places)) * value / max(hits_before + h, 1)
    return float(mean)


def exact_sum(size, relevant, before, hits_before):
    if relevant == 0:
        return Fraction(0)
    growth = Fraction(relevant - 1, size - 1) if size > 1 else Fraction(0)
    terms = (
        Fraction(relevant, size) * (hits_before + 1 + j * growth) / (before + j + 1)
        for j in range(size)
    )
    # Rounding each term to 40 digits keeps the fractions short.
    return sum((Fraction(int(term * 10**40), 10**40) for term in terms), Fraction(0))


@pytest.mark.parametrize(
    ("counts", "k"),
    [
        ([(300, 40), (900, 500)], 700),
        ([(30_000, 0), (400, 3)], 30_010),
        ([(60, 0), (8, 5), (3000, 1)], 66),
        ([(2_000_000, 0), (5, 2)], 2_000_003),
    ],
)
def test_expectation_keeps_its_digits_in_long_rankings(counts, k):
    size, relevant = torch.tensor(counts).T.unsqueeze(1)
    groups = TieGroups.from_histograms(size, relevant)
    value = average_precision(groups, k, "expected", "hits").item()
    assert value == pytest.approx(exact_expectation(counts, k), rel=1e-9, abs=1e-15)


def precision_bound(counts, k, denominator, order):
    """Best or worst AP@k of groups of (size, relevant): a loop over the hits before the cut."""

    def arranged(size, hits):
        flags = [i < hits for i in range(size)]
        return flags if order == "best" else flags[::-1]

    head, group = [], 0
    while len(head) + counts[group][0] < k:
        head += arranged(*counts[group])
        group += 1
    size, relevant = counts[group]
    places, later = k - len(head), sum(r for _, r in counts[group + 1 :])
    values = []
    for hits in range(max(0, places - size + relevant), min(places, relevant) + 1):
        tail = [True] * (relevant - hits + later)
        values.append(list_precision(head + arranged(places, hits) + tail, k, denominator))
    return float(max(values) if order == "best" else min(values))


@settings(max_examples=100, deadline=None)
@given(data=st.data(), denominator=st.sampled_from(["hits", "min"]))
def test_bounds_hold_for_every_number_of_hits_before_the_cut(data, denominator):
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    counts = [(size, data.draw(st.integers(0, size))) for size in sizes]
    k = data.draw(st.integers(1, sum(sizes)))
    size, relevant = torch.tensor(counts).T.unsqueeze(1)
    groups = TieGroups.from_histograms(size, relevant)
    for order in ("best", "worst"):
        value = average_precision(groups, k, order, denominator).item()
        assert value == pytest.approx(precision_bound(counts, k, denominator, order), abs=1e-13)


@pytest.mark.parametrize(
    ("size", "relevant", "places"),
    [
        (1, 1, 1),
        (9, 0, 4),
        (50, 25, 25),
        (3000, 2990, 1500),
        (10**6, 5 * 10**5, 400),
        (10**6, 2, 10),
    ],
)
def test_only_cases_without_weight_are_left_out(size, relevant, places):
    group = TieGroups.from_histograms(torch.tensor([[size]]), torch.tensor([[relevant]]))
    fewest = torch.tensor([[max(0, places - size + relevant)]]).double()
    most = torch.tensor([[min(places, relevant)]]).double()
    hits = _likely_hits(group, torch.tensor([[places]]).double(), fewest, most)
    assert hits.shape[1] <= most_cases(size)
    law = hypergeom(size, relevant, places)
    assert law.sf(hits[0, -1]) + law.cdf(hits[0, 0] - 1) < 1e-15
    weights = _hypergeometric(group, torch.tensor([[places]]).double(), hits)
    # scipy's own digits end there.
    np.testing.assert_allclose(weights[0], law.pmf(hits[0]), rtol=0, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 60),
    bits=st.integers(1, 9),
    k=st.none() | st.integers(1, 70),
    denominator=st.sampled_from(["hits", "min"]),
)
def test_only_the_index_order_depends_on_positions(seed, n, bits, k, denominator):
    case = make_case(q=4, n=n, bits=bits, seed=seed)
    options = {"topk": k, "denominator": denominator}
    before = run(case, **options)
    order = np.random.default_rng(seed).permutation(n)
    case.database_signs, case.database_labels = (
        case.database_signs[order],
        case.database_labels[order],
    )
    after = run(case, **options)
    for name in ORDERS:
        assert after.map_by_ties[name] == before.map_by_ties[name]
    worst, best = after.map_by_ties["worst"], after.map_by_ties["best"]
    for value in (before.map, after.map, after.map_by_ties["expected"]):
        assert worst - 1e-12 <= value <= best + 1e-12


def test_index_order_follows_positions():
    database = np.zeros((3, 1), np.uint8)
    query = database[:1]
    values = [evaluate(query, database, [1], np.roll([1, 0, 0], shift)).map for shift in range(3)]
    assert values == pytest.approx([1, 1 / 2, 1 / 3])


def test_without_ties_every_order_agrees():
    signs = 2.0 * np.tri(9, 8, -1) - 1  # item i lies i bits from the first
    codes = hashfast.pack(signs)
    labels = np.array([1, 0, 1, 1, 0, 0, 1, 0, 1])
    for k in (1, 4, 9):
        report = evaluate(codes[:1], codes, labels[:1], labels, topk=k)
        assert report.ties_at_k == 0
        assert list(report.map_by_ties.values()) == pytest.approx([report.map] * 4, abs=1e-14)


def test_skip_empty_leaves_out_queries_without_hits():
    codes = hashfast.pack(2.0 * np.tri(5, 8, -1) - 1)
    query, query_labels = codes[[0, 0, 0]], np.array([1, 2, 7])
    labels = np.array([1, 0, 1, 0, 2])
    counted = evaluate(query, codes, query_labels, labels, topk=3)
    skipped = evaluate(query, codes, query_labels, labels, topk=3, skip_empty=True)
    ap = (1 + 2 / 3) / 2
    assert counted.map == pytest.approx(ap / 3)
    assert skipped.map == pytest.approx(ap)
    assert skipped.map_by_ties == pytest.approx(dict.fromkeys(skipped.map_by_ties, ap))
    assert skipped.precision_at(3) == pytest.approx(2 / 3)
    everything = evaluate(query, codes, query_labels, labels, skip_empty=True)
    assert everything.precision_at(5) == pytest.approx((2 / 5 + 1 / 5) / 2)
    none = evaluate(query[2:], codes, query_labels[2:], labels, skip_empty=True)
    assert none.map == none.precision_at(5) == none.recall_at(5) == 0


def test_skip_empty_under_ties_keeps_queries_that_some_order_serves():
    database = np.zeros((4, 1), np.uint8)
    report = evaluate(
        database[:2], database, [1, 2], [1, 0, 0, 0], topk=2, ties="worst", skip_empty=True
    )
    assert report.map_by_ties == pytest.approx({"worst": 0, "expected": 0.375, "best": 1})


def test_exclude_self_is_leave_one_out():
    case = make_case(q=1, n=15, bits=3, multi_hot=True, seed=5)
    case.database_labels[3] = 0  # without a class: not even relevant to itself
    q = 9
    whole = SimpleNamespace(**vars(case))
    whole.query_signs, whole.query_labels = case.database_signs[:q], case.database_labels[:q]
    for k, denominator in itertools.product((1, 4, None), ("hits", "min")):
        for ties in ("index", *ORDERS):
            options = {"topk": k, "ties": ties, "denominator": denominator}
            report = run(whole, **options, exclude_self=True)
            assert report.database == 14
            for i in range(q):
                rest = np.arange(15) != i
                one = SimpleNamespace(
                    bits=3,
                    query_signs=case.database_signs[[i]],
                    query_labels=case.database_labels[[i]],
                    database_signs=case.database_signs[rest],
                    database_labels=case.database_labels[rest],
                )
                alone = run(one, **options)
                assert report.average_precision[i] == pytest.approx(alone.map, abs=1e-12)
