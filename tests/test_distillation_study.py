"""The study of distillation: what it picks, keeps and concludes; nothing is trained here."""

import math
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import distillation_study as study  # noqa: E402


class Recorded(study.Study):
    """A study whose runs are made up: SSHP grows with the weight, ASHP falls faster."""

    def perform(self, run):
        self.performed = [*getattr(self, "performed", []), run]
        factor = (run.weight or 0.0) / study.KINDS[run.row].weight
        made = (
            dict.fromkeys(study.COLUMNS, "x") | run._asdict() | {"weight": study.text(run.weight)}
        )
        quality = {"map_sshp": 0.5 + factor / 100, "map_ashp": 0.5 - factor / 50}
        return made | quality | {"isd": 1.0, "nra": 0.5, "train_seconds": 1.0, "seconds": 2.0}


def test_the_weight_is_chosen_by_what_the_method_is_for(tmp_path):
    done = Recorded(tmp_path / "rows.csv", tmp_path)
    assert done.weight("kl") == 1.0  # aligned: the mean of both, which is hardly better at 0.1
    assert done.weight("sp") == pytest.approx(30000.0)  # SSHP alone
    assert done.weight("brcd-bm") == done.weight("brcd")
    assert {run.part for run in done.performed} == {"validation"}
    assert len(done.performed) == 9  # the parts of BRCD take its weight
    assert done.weight("none") is None


def test_a_run_that_is_kept_is_not_repeated(tmp_path):
    run = study.Run("test", "brcd", 1.0, 1)
    first = Recorded(tmp_path / "rows.csv", tmp_path).result(run)
    again = Recorded(tmp_path / "rows.csv", tmp_path)
    assert again.result(run)["map_ashp"] == pytest.approx(first["map_ashp"])
    assert not hasattr(again, "performed")
    without = run._replace(row="none", weight=None)
    assert again.result(without)["weight"] == ""
    assert Recorded(tmp_path / "rows.csv", tmp_path).done.keys() == {run, without}


def test_the_teacher_has_no_neighbours_of_its_own(tmp_path):
    class Teacher(Recorded):
        def perform(self, run):
            return super().perform(run._replace(row="none")) | {"row": "teacher", "nra": math.nan}

    run = study.Run("test", "teacher", None, 0)
    Teacher(tmp_path / "rows.csv", tmp_path).result(run)
    assert math.isnan(Recorded(tmp_path / "rows.csv", tmp_path).done[run]["nra"])


def row(name, sshp, ashp=0.0, seed=0):
    return {"row": name, "map_sshp": sshp, "map_ashp": ashp, "seed": seed}


def test_bars_compare_means():
    rows = [row("teacher", 0.6), row("none", 0.5), row("none", 0.54, seed=1)]
    rows += [row("brcd", 0.56, 0.5), row("rkd", 0.51)]
    assert study.bars(rows) == [
        (True, "teacher - no distillation = +0.0800 (bar +0.05)"),
        (True, "SSHP: BRCD - no distillation = +0.0400 (bar +0.02)"),
        (False, "BRCD: ASHP - SSHP = -0.0600 (bar -0.03)"),
        (False, "SSHP: RKD - no distillation = -0.0100 (bar 0)"),
    ]
    assert study.bars(rows[:1]) == []


def test_the_table_has_means_and_deviations():
    rows = [row("brcd", 0.5, 0.4), row("brcd", 0.7, 0.4, seed=1)]
    rows = [{**r, "weight": "1", "isd": 3.0, "nra": 0.25} for r in rows]
    line = study.table(rows).splitlines()[1].split()
    assert line[:2] == ["BRCD", "1"]
    assert line[2:8] == ["0.6000", "+-", "0.1414", "0.4000", "+-", "0.0000"]
    assert line[8:] == ["3.00", "0.250", "2"]


@pytest.mark.parametrize("name", study.KINDS)
def test_every_row_has_settings_that_exist(name, tmp_path):
    kind = study.KINDS[name]
    study.DistillConfig(
        **study.STUDENT,
        teacher=tmp_path,
        distillation=kind.loss or "kl",
        distillation_options=kind.options,
    )
    study.TrainConfig(**study.TEACHER)
