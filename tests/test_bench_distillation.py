"""The benchmark of losses that compare many codes: their formulations are the same losses."""

import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import _losses  # noqa: E402
import _rows  # noqa: E402
import bench_distillation  # noqa: E402

OTHERS = [(loss, name) for loss, names in _losses.PROVIDERS.items() for name in names[1:]]


@pytest.mark.parametrize(("loss", "provider"), OTHERS)
def test_formulations_agree(loss, provider):
    assert _losses.agrees(loss, provider)


def test_another_gradient_is_noticed(monkeypatch, capsys, tmp_path):
    real = _losses.ntxent_matrix
    monkeypatch.setattr(_losses, "ntxent_matrix", lambda a, b: real(a.detach(), b) + 0 * a.sum())
    assert not _losses.agrees("ntxent", "matrix")
    out = tmp_path / "rows.csv"
    assert bench_distillation.main(["--quick", "--out", str(out)]) == 1
    assert "ntxent: matrix is another loss than ours" in capsys.readouterr().err
    assert not out.exists()


def test_what_needs_too_much_is_left_out():
    assert _losses.needed_gb("rkd", "tensor", 1024) > bench_distillation.LIMIT_GB
    assert _losses.needed_gb("rkd", "tensor", 256) < 1
    assert _losses.needed_gb("rkd", "hashfast", 10**6) == 0


def test_rows_of_a_small_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_distillation, "QUICK", {"ntxent": (200,)})
    out = tmp_path / "rows.csv"
    assert bench_distillation.main(["--quick", "--out", str(out)]) == 0
    rows = {row["provider"]: row for row in _rows.read_rows(out)}
    assert list(rows) == ["hashfast", "matrix", "broadcast"]
    memory = {name: float(row["peak_memory_mb"]) for name, row in rows.items()}
    # A matrix of 400 x 400 has 0.64 MB, the broadcast formulation 64 times as many values.
    assert memory["hashfast"] < memory["matrix"] < 20 < 41 < memory["broadcast"]
    assert torch.__version__ in rows["matrix"]["torch"]
    assert "broadcast" in capsys.readouterr().out
