"""The benchmark of a condensation step: the loop over classes that it times gives the same."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import _rows
import bench_condense

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("case", bench_condense.QUICK, ids=lambda case: case.method)
def test_a_step_is_the_class_loop(case):
    assert bench_condense.wrong(case, [False])[0] == ""
    assert bench_condense.wrong(replace(case, classes=4, ipc=40), [False])[0] == ""


def test_another_result_is_told(monkeypatch):
    monkeypatch.setattr(bench_condense.ClassLoop, "_augmented", lambda self, images, draw: images)
    why, error = bench_condense.wrong(bench_condense.QUICK[0], [False])
    assert why.startswith("loss: relative error")
    assert error > 1e-4


@pytest.mark.parametrize("case", bench_condense.QUICK, ids=lambda case: case.method)
def test_a_timed_step_of_the_loop_moves_the_images_as_ours(case):
    ours = bench_condense.Ours(case, case.splits(), False, torch.float64)
    theirs = bench_condense.ClassLoop(case, ours)
    before = ours.images.detach().clone()
    ours.step()
    theirs.step()
    moved = ours.images.detach() - before
    if case.method == "iem":
        # The momentum of a class's own turn goes on in the turns of the classes after it.
        carried = [2 - 0.5 ** (case.classes - 1 - c) for c in range(case.classes)]
        whole = 2 - 0.5 ** (case.classes - 1)
        share = torch.tensor(carried, dtype=torch.float64).repeat_interleave(case.ipc) / whole
        moved = moved * share[:, None, None, None]
    assert moved.abs().max() > 0
    torch.testing.assert_close(theirs.images.detach() - before, moved)


def test_rows_of_a_small_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_condense, "wrong", lambda case: ("", 0.0))
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *args: None)  # which takes long
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)
    assert bench_condense.main(["--quick", "--each", "0", "--out", str(tmp_path / "a.csv")]) == 0
    rows = _rows.read_rows(tmp_path / "a.csv")
    steps = [row for row in rows if row["mode"] == "step"]
    assert [(row["op"], row["provider"]) for row in steps] == [
        (f"{method} step", name)
        for method in ("dm", "iem")
        for name in ("class loop", "hashfast", "hashfast, compiled")
    ]
    assert steps[0]["ratio"] == 1
    assert len(rows) == 2 * (3 + 2 * 4)
    assert "same loss and gradient" in capsys.readouterr().out


def test_wrong_results_are_not_timed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_condense, "wrong", lambda case: ("loss: no", 1.0))
    assert bench_condense.main(["--quick", "--out", str(tmp_path / "a.csv")]) == 1
    assert "WRONG: dm C=3 real=5 ipc=2 width=4: loss: no" in capsys.readouterr().err
    assert not (tmp_path / "a.csv").exists()
