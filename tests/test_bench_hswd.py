"""The benchmark of HSWD: it writes a row for each way, and refuses to time a wrong result."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import _rows
import bench_hswd


def run(out):
    shape = ["--rows", "9", "--bits", "4", "--each", "0.01"]
    before = torch.get_num_threads()
    try:
        return bench_hswd.main([*shape, "--out", str(out)])
    finally:
        torch.set_num_threads(before)


def test_rows_of_a_small_run(tmp_path, capsys):
    assert run(tmp_path / "hswd.csv") == 0
    rows = _rows.read_rows(tmp_path / "hswd.csv")
    assert [(row["mode"], row["provider"]) for row in rows] == [
        (mode, name) for mode in ("module", "operations") for name in ("hashfast", "plain torch")
    ]
    assert all(row["shape"] == "n=9 b=4" and row["op"] == "hswd" for row in rows)
    assert [row["ratio"] for row in rows[1::2]] == [1, 1]
    assert "n=9 b=4" in capsys.readouterr().out


def test_the_operations_timed_give_what_the_reference_gives():
    outputs, seed = torch.randn(33, 5), torch.tensor(1)
    loss, gradient = bench_hswd.our_operations(outputs, seed, torch.ones(()))
    leaf = outputs.clone().requires_grad_()
    expected = bench_hswd.ops.binary_wasserstein(leaf, seed=seed, mean=True)[0]
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradient, leaf.grad)
    torch.manual_seed(3)
    loss, gradient = bench_hswd.plain_operations(outputs)
    torch.manual_seed(3)
    leaf.grad = None
    plain = bench_hswd.plain_hswd(leaf, bench_hswd.random_target(outputs))
    plain.backward()
    torch.testing.assert_close(loss, plain.detach())
    torch.testing.assert_close(gradient, leaf.grad)


def test_wrong_results_are_not_timed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_hswd, "plain_hswd", lambda x, target: x.square().mean())
    assert run(tmp_path / "hswd.csv") == 1
    assert "WRONG: n=9 b=4: value" in capsys.readouterr().err
    assert not (tmp_path / "hswd.csv").exists()
