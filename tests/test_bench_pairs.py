"""The benchmark of near-duplicates: it finds what faiss finds, and times nothing that does not."""

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import _rows  # noqa: E402
import bench_pairs  # noqa: E402

pytest.importorskip("faiss")


def test_rows_of_a_small_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_pairs, "SHARE", 500)
    out = tmp_path / "pairs.csv"
    arguments = ["--n", "2000", "--bits", "32", "--threads", "1", "--out", str(out)]
    assert bench_pairs.main(arguments) == 0
    ours, faiss = _rows.read_rows(out)
    codes = bench_pairs.near_duplicates(2000, 32, 3)
    distances = np.bitwise_count(codes[:, None] ^ codes).sum(-1)
    assert int(ours["pairs"]) == np.triu(distances <= 3, 1).sum() >= 15
    assert int(faiss["pairs"]) == np.triu(distances <= 3, 1)[:500].sum()
    assert float(faiss["timed_share"]) == 0.25
    assert "25.0% timed, scaled" in capsys.readouterr().out


def test_wrong_pairs_are_not_timed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_pairs, "ours", lambda codes, radius: np.array([[0, 1]]))
    out = tmp_path / "pairs.csv"
    assert bench_pairs.main(["--n", "500", "--threads", "1", "--out", str(out)]) == 1
    assert "different pairs" in capsys.readouterr().err
    assert not out.exists()
