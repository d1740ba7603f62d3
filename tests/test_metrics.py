"""`evaluate` against the definitions, written out as loops over ranked lists."""

import itertools
import json
import math
import warnings
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hashfast
from hashfast.metrics import evaluate, quantization_error
from hashfast.metrics._ties import ORDERS, TieGroups, average_precision


def make_case(q=7, n=40, bits=5, classes=3, seed=0, multi_hot=False):
    """Short codes, so that most distances are shared by several items."""
    rng = np.random.default_rng(seed)
    case = SimpleNamespace(bits=bits)
    for name, size in (("query", q), ("database", n)):
        signs = rng.choice([-1.0, 1.0], (size, bits))
        labels = rng.integers(classes, size=size)
        if multi_hot:
            labels = (rng.random((size, classes)) < 0.3).astype(np.float32)
        setattr(case, f"{name}_signs", signs)
        setattr(case, f"{name}_labels", labels)
    return case


def run(case, **options):
    codes = [hashfast.pack(signs) for signs in (case.query_signs, case.database_signs)]
    return evaluate(*codes, case.query_labels, case.database_labels, bits=case.bits, **options)


def ranked_lists(case):
    """For each query the (distance, relevant) of every item, sorted stably by distance."""
    for signs, label in zip(case.query_signs, case.query_labels, strict=True):
        distances = (signs != case.database_signs).sum(1)
        if case.database_labels.ndim == 1:
            relevant = case.database_labels == label
        else:
            relevant = (case.database_labels * label).sum(1) > 0
        order = np.argsort(distances, kind="stable")
        yield [(int(distances[i]), bool(relevant[i])) for i in order]


def list_precision(relevant, k, denominator):
    """AP@k of one order: the definition, in exact arithmetic."""
    hits, total = 0, Fraction(0)
    for rank, hit in enumerate(relevant[:k], start=1):
        if hit:
            hits += 1
            total += Fraction(hits, rank)
    if hits == 0:
        return Fraction(0)
    return total / (hits if denominator == "hits" else min(k, sum(relevant)))


def tie_orders(ranked):
    """Every order of relevance that ties allow, each distinct one once and equally likely."""
    groups = []
    for _, group in itertools.groupby(ranked, key=lambda item: item[0]):
        flags = [hit for _, hit in group]
        places = itertools.combinations(range(len(flags)), sum(flags))
        groups.append([[i in chosen for i in range(len(flags))] for chosen in places])
    for parts in itertools.product(*groups):
        yield list(itertools.chain(*parts))


def brute_force(ranked, k, denominator):
    values = [list_precision(order, k, denominator) for order in tie_orders(ranked)]
    return {
        "expected": float(sum(values) / len(values)),
        "best": float(max(values)),
        "worst": float(min(values)),
    }


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


def test_radius_measures():
    case = make_case(q=5, n=20, bits=6, seed=4)
    report = run(case, topk=3)
    ranked = list(ranked_lists(case))
    relevant_pairs = sum(hit for items in ranked for _, hit in items)
    for radius in range(7):
        within = [[hit for distance, hit in items if distance <= radius] for items in ranked]
        precision = [sum(hits) / max(len(hits), 1) for hits in within]
        assert report.precision_within[radius] == pytest.approx(np.mean(precision), abs=1e-12)
        if radius not in report.pr_curve.radius:
            assert not any(within)
            continue
        at = list(report.pr_curve.radius).index(radius)
        pooled = list(itertools.chain(*within))
        assert report.pr_curve.precision[at] == pytest.approx(sum(pooled) / len(pooled))
        assert report.pr_curve.recall[at] == pytest.approx(sum(pooled) / relevant_pairs)


def test_share_of_queries_with_ties_at_k():
    case = make_case(bits=4)
    for k in (1, 6, 20, 39, 40):
        cut = [k < 40 and items[k - 1][0] == items[k][0] for items in ranked_lists(case)]
        assert run(case, topk=k).ties_at_k == pytest.approx(np.mean(cut))


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


def test_class_ids_equal_one_hot_rows():
    case = make_case(classes=70)
    reports = [run(case, topk=9)]
    for dtype in (np.float32, np.int64, bool):
        one_hot = np.eye(70, dtype=dtype)
        ids = SimpleNamespace(**vars(case))
        ids.query_labels, ids.database_labels = (
            one_hot[case.query_labels],
            one_hot[case.database_labels],
        )
        reports.append(run(ids, topk=9))
    for report in reports[1:]:
        assert report.to_dict() == reports[0].to_dict()


def test_padding_bits_count_for_nothing():
    case = make_case(bits=11)
    report = run(case)
    assert len(report.precision_within) == 12
    assert report.bits == 11
    rates = (case.database_signs > 0).mean(0)
    entropy = -(rates * np.log2(rates) + (1 - rates) * np.log2(1 - rates))
    assert report.bit_entropy == pytest.approx(entropy.mean())
    assert report.bit_balance == pytest.approx(1 - np.abs(2 * rates - 1).mean())
    assert report.distinct_codes == len(np.unique(case.database_signs, axis=0))


def test_exclude_self_is_leave_one_out():
    case = make_case(q=1, n=15, bits=3, multi_hot=True, seed=5)
    case.database_labels[3] = 0  # without a class: not even relevant to itself
    q = 9
    whole = SimpleNamespace(**vars(case))
    whole.query_signs, whole.query_labels = case.database_signs[:q], case.database_labels[:q]
    for k in (1, 4, None):
        for ties in ("index", "expected"):
            report = run(whole, topk=k, ties=ties, exclude_self=True)
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
                alone = run(one, topk=k, ties=ties)
                assert report.average_precision[i] == pytest.approx(alone.map, abs=1e-12)


def test_queries_that_are_the_database_warn():
    codes, labels = np.arange(5, dtype=np.uint8)[:, None], np.zeros(5, int)
    with pytest.warns(UserWarning, match="exclude_self=True"):
        evaluate(codes, codes, labels, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(codes, codes, labels, labels, exclude_self=True)


def test_blocks_of_queries_add_up(monkeypatch):
    case = make_case(q=23, n=40)
    whole = {ties: run(case, topk=7, ties=ties).to_dict() for ties in ("index", "expected")}
    monkeypatch.setattr("hashfast.metrics._evaluate._CPU_BLOCK", 5 * 40)
    for ties, expected in whole.items():
        parts = run(case, topk=7, ties=ties).to_dict()
        for name in ("map", "precision_within", "ties_at_k"):
            assert parts[name] == pytest.approx(expected[name], abs=1e-14)
        for name in ("recall_at", "expected_precision_at"):
            assert parts[name] == pytest.approx(expected[name], abs=1e-14)


def test_numpy_and_torch_agree():
    case = make_case(multi_hot=True)
    tensors = SimpleNamespace(
        bits=case.bits,
        **{name: torch.from_numpy(x) for name, x in vars(case).items() if name != "bits"},
    )
    assert run(case).to_dict() == run(tensors).to_dict()


def test_report_is_json_and_prints():
    report = run(make_case(), topk=12)
    saved = json.loads(json.dumps(report.to_dict()))
    assert saved["map"] == report.map
    assert saved["precision_at"]["12"] == report.precision_at(12)
    protocol = {"topk": 12, "ties": "index", "denominator": "hits", "skip_empty": False}
    sizes = {"exclude_self": False, "bits": 5, "queries": 7, "database": 40}
    assert protocol | sizes == {name: saved[name] for name in protocol | sizes}
    text = str(report)
    assert f"mAP@12        {report.map:.4f}" in text
    assert "7 queries, 40 database items, 5 bits" in text
    assert max(map(len, text.splitlines())) < 120


@pytest.mark.parametrize("options", [{}, {"topk": 7}, {"topk": 7, "skip_empty": True}])
def test_precision_shows_what_depends_on_the_order_of_the_database(options):
    case = make_case()
    order = np.argsort(case.database_labels)  # by class, as many data sets come
    case.database_signs, case.database_labels = (
        case.database_signs[order],
        np.sort(case.database_labels),
    )
    by_index = run(case, ties="index", **options)
    expected = run(case, ties="expected", **options)
    ranked = len(by_index.precision_curve)
    assert len(by_index.expected_precision_curve) == ranked
    np.testing.assert_allclose(
        by_index.expected_precision_curve, expected.precision_curve[:ranked], rtol=0, atol=1e-14
    )
    assert abs(by_index.precision_at(1) - expected.precision_at(1)) > 0.01
    assert by_index.to_dict()["expected_precision_at"]["1"] == by_index.expected_precision_at(1)
    assert f"expected P@k  1: {expected.precision_at(1):.4f}, " in str(by_index)
    assert "expected P@k" not in str(expected)
    np.testing.assert_array_equal(expected.expected_precision_curve, expected.precision_curve)


def test_precision_at_k_past_what_was_ranked():
    case = make_case()
    report = run(case, topk=10)
    with pytest.raises(ValueError, match="only the first topk=10"):
        report.precision_at(11)
    with pytest.raises(ValueError, match="at least 1"):
        report.recall_at(0)
    with pytest.raises(ValueError, match="only the first topk=10"):
        report.expected_precision_at(11)
    assert run(case).precision_at(1000) == run(case).precision_at(40)


CODES = np.arange(6, dtype=np.uint8).reshape(3, 2)
IDS = np.array([0, 1, 1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"query_codes": CODES.astype(np.float32)}, TypeError, "float32.*hashfast.pack"),
        ({"database_codes": torch.ones(3, 2)}, TypeError, "database_codes.*float32.*pack"),
        ({"query_codes": CODES.astype(np.int8)}, TypeError, "ubinary"),
        ({"query_codes": CODES.tolist()}, TypeError, "list"),
        ({"query_codes": CODES[:, :1]}, ValueError, r"query has 1 byte per code \(8 bits\)"),
        ({"query_codes": CODES[0]}, ValueError, r"shape \[2\]"),
        ({"query_codes": CODES[:0], "query_labels": IDS[:0]}, ValueError, "query_codes are empty"),
        ({"database_codes": CODES[:0], "database_labels": IDS[:0]}, ValueError, "database_codes"),
        ({"query_labels": IDS[:2]}, ValueError, "3 query_codes came with 2 query_labels"),
        ({"query_labels": IDS / 1.0}, TypeError, "integers"),
        ({"query_labels": IDS - 1}, ValueError, "class id -1"),
        ({"query_labels": IDS[:, None]}, ValueError, r"query_labels .*\[3, 1\].* labels.flatten"),
        ({"query_labels": np.eye(3)[IDS] * 2}, ValueError, "query_labels must be 0 or 1; got 2"),
        ({"query_labels": np.eye(3)[IDS]}, ValueError, "differ in kind or width"),
        ({"query_labels": np.zeros((3, 2, 2))}, ValueError, r"\[3, 2, 2\]"),
        ({"topk": 0}, ValueError, "topk is 0"),
        ({"topk": -1}, ValueError, "None to rank the whole database"),
        ({"topk": 2.5}, TypeError, "topk is 2.5"),
        ({"ties": "random"}, ValueError, "'index', 'expected', 'best', 'worst'"),
        ({"denominator": "all"}, ValueError, "'hits', 'min'"),
        ({"bits": 8}, ValueError, r"expected 8-bit codes \(1 byte\)"),
        ({"bits": 15}, ValueError, "last 1 bits"),
        ({"query_codes": CODES[::-1], "exclude_self": True}, ValueError, "database item i"),
    ],
)
def test_bad_input(change, error, message):
    arguments = {
        "query_codes": CODES,
        "database_codes": CODES[[0, 1, 1]],
        "query_labels": IDS,
        "database_labels": IDS,
    }
    with pytest.raises(error, match=message):
        evaluate(**(arguments | change))


def test_quantization_error_is_an_angle():
    assert quantization_error(np.array([[0.5, -0.5, 0.5], [-2.0, 2.0, 2.0]])) < 1e-15
    assert quantization_error(torch.tensor([[3.0, 0.0]])) == pytest.approx(math.pi / 4)
    assert quantization_error(torch.tensor([[1.0, 0.0], [1.0, 1.0]])) == pytest.approx(math.pi / 8)
    u = np.random.default_rng(0).normal(size=(50, 16))
    cosine = np.abs(u).sum(1) / np.linalg.norm(u, axis=1) / 4
    assert quantization_error(u) == pytest.approx(np.arccos(cosine).mean())
    assert quantization_error(1e-3 * u) == pytest.approx(quantization_error(u))
    assert quantization_error(np.zeros((1, 4))) == pytest.approx(math.pi / 2)


@pytest.mark.parametrize(
    ("outputs", "error", "message"),
    [
        (np.ones((2, 3), int), TypeError, "int64"),
        (np.ones(3), ValueError, r"shape \[3\]"),
        (np.ones((0, 3)), ValueError, "not empty"),
        (np.array([[1.0], [np.nan]]), ValueError, "row 1"),
    ],
)
def test_quantization_error_bad_input(outputs, error, message):
    with pytest.raises(error, match=message):
        quantization_error(outputs)
