"""The benchmark of searches: what it measures, that what is wrong gets no speed, and its files."""

import importlib
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import _bandwidth  # noqa: E402
import _processes  # noqa: E402
import _rows  # noqa: E402
import _search  # noqa: E402
import _search_cases  # noqa: E402
import bench_search  # noqa: E402
from _search_cases import Case  # noqa: E402

CASE = Case(500, 16, 3, k=20)


class Here:
    """A provider in this process."""

    def __init__(self, provider):
        self.provider = provider

    def call(self, method, *arguments):
        try:
            return getattr(self.provider, method)(*arguments)
        except Exception as error:
            raise RuntimeError(_rows.first_line(error)) from None


class Changed(_search.Numpy):
    """Finds what hashfast finds, put wrong by `change(distances, ids, call)`."""

    def __init__(self, change):
        super().__init__()
        self.change, self.calls = change, 0

    def prepare(self, surface):
        import hashfast

        def search(query, k):
            self.calls += 1
            return self.change(*hashfast.search(query, self.database, k), self.calls)

        return search, math.nan


def bench(**others):
    pytest.importorskip("faiss")
    providers = {"faiss": _search.Faiss(), "numpy": _search.Numpy()} | others
    held = {name: Here(provider) for name, provider in providers.items()}
    return bench_search.SearchBench(held, "random", seconds=0, bandwidth=False)


# ---- what is wrong gets no speed -----------------------------------------------------------


def test_a_right_search_gets_a_row():
    right = bench(hashfast=Changed(lambda distances, ids, call: (distances, ids)))
    rows = right.rows(CASE)
    assert [row["provider"] for row in rows] == ["faiss", "numpy", "hashfast"]
    assert not right.wrong
    assert not right.notes
    for row in rows:
        assert set(row) == set(bench_search.COLUMNS)
        assert (row["n"], row["bits"], row["queries"], row["k"]) == (500, 16, 3, 20)
        assert row["ratio"] == pytest.approx(rows[0]["cpu_median_ms"] / row["cpu_median_ms"])
        seconds = row["cpu_median_ms"] / 1e3
        assert row["gpairs_s"] == pytest.approx(500 * 3 / 1e9 / seconds)


def swapped(distances, ids, _):
    column = int(np.flatnonzero(np.diff(distances[0]) == 0)[0])
    ids[0, [column, column + 1]] = ids[0, [column + 1, column]]
    return distances, ids


def later_tie(distances, ids, _):
    """The last id gives way to a later one at the same distance, which there is among 500 codes."""
    codes = _search.Codes(500, 16)
    same = _search.hamming(codes.queries()[0], codes.database()) == distances[0, -1]
    ids[0, -1] = np.flatnonzero(same)[-1]
    return distances, ids


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda distances, ids, _: (distances + 1, ids), "distances are not those of faiss"),
        (lambda distances, ids, _: (distances[:, :-1], ids), "shape"),
        (swapped, "not in order of (distance, id)"),
        (lambda distances, ids, _: (distances, ids * (ids != ids[0, 0])), "1 of 60 distances"),
        (lambda distances, ids, _: (distances, ids - 500), "expected 0 to 499"),
        (later_tie, "1 of 20 ids of query 0 are not the first nearest"),
        (lambda distances, ids, call: (distances, ids + (call > 1)), "a later call"),
        (lambda distances, ids, _: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_wrong_search_gets_no_rows_at_all(change, why):
    wrong = bench(hashfast=Changed(change))
    assert wrong.rows(CASE) == []
    (text,) = wrong.wrong
    assert why in text
    assert "b=16 q=3 k=20, 1 thread: hashfast index: not timed" in text


def test_a_wrong_peer_gets_no_row():
    checked = bench(
        hashfast=Changed(lambda distances, ids, call: (distances, ids)),
        usearch=Changed(lambda distances, ids, call: (distances + 1, ids)),
    )
    assert [row["provider"] for row in checked.rows(CASE)] == ["faiss", "numpy", "hashfast"]
    assert not checked.wrong
    assert "usearch: not timed, distances are not those of faiss" in checked.notes[0]


def test_nothing_is_compared_with_a_faiss_that_fails():
    failing = bench(faiss=Changed(lambda *_: 1 / 0), hashfast=Changed(lambda d, i, call: (d, i)))
    assert failing.rows(CASE) == []
    assert not failing.wrong
    assert "faiss: not timed" in failing.notes[0]


# ---- codes and numpy's arithmetic ----------------------------------------------------------


@pytest.mark.parametrize("kind", ["random", "learned"])
def test_codes_are_the_same_wherever_they_are_drawn(kind):
    first, again = (_search.Codes(20_000, 64, kind) for _ in range(2))
    assert np.array_equal(first.database(), again.database())
    assert first.database().shape == (20_000, 8)
    assert first.queries().shape == (_search.MOST_QUERIES, 8)
    assert not np.array_equal(first.queries(), first.database()[: _search.MOST_QUERIES])


def test_learned_codes_crowd_and_repeat():
    codes = _search.Codes(20_000, 64, "learned")
    database = codes.database()
    assert len(np.unique(database, axis=0)) < 0.9 * len(database)
    for query in codes.queries()[:20]:
        near = int((_search.hamming(query, database) <= 2 * _search.FLIPS).sum())
        assert 3 < near < 100  # the 20 or so of its own centre


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_hamming_counts_bits(width, rows, seed):
    rng = np.random.default_rng(seed)
    query = rng.integers(0, 256, width, np.uint8)
    codes = rng.integers(0, 256, (rows, width), np.uint8)
    counted = [(np.unpackbits(query) != np.unpackbits(code)).sum() for code in codes]
    assert _search.hamming(query, codes).tolist() == counted


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.data())
def test_first_ids_are_in_order_of_distance_then_id(distances, data):
    k = data.draw(st.integers(1, len(distances)))
    expected = sorted(range(len(distances)), key=lambda i: (distances[i], i))[:k]
    assert _search.first_ids(np.array(distances, np.int32), k).tolist() == expected


# ---- cases and bars ------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(_search_cases.SETS))
def test_sets_hold_each_case_once(name):
    found = _search_cases.cases(name)
    assert len(set(found)) == len(found)
    codes = [(case.n, case.bits) for case in found]
    assert codes == sorted(codes)


def test_values_given_take_the_place_of_the_sets_own():
    found = _search_cases.cases("bars", n=[1000], bits=[64], queries=[2, 3], k=None)
    assert {(case.n, case.bits, case.queries) for case in found} == {(1000, 64, 2), (1000, 64, 3)}
    assert {case.k for case in found} == {100, 1000}
    assert len(found) == len(set(found)) == 6  # k = 100 on one and two threads, k = 1000 on one
    # Cases that become the same are one, with all surfaces of any of them.
    one, two = _search_cases.cases("small", queries=[5], threads=[1], k=[7])
    assert (one.bits, one.surfaces) == (64, ("index", "oneshot", "mmap"))
    assert (two.bits, two.surfaces) == (256, ("index",))


def as_row(case, value):
    axes = {axis: getattr(case, axis) for axis in ("n", "bits", "queries", "k", "threads")}
    named = {"provider": "hashfast", "surface": "index", "codes": "random"}
    return axes | named | dict.fromkeys(("ratio", "speedup", "of_bandwidth"), value)


def test_every_bar_is_measured_and_judged_by_its_lowest_figure():
    found = _search_cases.cases("bars")
    lines = bench_search.verdicts([as_row(case, 100.0) for case in found])
    assert len(lines) == len(_search_cases.BARS)
    assert all(line.startswith("passed") for line in lines)
    rows = [as_row(case, 6.5 if case.queries == 16 else 7.5) for case in found]
    (line,) = (line for line in bench_search.verdicts(rows) if "q = 8 to 32" in line)
    assert line == "MISSED  q = 8 to 32, b=64: x faiss: 6.50 (bar 7)"
    others = [row | {"codes": "learned"} for row in rows] + [row | {"n": 5} for row in rows]
    assert bench_search.verdicts(others) == []


# ---- processes and bandwidth ---------------------------------------------------------------


def test_an_object_lives_in_another_process():
    with _processes.Remote(importlib.import_module, "os") as remote:
        assert remote.call("getpid") != importlib.import_module("os").getpid()
        assert remote.call("getenv", "OMP_WAIT_POLICY")
        with pytest.raises(RuntimeError, match="FileNotFoundError"):
            remote.call("stat", "/no/such/file")
        with pytest.raises(RuntimeError, match="import_module ended with code 3"):
            remote.call("_exit", 3)
        with pytest.raises(RuntimeError, match="ended with code 3"):
            remote.call("getpid")


def test_peak_memory_is_that_of_the_process_alone():
    held = np.ones(300_000_000, np.uint8)
    assert _processes.peak_memory_mb() > 300
    with _processes.Remote(importlib.import_module, "_processes") as remote:
        assert remote.call("peak_memory_mb") < 200
    del held
    assert _processes.peak_memory_mb() > 300


def test_readers_read_everything(tmp_path):
    try:
        readers = _bandwidth.Readers(_bandwidth.compile_readers(tmp_path))
    except RuntimeError as error:
        pytest.skip(str(error))
    rng = np.random.default_rng(0)
    for blocks in (0, 1, 2, 7, 100):
        data = rng.integers(0, 256, 1 + 512 * blocks + 100, np.uint8)[1:]  # not aligned
        expected = int(np.bitwise_xor.reduce(data[: 512 * blocks].copy().view(np.uint64)))
        for name in _bandwidth.READERS:
            assert {readers.read(name, data, threads) for threads in (1, 2, 5)} == {expected}
    with pytest.raises(ValueError, match="not contiguous"):
        readers.read("plain", np.zeros((8, 8))[:, ::2], 1)


def test_a_missing_or_failing_compiler_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "false")
    with pytest.raises(RuntimeError, match=r"^false .* failed"):
        _bandwidth.compile_readers(tmp_path)
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="none is on PATH"):
        _bandwidth.compile_readers(tmp_path)


# ---- the script ----------------------------------------------------------------------------


def test_the_script_prints_appends_and_is_drawn(tmp_path):
    pytest.importorskip("faiss")
    out = tmp_path / "search-machine.csv"
    command = [sys.executable, BENCHMARKS / "bench_search.py", "--set", "small", "--n", "3000"]
    command += ["--bits", "64", "--queries", "1", "4", "--k", "100", "--seconds", "0", "--out", out]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "n=3,000 b=64 q=4 k=100, 2 threads  (ratio to faiss in wall time)" in done.stdout
    rows = _rows.read_rows(out)
    installed = {name for name in _search.PROVIDERS if _search.version(name)}
    assert {row["provider"] for row in rows} == installed
    ours = [row for row in rows if row["provider"] == "hashfast"]
    assert {(row["surface"], row["queries"], row["threads"]) for row in ours} == {
        *((surface, q, 1) for surface in ("index", "oneshot", "mmap") for q in (1, 4)),
        *(("index", q, 2) for q in (1, 4)),
    }
    measures_bandwidth = "no read bandwidth" not in done.stdout
    for row in rows:
        assert 0 < row["p20_ms"] <= row["median_ms"] <= row["p80_ms"]
        assert row["first_ms"] > 0
        assert (row["of_bandwidth"] > 0) == (row["queries"] == 1 and measures_bandwidth)
        assert row["ratio"] == 1 or row["provider"] != "faiss"
    for row in ours:
        assert (row["speedup"] > 0) == (row["threads"] == 2)
        assert math.isnan(row["build_ms"]) == (row["surface"] == "oneshot")

    pytest.importorskip("matplotlib")
    plot = importlib.import_module("plot")
    assert plot.main([str(out), "--out", str(tmp_path)]) == 0
    for name in ("ratio", "threads"):
        picture = (tmp_path / f"search-machine-{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")


@pytest.mark.parametrize("wrong", [["--bits", "12"], ["--queries", "513"], ["--k", "2e6"]])
def test_impossible_searches_are_refused(wrong, capsys):
    with pytest.raises(SystemExit) as error:
        bench_search.parse(["--set", "small", *wrong])
    assert error.value.code == 2
    assert "bits come in eights" in capsys.readouterr().err
