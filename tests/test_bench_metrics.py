"""The benchmark of mAP: its peers compute the same, what is wrong gets no speed, and its files."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import _mean_ap  # noqa: E402
import _rows  # noqa: E402
import bench_metrics  # noqa: E402


@pytest.fixture(scope="module")
def data():
    return _mean_ap.Retrieval.drawn(6, 400, 16)


def test_the_loop_finds_a_known_value():
    # Distances 0, 1, 2 and hits at ranks 1 and 3: (1 / 1 + 2 / 3) / 2.
    query = np.zeros((1, 8), np.uint8)
    database = np.eye(8, dtype=np.uint8).cumsum(0, np.uint8)[[1, 0, 2]]
    data = _mean_ap.Retrieval(query, database, np.array([4]), np.array([5, 4, 4]))
    assert _mean_ap.argsort_loop(data, None)() == pytest.approx(5 / 6)
    assert _mean_ap.argsort_loop(data, 2)() == 1
    nothing = data._replace(query_labels=np.array([7]))
    assert _mean_ap.argsort_loop(nothing, None)() == 0


def test_forms_hold_the_same_codes(data):
    query, database, query_one_hot, one_hot = data.signs()
    codes, *_ = data.packed()
    assert np.array_equal(query > 0, np.unpackbits(codes, axis=1))
    assert np.array_equal(database > 0, data.database)
    assert np.array_equal(one_hot.argmax(1), data.labels)
    assert query_one_hot.sum() == len(query)
    few = data.first(2)
    assert few.query.shape == (2, 16)
    assert np.array_equal(few.database, data.database)


@pytest.mark.parametrize("topk", [50, None])
def test_every_way_finds_the_same(data, topk):
    bench = bench_metrics.MetricsBench(bench_metrics.ways(), 1, seconds=0)
    rows = bench.rows(data, topk)
    assert not bench.notes
    assert [row["provider"] for row in rows] == list(bench.ways)
    for row in rows:
        assert set(row) <= set(bench_metrics.COLUMNS)
        assert row["ratio"] == pytest.approx(rows[0]["cpu_median_ms"] / row["cpu_median_ms"])
        assert row["topk"] == ("all" if topk is None else "50")
    assert 0.15 < rows[0]["map"] < 0.9


def test_torchmetrics_breaks_ties_as_it_likes_unless_told(data):
    pytest.importorskip("torchmetrics")
    expected = _mean_ap.argsort_loop(data, None, kind="stable")()
    assert _mean_ap.torchmetrics_map(data, None, by_id=True)() == pytest.approx(expected, abs=1e-5)
    plain = _mean_ap.torchmetrics_map(data, None)()
    import hashfast

    report = hashfast.evaluate(*data.packed())
    by_ties = report.map_by_ties
    assert by_ties["worst"] - 1e-5 <= plain <= by_ties["best"] + 1e-5


def constant(value):
    return lambda data, topk: lambda: value


def failing(data, topk):
    return lambda: 1 / 0


@pytest.mark.parametrize(
    ("make", "why"), [(constant(0.5), "that of the stable loop"), (failing, "ZeroDivisionError")]
)
def test_a_wrong_way_gets_no_row(data, make, why):
    ways = bench_metrics.ways()
    loop, ours = ways[bench_metrics.LOOP], bench_metrics.EVALUATE
    wrong = bench_metrics.Way(make, make, "C++")
    bench = bench_metrics.MetricsBench({bench_metrics.LOOP: loop, ours: wrong}, 1, seconds=0)
    assert [row["provider"] for row in bench.rows(data, None)] == [bench_metrics.LOOP]
    assert why in bench.wrong[0]
    peer = bench_metrics.MetricsBench({bench_metrics.LOOP: loop, "peer": wrong}, 1, seconds=0)
    assert [row["provider"] for row in peer.rows(data, None)] == [bench_metrics.LOOP]
    assert not peer.wrong
    assert why in peer.notes[0]


def test_times_of_fewer_queries_are_scaled(data):
    seen = []

    def counted(part, topk):
        seen.append(len(part.query))
        return _mean_ap.argsort_loop(part, topk, kind="stable")

    way = bench_metrics.Way(counted, counted, "numpy", share=0.5)
    loop = bench_metrics.ways()[bench_metrics.LOOP]
    bench = bench_metrics.MetricsBench({bench_metrics.LOOP: loop, "half": way}, 1, seconds=0)
    rows = bench.rows(data, None)
    assert seen == [3, 3]
    assert [row["timed_share"] for row in rows] == [1, 0.5]
    assert rows[1]["queries"] == 6


def test_the_script_prints_and_appends(tmp_path):
    out = tmp_path / "metrics-machine.csv"
    command = [sys.executable, str(BENCHMARKS / "bench_metrics.py"), "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "(ratio to the argsort loop in CPU time)" in done.stdout
    assert "MB before the call (bar 2147 MB)" in done.stdout
    rows = _rows.read_rows(out)
    memory = [row for row in rows if row["measured"] == "memory"]
    assert [row["topk"] for row in memory] == ["1000", "all"]
    for row in memory:
        assert 50 < row["before_mb"] < row["peak_memory_mb"]
    timed = [row for row in rows if row["measured"] == "time"]
    assert {row["provider"] for row in timed} == set(bench_metrics.ways())
    for row in timed:
        assert 0 < row["p20_ms"] <= row["median_ms"] <= row["p80_ms"]
