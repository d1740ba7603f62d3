"""The study of condensation: what it picks, keeps and concludes; nothing is condensed here."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import condensation_study as study  # noqa: E402


class Recorded(study.Study):
    """A study whose runs are made up: the mAP falls with the learning rate's distance from 0.06."""

    def perform(self, run):
        self.performed = [*getattr(self, "performed", []), run]
        value = 0.5 if run.learning_rate is None else 0.6 - abs(run.learning_rate - 0.06)
        made = dict.fromkeys(study.COLUMNS, "x") | run._asdict()
        numbers = {"networks": 1, "inner_steps": 1, "condense_seconds": 2.0, "seconds": 3.0}
        return made | numbers | {"learning_rate": study.text(run.learning_rate), "map": value}


def test_the_rate_with_the_best_validation_map_is_taken(tmp_path):
    done = Recorded(tmp_path / "rows.csv", tmp_path)
    assert done.rate("dm", 1) == 0.06
    assert {run.part for run in done.performed} == {"validation"}
    assert [run.learning_rate for run in done.performed] == [0.02, 0.06, 0.2]
    assert done.rate("dm-na", 1) == 0.06
    assert len(done.performed) == 3  # rows of a method share its rate
    assert done.rate("random", 1) is None


def test_a_run_that_is_kept_is_not_repeated(tmp_path):
    run = study.Run("test", "iem", 10, 0.2, 1)
    first = Recorded(tmp_path / "rows.csv", tmp_path).result(run)
    again = Recorded(tmp_path / "rows.csv", tmp_path)
    assert again.result(run)["map"] == pytest.approx(first["map"])
    assert not hasattr(again, "performed")


def test_bars_compare_means():
    def row(name, ipc, value, seed=0):
        return {"row": name, "ipc": ipc, "map": value, "seed": seed}

    rows = [row("random", 1, 0.5), row("dm", 1, 0.5), row("dm", 1, 0.62, 1), row("iem", 1, 0.575)]
    assert study.bars(rows) == [
        (True, "1 a class: DM - Random = +0.0600 (bar +0.050)"),
        (False, "1 a class: IEM (v2) - DM = +0.0150 (bar +0.020)"),
    ]


@pytest.mark.parametrize("row", study.KINDS)
@pytest.mark.parametrize("ipc", study.BARS)
def test_every_row_has_settings_that_exist(row, ipc):
    kind = study.KINDS[row]
    steps = study.STEPS.get(kind.method, {}).get(ipc, {})
    config = study.CondenseConfig(**study.NETWORK, **steps, **kind.settings, method=kind.method)
    assert config.resolved().factor == (2 if kind.method in ("iem", "idc") else 1)
