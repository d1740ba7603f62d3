"""The benchmarks of multi-index hashing: what is wrong gets no speed; codes, bars and files."""

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import hashfast

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import _codes  # noqa: E402
import _latency  # noqa: E402
import _rows  # noqa: E402
import bench_multi_hash  # noqa: E402
import bench_planner  # noqa: E402
import bench_scale  # noqa: E402
from _bench import stamp  # noqa: E402
from _codes import Codes  # noqa: E402
from _timing import Timing  # noqa: E402
from bench_multi_hash import BASELINE, COLLAPSE, EACH_CODE, JUDGE, OURS  # noqa: E402

CODES = Codes(2000, 64, "uniform")


# ---- codes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", _codes.KINDS)
def test_codes_are_the_same_wherever_they_are_drawn(kind, monkeypatch):
    monkeypatch.setattr(_codes, "BLOCK", 700)
    first, again = (Codes(2000, 40, kind) for _ in range(2))
    assert np.array_equal(first.database(), again.database())
    assert first.database().shape == (2000, 5)
    assert first.queries().shape == (_codes.MOST_QUERIES, 5)
    assert not np.array_equal(first.queries(), first.database()[: _codes.MOST_QUERIES])


@pytest.mark.parametrize("probability", [0.001, 0.08, 0.5])
def test_flips_have_their_probability(probability):
    found = np.unpackbits(_codes.flips(np.random.default_rng(0), 50_000, 8, probability))
    spread = math.sqrt(probability / found.size)
    assert found.mean() == pytest.approx(probability, abs=4 * spread + 2**-_codes.DIGITS)


def nearest(codes):
    """Distances of the nearest codes to 100 queries."""
    return hashfast.search(codes.queries()[:100], codes.database(), 1)[0]


def test_clustered_codes_are_near_their_centres():
    assert nearest(Codes(50_000, 64, "uniform")).min() > 5
    # Two codes of a centre are 2 * 0.08 * 0.92 * 64 = 9.4 bits apart, the nearest of 50 fewer.
    assert 2 < nearest(Codes(50_000, 64, "clustered")).mean() < 6


def test_learned_codes_repeat_as_those_of_a_trained_network():
    database = Codes(50_000, 64, "learned").database()
    _, counts = np.unique(database.view(np.uint64), return_counts=True)
    assert len(counts) == pytest.approx(6615, rel=0.02)
    assert np.sort(counts)[-_codes.CLASSES :].min() > 300


# ---- latencies -----------------------------------------------------------------------------


def test_every_call_is_timed_by_itself(monkeypatch):
    now = {"wall": 0.0, "cpu": 0.0}
    clocks = SimpleNamespace(perf_counter=lambda: now["wall"], process_time=lambda: now["cpu"])
    monkeypatch.setattr(_latency, "time", clocks)
    monkeypatch.setattr(_latency, "clock_seconds", lambda: 0.25)
    asked = []

    def search(query, k):
        asked.append((query.tolist(), k))
        now["wall"] += len(asked)
        now["cpu"] += 1

    queries = np.arange(40, dtype=np.uint8).reshape(5, 8)
    timed = _latency.time_calls(search, queries, 3)
    assert asked == [([row], 3) for row in queries.tolist()]
    assert timed.wall.tolist() == [1, 2, 3, 4, 5]
    assert timed.columns() == {
        "calls": 5,
        "p50_ms": 3000,
        "p90_ms": 4600,
        "p99_ms": 4960,
        "max_ms": 5000,
        "cpu_median_ms": 750,
    }
    # Calls of 6 and 7 seconds are over the 10; no third one starts.
    assert _latency.time_calls(search, queries, 3, seconds=10).wall.tolist() == [6, 7]


def test_a_turn_ends_in_time_and_goes_on_where_the_last_one_ended(monkeypatch):
    monkeypatch.setattr(_latency, "TURN_SECONDS", 0)
    flat, asked = _latency.Flat(), []
    flat.load(CODES)
    flat.searches["here"] = lambda query, k: asked.append(query)
    assert [len(flat.latencies("here", 1, first).wall) for first in (0, 1, 1023)] == [1, 1, 1]
    assert np.array_equal(np.concatenate(asked), flat.query[[0, 1, 1023]])


# ---- what is wrong gets no speed -----------------------------------------------------------


class Here:
    """A provider in this process."""

    def __init__(self, provider):
        self.provider = provider

    def call(self, method, *arguments):
        try:
            return getattr(self.provider, method)(*arguments)
        except Exception as error:
            raise RuntimeError(_rows.first_line(error)) from None


class Changed(_latency.Flat):
    """Finds what the scan finds, put wrong by `change(distances, ids, call)`."""

    surfaces = (COLLAPSE, EACH_CODE)

    def __init__(self, change):
        super().__init__()
        self.change, self.calls = change, 0

    def prepare(self, surface):
        search, seconds = super().prepare(surface)

        def changed(query, k):
            self.calls += 1
            return self.change(*search(query, k), self.calls)

        return changed, seconds


def right(distances, ids, call):
    return distances, ids


def bench(change=right, baseline=right):
    providers = {BASELINE: Changed(baseline), JUDGE: _latency.Flat(), OURS: Changed(change)}
    providers[BASELINE].surfaces = ("",)
    providers["faiss.IndexBinaryHash"] = Changed(lambda d, i, _: (d, np.where(i % 2, i, -1)))
    made = bench_multi_hash.MultiHashBench(stamp("cpu", 1), seconds=0)
    made.held = {name: Here(provider) for name, provider in providers.items()}
    return made


@pytest.fixture
def few(monkeypatch):
    """Fewer queries; the stand-in for one of faiss's hashes has one setting."""
    for module in (_codes, bench_multi_hash):
        monkeypatch.setattr(module, "MOST_QUERIES", 250)
    hashed = SimpleNamespace(surfaces=("",))
    monkeypatch.setitem(bench_multi_hash.PROVIDERS, "faiss.IndexBinaryHash", hashed)


def rows_of(made, codes=CODES, k=10):
    return made.rows(codes, k, made.build(made.held, codes))


@pytest.mark.usefixtures("few")
def test_a_right_index_gets_a_row():
    made = bench()
    rows = rows_of(made)
    assert [row["provider"] for row in rows] == [BASELINE, JUDGE, OURS, "faiss.IndexBinaryHash"]
    assert not made.wrong
    assert not made.notes
    for row in rows:
        assert set(row) == set(bench_multi_hash.COLUMNS)
        assert (row["codes"], row["n"], row["bits"], row["k"]) == ("uniform", 2000, 64, 10)
        assert row["calls"] >= bench_multi_hash.MIN_CALLS
        assert row["ratio"] == pytest.approx(rows[0]["cpu_median_ms"] / row["cpu_median_ms"])
    assert [row["recall"] for row in rows[:3]] == [1, 1, 1]
    assert 0.4 < rows[3]["recall"] < 0.6  # the odd ids


@pytest.mark.usefixtures("few")
def test_collapsing_is_compared_where_codes_repeat():
    rows = rows_of(bench(), Codes(2000, 64, "learned"))
    assert [row["provider"] for row in rows].count(OURS) == 2
    each, collapsed = (
        {row["setting"]: row for row in rows}[name] for name in (EACH_CODE, COLLAPSE)
    )
    assert collapsed["speedup"] == pytest.approx(each["cpu_median_ms"] / collapsed["cpu_median_ms"])
    assert math.isnan(each["speedup"])
    (line,) = bench_multi_hash.verdicts(rows)
    assert line.startswith("found   learned, n=2,000, k=10: the same with equal codes kept once, ")


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda distances, ids, _: (distances + 1, ids), "distances are not those of hashfast"),
        (lambda distances, ids, _: (distances, ids ^ 1), "ids are not those of hashfast"),
        (
            lambda distances, ids, call: (distances, ids + (call == 250)),
            "10 of 2500 integers differ",
        ),
        (lambda distances, ids, _: (distances[:, :-1], ids), "shape"),
        (
            lambda distances, ids, call: (distances, ids + (call > 250)),
            "a later call does not find the same",
        ),
        (lambda distances, ids, _: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_wrong_index_gets_no_rows_at_all(change, why):
    made = bench(change)
    assert rows_of(made) == []
    (text,) = made.wrong
    assert why in text
    assert f"uniform n=2,000 b=64 k=10: {OURS} collapse: not timed" in text


@pytest.mark.usefixtures("few")
def test_the_scan_is_held_against_faiss():
    # Another order of equal distances is faiss's own business, other distances are not.
    assert rows_of(bench(baseline=lambda distances, ids, _: (distances, ids + 1)))
    made = bench(baseline=lambda distances, ids, _: (distances + 1, ids))
    assert rows_of(made) == []
    assert f"{BASELINE}: not timed, distances are not those of {JUDGE}" in made.wrong[0]


def test_recall_counts_what_is_as_near_as_the_neighbours():
    found = np.array([[1, 2, 4], [3, 3, 9]]), np.array([[7, 8, 9], [1, 2, -1]])
    assert bench_multi_hash.recall_of(found, np.array([[1, 2, 3], [3, 3, 9]])) == 4 / 6


# ---- bars ----------------------------------------------------------------------------------


def bar_row(kind, k, ratio, **changes):
    return {
        "provider": OURS,
        "setting": COLLAPSE,
        "codes": kind,
        "n": 10**7,
        "bits": 64,
        "k": k,
        "ratio": ratio,
        "speedup": math.nan,
    } | changes


def test_bars_of_single_queries():
    n, ks = bench_multi_hash.SETS["bars"]
    rows = [bar_row(kind, k, 1001, n=n) for kind in _codes.KINDS for k in ks]
    lines = bench_multi_hash.verdicts(rows)
    assert len(lines) == len(bench_multi_hash.BARS) == 5
    assert all(line.startswith("passed") for line in lines)
    (line,) = bench_multi_hash.verdicts([bar_row("clustered", 10, 199.9)])
    assert line == "MISSED  clustered, k=10: x faiss's scan: 199.9 (bar 200)"
    others = [bar_row("uniform", 1, 5, n=5), bar_row("uniform", 1, 5, setting=EACH_CODE)]
    assert bench_multi_hash.verdicts(others) == []


def scale_row(**changes):
    return {
        "codes": "uniform",
        "n": 10**8,
        "bits": 64,
        "k": 10,
        "place": bench_scale.IN_MEMORY,
        "build_s": 60.0,
        "bytes_code": 36.0,
        "tables": 3,
        "peak_gb": 6.0,
        "p50_ms": 1.2,
    } | changes


def test_bars_of_a_hundred_million():
    lines = bench_scale.verdicts([scale_row(), scale_row(codes="learned", p50_ms=9)])
    assert len(lines) == 4
    assert all(line.startswith("passed") for line in lines)
    missed = scale_row(build_s=91, bytes_code=37, peak_gb=22, p50_ms=1.6)
    lines = bench_scale.verdicts([scale_row(), missed])
    assert [line.split()[0] for line in lines] == ["MISSED"] * 3 + ["passed", "MISSED"]
    assert lines[1] == "MISSED  bytes a code, of 12 a table: 12.33 (bar 12)"
    assert bench_scale.verdicts([scale_row(n=1000, build_s=1e9)]) == []


def test_the_verdict_on_the_planner():
    rows = [
        {"codes": "uniform", "n": 10**6, "queries": 1, "k": k, "ratio": ratio}
        for k, ratio in ((1, 0.99), (10, 1.1), (100, 1.4), (1000, 1.0))
    ]
    assert bench_planner.verdict(rows[:2]).startswith(
        "passed  within 10% of the better one in 100%"
    )
    assert bench_planner.verdict(rows) == (
        "MISSED  within 10% of the better one in 75% of 4 cells; "
        "worst 1.40: uniform n=1,000,000 q=1 k=100"
    )


def planner_cell(auto):
    flat = hashfast.IndexBinaryFlat(64)
    flat.add(CODES.database())
    made = {bench_planner.AUTO: auto(flat), bench_planner.FLAT: flat, bench_planner.MULTI: flat}
    return bench_planner.cell(made, CODES, CODES.queries(), q=8, k=5, seconds=3)


@pytest.mark.parametrize(("again", "ratio"), [(0.5, 1.0), (0.6, 1.2)])
def test_a_planner_is_held_against_the_better_of_the_two(monkeypatch, again, ratio):
    measured = []

    def measure(thunks, timer, seconds, *_):
        assert [len(thunk()) for thunk in thunks.values()] == [8, 8, 8]  # two arrays a batch
        measured.append(seconds)
        cpu = {"auto": 0.8 if len(measured) == 1 else again, "flat": 0.5, "multi_hash": 0.7}
        return {name: Timing(2 * cpu[name], 0, 0, cpu[name], 9) for name in thunks}

    monkeypatch.setattr(bench_planner, "measure", measure)
    row = planner_cell(
        lambda flat: SimpleNamespace(search=flat.search, explain=lambda q, k: f"q={q}\n  k={k}")
    )
    assert measured == [3, 12]
    assert row["ratio"] == pytest.approx(ratio)
    assert (row["best"], row["plan"], row["rounds"]) == ("flat", "q=8 k=5", 9)
    assert row["auto_cpu_ms"] == pytest.approx(1e3 * again / 4)
    assert row["multi_hash_wall_ms"] == pytest.approx(1e3 * 1.4 / 4)


def test_a_wrong_planner_is_not_timed():
    def wrong(flat):
        return SimpleNamespace(search=lambda query, k: flat.search(query ^ 1, k))

    with pytest.raises(ValueError, match="uniform n=2,000 b=64 q=8 k=5: auto does not find"):
        planner_cell(wrong)


# ---- the scripts ---------------------------------------------------------------------------


@pytest.fixture
def run(capsys):
    """Run the main function of a script; its exit code and what it prints."""
    threads = torch.get_num_threads()

    def run(script, *arguments):
        code = script.main(list(map(str, arguments)))
        printed = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=printed.out, stderr=printed.err)

    yield run
    torch.set_num_threads(threads)


def rows_in(path, columns):
    rows = _rows.read_rows(path)
    assert all(tuple(row) == columns for row in rows)
    return rows


def test_single_queries_from_the_command_line(run, tmp_path):
    pytest.importorskip("faiss")
    out = tmp_path / "multi-hash.csv"
    few = ["--set", "small", "--n", "3e3", "--k", "5", "--codes", "learned"]
    done = run(bench_multi_hash, *few, "--seconds", "0", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "learned n=3,000 b=64 k=5" in done.stdout
    assert "found   learned, n=3,000, k=5" in done.stdout
    rows = rows_in(out, bench_multi_hash.COLUMNS)
    assert {row["provider"] for row in rows} == set(_latency.PROVIDERS)
    for row in rows:
        exact = row["provider"] not in _latency.APPROXIMATE
        assert float(row["recall"]) == 1 or not exact
        assert 0 < float(row["p50_ms"]) <= float(row["p90_ms"]) <= float(row["p99_ms"])
        assert row["ratio"] == 1 or row["provider"] != BASELINE


def test_scale_from_the_command_line(run, tmp_path):
    out = tmp_path / "scale.csv"
    few = ["--n", "3e3", "--k", "1", "20", "--calls", "9", "--checked", "5", "--codes", "learned"]
    done = run(bench_scale, *few, "--folder", tmp_path, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "learned n=3,000 b=64" in done.stdout
    assert list(tmp_path.iterdir()) == [out]
    rows = rows_in(out, bench_scale.COLUMNS)
    assert [(row["k"], row["place"]) for row in rows] == [
        (k, place) for place in (bench_scale.IN_MEMORY, bench_scale.MAPPED) for k in (1, 20)
    ]
    for row in rows:
        assert (row["recall"], row["calls"], row["checked"]) == ("1", "9", "5")
        assert float(row["file_gb"]) > 3e3 * 8 / 1e9 * 0.05
        assert 0 < int(row["distinct"]) < 3000


def test_an_index_that_misses_something_gets_no_latency(run, monkeypatch, tmp_path):
    def recall(scale, k):
        return 0.95

    monkeypatch.setattr(_latency.Scale, "recall", recall)
    monkeypatch.setattr(bench_scale, "Remote", lambda factory: InContext(factory()))
    few = ["--n", "500", "--calls", "3", "--codes", "uniform", "--out", tmp_path / "scale.csv"]
    done = run(bench_scale, *few)
    assert done.returncode == 1
    assert "WRONG: uniform n=500 b=64 k=1, memory: 95.00% of what the scan finds" in done.stderr
    assert "p50" not in done.stdout
    assert not (tmp_path / "scale.csv").exists()


class InContext(Here):
    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_recall_is_of_distances_and_ids_in_their_order():
    scale = _latency.Scale()
    scale.codes, scale.queries = CODES, CODES.queries()
    scale.index = hashfast.IndexBinaryFlat(64)
    scale.index.add(CODES.database())
    scale.scan(4, 10)
    assert [scale.recall(k) for k in (1, 10)] == [1, 1]
    scale.truth[1][0, 9] += 1
    assert [scale.recall(k) for k in (1, 10)] == [1, 39 / 40]


def test_the_planner_from_the_command_line(run, tmp_path):
    out = tmp_path / "planner.csv"
    few = ["--n", "500", "--k", "1", "20", "--queries", "1", "--codes", "uniform"]
    done = run(bench_planner, *few, "--seconds", "0", "--out", out)
    assert not done.stderr
    rows = rows_in(out, bench_planner.COLUMNS)
    assert [(row["n"], row["k"], row["queries"]) for row in rows] == [(500, 1, 1), (500, 20, 1)]
    missed = any(float(row["ratio"]) > bench_planner.ALLOWED for row in rows)
    assert done.returncode == missed
    assert f"\n{'MISSED' if missed else 'passed'}  within 10%" in done.stdout


@pytest.mark.parametrize(
    ("script", "wrong", "why"),
    [
        (bench_multi_hash, ["--bits", "12"], "bits come in eights"),
        (bench_multi_hash, ["--n", "5"], "k up to n"),
        (bench_scale, ["--n", "50"], "k up to n"),
        (bench_scale, ["--calls", "1024"], "there are 1024 queries"),
        (bench_scale, ["--checked", "1025"], "there are 1024 queries"),
        (bench_planner, ["--queries", "2000"], "queries up to 1024"),
        (bench_planner, ["--n", "100", "--k", "200"], "k up to n"),
    ],
)
def test_impossible_searches_are_refused(script, wrong, why, capsys):
    with pytest.raises(SystemExit) as error:
        script.parse(wrong)
    assert error.value.code == 2
    assert why in capsys.readouterr().err


def test_only_whole_sets_are_kept():
    assert bench_multi_hash.parse([]).kept
    assert not bench_multi_hash.parse(["--n", "1e6"]).kept
    assert not bench_multi_hash.parse(["--set", "small"]).kept
    assert bench_planner.parse([]).kept
    assert not bench_planner.parse(["--k", "1"]).kept
