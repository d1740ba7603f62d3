"""`evaluate` and `mean_average_precision`: what they report, refuse and have in common."""

import itertools
import json
import math
import subprocess
import sys
import warnings
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics_by_hand import make_case, ranked_lists, run

from hashfast import ops
from hashfast.metrics import evaluate, mean_average_precision, quantization_error
from hashfast.metrics._code_quality import bit_rates, distinct

METRICS = [evaluate, mean_average_precision]


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


@pytest.mark.parametrize("metric", METRICS)
def test_queries_that_are_the_database_warn(metric):
    codes, labels = np.arange(5, dtype=np.uint8)[:, None], np.zeros(5, int)
    with pytest.warns(UserWarning, match="exclude_self=True") as caught:
        metric(codes, codes, labels, labels)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric(codes, codes, labels, labels, exclude_self=True)


OPTIONS = st.fixed_dictionaries(
    {
        "topk": st.none() | st.integers(1, 30),
        "ties": st.sampled_from(["index", "expected", "best", "worst"]),
        "denominator": st.sampled_from(["hits", "min"]),
        "skip_empty": st.booleans(),
        "exclude_self": st.booleans(),
    }
)


def leave_one_out(case, q):
    """The first q database items are the queries."""
    case.query_signs, case.query_labels = case.database_signs[:q], case.database_labels[:q]
    return case


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 25),
    bits=st.integers(1, 20),
    classes=st.integers(2, 40),
    multi_hot=st.booleans(),
    options=OPTIONS,
)
def test_map_alone_is_that_of_the_report(seed, n, bits, classes, multi_hot, options):
    case = make_case(q=6, n=n, bits=bits, classes=classes, seed=seed, multi_hot=multi_hot)
    if options["exclude_self"]:
        case = leave_one_out(case, q=min(6, n))
    assert run(case, mean_average_precision, **options) == run(case, **options).map


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("ties", ["index", "expected", "best", "worst"])
def test_blocks_of_queries_add_up(ties, exclude_self, monkeypatch):
    case = leave_one_out(make_case(n=40, multi_hot=True), q=23)
    options = {"topk": 7, "ties": ties, "exclude_self": exclude_self, "skip_empty": True}
    options["denominator"] = "min"
    with warnings.catch_warnings(action="ignore"):
        whole = run(case, **options)
        for block in (1, 5 * 40, 11 * 40, 22 * 40):
            monkeypatch.setattr("hashfast.metrics._rankings._CPU_BLOCK", block)
            parts = run(case, **options)
            assert run(case, mean_average_precision, **options) == parts.map
            for field in fields(whole):
                value, expected = getattr(parts, field.name), getattr(whole, field.name)
                if field.name == "pr_curve":
                    value, expected = np.stack(value), np.stack(expected)
                if isinstance(expected, str):
                    assert value == expected
                else:
                    assert value == pytest.approx(expected, abs=1e-14)


def test_a_block_holds_no_more_than_it_may(monkeypatch):
    """Whatever the numbers of queries and ranks, so that memory does not grow with both."""
    held = []

    def recorded(query, database, k, *rest):
        held.append(len(query) * k)
        return ops.OPS["hamming_hits"](query, database, k, *rest)

    monkeypatch.setattr(ops, "hamming_hits", recorded)
    monkeypatch.setattr("hashfast.metrics._rankings._CPU_BLOCK", 1000)
    case = make_case(q=90, n=60)
    for topk in (3, 50, None):
        run(case, topk=topk)
    assert max(held) <= 1000
    assert sum(held) == 90 * (3 + 50 + 60)


MEMORY = """
import resource
import torch
from hashfast import ops
from hashfast.metrics import mean_average_precision

def all_are_hits(query, database, k, *rest):
    ranks = torch.arange(1, k + 1, dtype=torch.int32).repeat(len(query))
    return torch.arange(len(query) + 1) * k, ranks

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

ops.hamming_hits = all_are_hits
queries, database = (torch.randint(0, 256, (n, 8), dtype=torch.uint8) for n in (3000, 50_000))
labels = [torch.zeros(len(codes), dtype=torch.int64) for codes in (queries, database)]
before = peak()
assert mean_average_precision(queries, database, *labels) == 1
print(peak() - before)
"""


def test_memory_does_not_grow_with_the_number_of_hits():
    """150 million of them; a block may leave nothing behind that keeps the allocator's holes."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 300  # MiB


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
@pytest.mark.parametrize("metric", METRICS)
def test_bad_input(metric, change, error, message):
    arguments = {
        "query_codes": CODES,
        "database_codes": CODES[[0, 1, 1]],
        "query_labels": IDS,
        "database_labels": IDS,
    }
    with pytest.raises(error, match=message):
        metric(**(arguments | change))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 60),
    width=st.sampled_from([1, 2, 7, 8, 9, 16, 24]),
)
def test_code_statistics(seed, n, width):
    """Few values, so that codes repeat, and some differ in their first or last word alone."""
    codes = np.random.default_rng(seed).choice(np.array([0, 128, 255], np.uint8), (n, width))
    codes[:, 1:-1] = 128
    assert distinct(torch.from_numpy(codes)) == len(np.unique(codes, axis=0))
    rates = np.unpackbits(codes, axis=1).mean(0)
    np.testing.assert_array_equal(bit_rates(torch.from_numpy(codes), 8 * width - 3), rates[:-3])


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
