"""The benchmark of searches on a GPU, as far as it goes without one."""

import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import _gpu_search  # noqa: E402
import _gpu_search_cases  # noqa: E402
import _rows  # noqa: E402
import bench_search_gpu  # noqa: E402
import instruction_rates  # noqa: E402
from _gpu_search_cases import Case, limits_of  # noqa: E402

from hashfast import ops  # noqa: E402

H200 = limits_of(132, 1.98e9, 9, 4.3e12)
CASE = Case(700, 64, 5, k=30)


def all_distances(query, database):
    return _gpu_search.hamming(query[:, None], database)


POPCOUNT = partial(_gpu_search.popcount, distances=all_distances)


def bench(*others, limits=H200):
    contenders = [_gpu_search.Contender(bench_search_gpu.BASELINE, "torch", _gpu_search.gemm)]
    return bench_search_gpu.GpuSearchBench([*contenders, *others], "cpu", 0.0, limits)


def ours(change=lambda distances, ids, call: (distances, ids), name="hashfast"):
    """hashfast's search, put wrong by `change(distances, ids, call)`."""

    def prepare(query, database):
        calls = []

        def search(k):
            calls.append(k)
            return change(*ops.hamming_topk(query, database, k), len(calls))

        return search

    return _gpu_search.Contender(name, "C++", prepare)


# ---- what is wrong gets no speed -----------------------------------------------------------


@pytest.mark.parametrize("codes", _gpu_search_cases.KINDS)
def test_right_searches_get_rows(codes):
    popcount = _gpu_search.Contender("popcount + topk", "torch", POPCOUNT)
    right = bench(popcount, ours())
    case = Case(700, 64, 5, 30, codes)
    rows = right.rows(case)
    assert not right.notes
    assert [row["provider"] for row in rows] == [
        "int8 products + topk",
        "popcount + topk",
        "hashfast",
    ]
    limit = H200.binding(case)[1]
    for row in rows:
        assert set(row) == set(bench_search_gpu.COLUMNS)
        assert (row["codes"], row["n"], row["bits"], row["queries"], row["k"]) == (
            *(codes, 700, 64, 5, 30),
        )
        seconds = row["median_ms"] / 1e3
        assert row["tpairs_s"] == pytest.approx(700 * 5 / seconds / 1e12)
        assert row["ratio"] == pytest.approx(rows[0]["median_ms"] / row["median_ms"])
        assert row["of_limit"] == pytest.approx(limit / seconds)
        assert math.isnan(row["paper_ms"])


def swapped(distances, ids, _):
    column = int((distances[0].diff() == 0).nonzero()[0])
    ids[0, [column, column + 1]] = ids[0, [column + 1, column]]
    return distances, ids


def later_tie(distances, ids, _):
    """The last id gives way to a later one at the same distance."""
    query, database = _gpu_search.codes(CASE, "cpu")
    same = _gpu_search.hamming(query[0], database) == distances[0, -1]
    ids[0, -1] = same.nonzero()[-1]
    return distances, ids


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda distances, ids, _: (distances + 1, ids), "distances are not those of int8"),
        (lambda distances, ids, _: (distances[:, :-1], ids), "shape"),
        (lambda distances, ids, _: (distances, ids.int()), "expected int32 and int64"),
        (swapped, "not in order of (distance, id)"),
        (
            lambda distances, ids, _: (distances, ids * (ids != ids[0, 0])),
            "of 150 distances are not of their ids",
        ),
        (lambda distances, ids, _: (distances, ids - 700), "expected 0 to 699"),
        (later_tie, "1 of 30 ids of query 0 are not the first nearest"),
        (lambda distances, ids, call: (distances, ids + (call > 1)), "a later call"),
        (lambda distances, ids, _: 1 / 0, "ZeroDivisionError"),
        (lambda distances, ids, _: (torch.empty_like(distances), ids), "distances are not"),
    ],
)
@pytest.mark.parametrize("name", ["hashfast", "hashfast (Triton)"])
def test_a_wrong_search_of_ours_leaves_no_rows_at_all(change, why, name):
    wrong = bench(ours(), ours(change, name)) if name != "hashfast" else bench(ours(change))
    assert wrong.rows(CASE) == []
    (text,) = wrong.wrong
    assert why in text
    assert f"n=700 b=64 q=5 k=30, random codes: {name}: not timed" in text


def test_a_wrong_peer_gets_no_row():
    peer = ours(lambda distances, ids, _: (distances + 1, ids), "faiss")
    checked = bench(peer, ours())
    assert [row["provider"] for row in checked.rows(CASE)] == ["int8 products + topk", "hashfast"]
    assert not checked.wrong
    assert "faiss: not timed, distances are not those of int8" in checked.notes[0]


# ---- peers and codes -----------------------------------------------------------------------


@pytest.mark.parametrize("bits", [32, 96, 256])
@pytest.mark.parametrize("make", [_gpu_search.gemm, POPCOUNT])
def test_peers_find_the_nearest_in_any_number_of_chunks(make, bits, monkeypatch):
    for matrix in (_gpu_search.MATRIX, 32 * 40):
        monkeypatch.setattr(_gpu_search, "MATRIX", matrix)
        for n, queries, k in ((203, 3, 50), (203, 33, 203), (1, 1, 1)):
            query, database = _gpu_search.codes(Case(n, bits, queries), "cpu")
            distances, ids = make(query, database)(k)
            assert torch.equal(distances, ops.hamming_topk(query, database, k)[0])
            found = _gpu_search.hamming(query[:, None], database[ids])
            assert torch.equal(found, distances)


def test_codes_are_drawn_alike_and_learned_ones_repeat():
    for kind in _gpu_search_cases.KINDS:
        case = Case(20_000, 64, 7, codes=kind)
        (query, database), again = (_gpu_search.codes(case, "cpu") for _ in range(2))
        assert torch.equal(query, again[0])
        assert torch.equal(database, again[1])
        assert query.shape == (7, 8)
        assert database.shape == (20_000, 8)
        distinct = len(database.unique(dim=0)) / len(database)
        assert (distinct < 0.3) == (kind == "learned")
        nearest = ops.hamming_topk(query, database, 1)[0].double().mean()
        assert (nearest < 11) == (kind != "random")


INTERPRET = """
import sys, torch
sys.path.insert(0, {benchmarks!r})
import _gpu_distances
from _gpu_search import hamming
generator = torch.Generator().manual_seed(0)
for q, n, size in ((1, 3, 4), (9, 600, 8), (3, 513, 32)):
    drawn = [torch.randint(256, (r, size), dtype=torch.uint8, generator=generator) for r in (q, n)]
    found = _gpu_distances.distances(*drawn)
    assert found.dtype == (torch.uint8 if size < 32 else torch.int16)
    assert torch.equal(found.int(), hamming(drawn[0][:, None], drawn[1]))
zeros = torch.zeros(1, 32, dtype=torch.uint8)
assert _gpu_distances.distances(zeros, ~zeros).tolist() == [[256]]
"""


def test_distances_by_triton_in_the_interpreter():
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", INTERPRET.format(benchmarks=str(BENCHMARKS))],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_distances_by_triton_count_bits_by_one_instruction():
    triton = pytest.importorskip("triton")
    import _gpu_distances as made
    from triton.backends.compiler import GPUTarget

    kernel = made.distances_kernel
    types = ["*i32", "*i32", "*u8", "i32", "i32", *["constexpr"] * 3]
    blocks = {"BLOCK_QUERIES": made.BLOCK_QUERIES, "BLOCK_ROWS": made.BLOCK_ROWS}
    source = triton.compiler.ASTSource(
        fn=kernel,
        signature=dict(zip(kernel.arg_names, types, strict=True)),
        constexprs={"WORDS": 2} | blocks,
    )
    assembly = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    assert "popc.b32" in assembly


# ---- cases, limits and bars ----------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(_gpu_search_cases.SETS))
def test_sets_hold_each_case_once(name):
    found = _gpu_search_cases.cases(name)
    assert len(set(found)) == len(found)
    codes = [(case.codes, case.n, case.bits) for case in found]
    assert codes == sorted(codes)


def test_values_given_take_the_place_of_the_sets_own():
    found = _gpu_search_cases.cases("bars", n=[1000], bits=[32], codes=["learned"], k=None)
    assert {(case.n, case.bits, case.codes) for case in found} == {(1000, 32, "learned")}
    assert {(case.queries, case.k) for case in found} == {
        *((queries, 100) for queries in _gpu_search_cases.QUERIES),
        (512, 1000),
    }


def test_table_3_is_beside_its_figures():
    found = _gpu_search_cases.cases("table3")
    assert len(found) == 48
    assert sum(case.paper_ms is None for case in found) == 2  # not legible
    assert Case(10_000_000, 64, 512).paper_ms == 24.13
    assert Case(50_000_000, 64, 8, 1000).paper_ms == 27.34
    assert Case(10_000_000, 128, 512).paper_ms is None
    assert Case(10_000_000, 64, 48).paper_ms is None


def test_the_limit_is_what_takes_longest():
    per_second = 132 * 1.98e9
    many = H200.seconds(Case(10**7, 64, 512))
    assert many["memory"] == pytest.approx(8e7 / 4.3e12)
    assert many["products"] == pytest.approx(5.12e9 / (per_second * 128))
    assert many["operations"] == pytest.approx(5.12e9 / (per_second * 128))
    assert H200.binding(Case(10**7, 64, 8)) == ("memory", pytest.approx(8e7 / 4.3e12))
    # 32 bits and their complements fill half a product; 128 take two.
    for bits, pairs in ((32, 128), (128, 64), (512, 16)):
        products = H200.seconds(Case(10**7, bits, 512))["products"]
        assert products == pytest.approx(5.12e9 / (per_second * pairs))
    # Without products of bits, 16 popcounts of 32 bits a cycle.
    popcounts = limits_of(132, 1.98e9, 10, 4.3e12).seconds(Case(10**7, 32, 512))["products"]
    assert popcounts == pytest.approx(5.12e9 / (per_second * 16))


def as_row(case, execution, milliseconds):
    axes = {axis: getattr(case, axis) for axis in ("n", "bits", "queries", "k", "codes")}
    return axes | {
        "provider": "hashfast",
        "execution": execution,
        "median_ms": milliseconds,
        "tpairs_s": case.n * case.queries / milliseconds / 1e9,
        "paper_ratio": (case.paper_ms or math.nan) / milliseconds,
    }


def test_every_bar_is_measured_and_judged_by_its_worst_figure():
    found = {*_gpu_search_cases.cases("bars"), *_gpu_search_cases.cases("table3")}
    executions = (_rows.EAGER, _rows.CUDA_GRAPH)
    fast = [as_row(case, execution, 0.001) for case in found for execution in executions]
    lines = bench_search_gpu.verdicts(fast)
    assert len(lines) == len(_gpu_search_cases.BARS) == 6
    assert all(line.startswith("passed") for line in lines)
    slow = [row | {"median_ms": 0.06 if row["queries"] == 8 else 0.04} for row in fast]
    (line,) = (line for line in bench_search_gpu.verdicts(slow) if "q <= 48" in line)
    assert line == "MISSED  q <= 48, b=64: milliseconds: 0.060 (bar 0.05)"
    (line,) = (line for line in bench_search_gpu.verdicts(slow) if "n=50,000,000" in line)
    assert line.startswith("passed")
    others = [row | {"codes": "learned"} for row in slow] + [row | {"n": 5} for row in slow]
    assert bench_search_gpu.verdicts(others) == []


# ---- the scripts ---------------------------------------------------------------------------


def test_rows_are_printed_kept_and_read(tmp_path):
    case = Case(10_000_000, 64, 8)
    row = bench(ours()).rows(CASE)[1] | as_row(case, _rows.CUDA_GRAPH, 0.05) | {"paper_ms": 2.61}
    text = bench_search_gpu.table([row])
    assert "CUDA graph" in text
    assert "52.2" in text
    heading = bench_search_gpu.heading(case, row)
    assert heading.startswith("n=10,000,000 b=64 q=8 k=100, random codes  (ratio to int8 products")
    assert "paper 004 2.61 ms" in heading
    path = tmp_path / "rows.csv"
    _rows.append_rows(path, [row], bench_search_gpu.COLUMNS)
    (read,) = _rows.read_rows(path)
    assert read["tpairs_s"] == pytest.approx(1.6)
    assert read["queries"] == 8


@pytest.mark.parametrize("wrong", [["--bits", "40"], ["--queries", "-1"], ["--k", "2e6"]])
def test_impossible_searches_are_refused(wrong, capsys):
    with pytest.raises(SystemExit) as error:
        bench_search_gpu.parse(["--set", "small", *wrong])
    assert error.value.code == 2
    assert "bits come in 32s" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "script", ["bench_search_gpu.py", "instruction_rates.py", "bench_metrics.py --device cuda"]
)
def test_without_a_gpu_the_scripts_say_so(script):
    name, *options = script.split()
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / name), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "sees no CUDA GPU" in done.stderr
    assert not done.stdout


def test_rates_of_instructions_are_of_a_processor_and_of_all():
    text = "132\nBMMA m16n8k128 AND,132000000,1.0,1000000\nLOP3,264000000,2.0,4000000\n"
    bmma, lop3 = instruction_rates.rows(text, {"device": "a GPU"})
    assert bmma["per_cycle"] == 1
    assert bmma["per_second"] == pytest.approx(1.32e11)
    assert bmma["clock_ghz"] == 1
    assert (bmma["code_bits"], bmma["gpairs_s"]) == (64, pytest.approx(1.32e11 * 128 / 1e9))
    assert lop3["per_cycle"] == pytest.approx(0.5)
    assert lop3["clock_ghz"] == 2
    assert math.isnan(lop3["gpairs_s"])
    assert "BMMA m16n8k128 AND  1.0000" in instruction_rates.table([bmma, lop3])
    assert instruction_rates.architecture((9, 0)) == "90a"
    assert instruction_rates.architecture((8, 0)) == "80"
    names = {
        name for name in instruction_rates.PAIRS if name in instruction_rates.SOURCE.read_text()
    }
    assert names == set(instruction_rates.PAIRS)
