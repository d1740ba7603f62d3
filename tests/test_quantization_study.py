"""The study of quantisation terms: what it picks, keeps and concludes; no training here."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import quantization_study as study  # noqa: E402


def row(method, quantization, map_, error=0.5, entropy=0.9, seed=0, bits=32):
    return {
        "method": method,
        "quantization": quantization,
        "weight": "",
        "bits": bits,
        "seed": seed,
        "map": map_,
        "quantization_error": error,
        "bit_entropy": entropy,
        "distinct_codes": 7,
    }


class Recorded(study.Study):
    """A study whose runs are made up: the mAP is the weight."""

    def perform(self, run):
        self.trained = [*getattr(self, "trained", []), run]
        made = row(run.method, run.quantization, run.weight or 0.0, seed=run.seed, bits=run.bits)
        fixed = dict.fromkeys(("device", "torch", "hashfast", "commit", "date"), "x")
        weight = study.text(run.weight)
        times = {"train_seconds": 1.0, "seconds": 2.0}
        return made | {"part": run.part, "weight": weight} | times | fixed


def test_the_weight_with_the_best_validation_map_is_taken(tmp_path):
    done = Recorded(tmp_path / "rows.csv")
    assert done.weight("csq", "hswd") == pytest.approx(1.0)
    assert done.weight("dsdh", "original") == pytest.approx(550.0)
    assert [run.weight for run in done.trained] == pytest.approx([0.01, 0.1, 1, 5.5, 55, 550])
    assert {run.part for run in done.trained} == {"validation"}


@pytest.mark.parametrize(("method", "quantization"), [("csq", "none"), ("hashnet", "original")])
def test_what_has_no_weight_is_not_tried_twice(method, quantization, tmp_path):
    done = Recorded(tmp_path / "rows.csv")
    assert done.weight(method, quantization) is None
    assert not hasattr(done, "trained")


def test_a_run_that_is_kept_is_not_repeated(tmp_path):
    run = study.Run("test", "csq", "hswd", 0.1, 32, 1)
    first = Recorded(tmp_path / "rows.csv")
    assert first.result(run)["map"] == 0.1
    again = Recorded(tmp_path / "rows.csv")
    assert again.result(run)["map"] == 0.1
    assert again.result(run)["distinct_codes"] == 7
    assert not hasattr(again, "trained")
    assert again.result(run._replace(seed=2))["map"] == 0.1  # another run
    assert len(again.trained) == 1


def every_method(**changes):
    values = {"none": 0.7, "original": 0.7, "swd": 0.7, "hswd": 0.7} | changes
    return [row(m, q, v, seed=s) for m in study.METHODS for q, v in values.items() for s in (0, 1)]


def test_bars_are_met_or_missed():
    rows = every_method(hswd=0.696)
    assert [met for met, _ in study.bars(rows)] == [False, True]  # nothing improved; -0.004
    better = [r | {"quantization_error": 0.4} if r["quantization"] == "hswd" else r for r in rows]
    assert [met for met, _ in study.bars(better)] == [True, True]
    rows = every_method(hswd=0.694)
    assert [met for met, _ in study.bars(rows)] == [False, False]


def test_an_entropy_counts_as_improvement_and_unfinished_methods_do_not_count():
    rows = [r | {"bit_entropy": 0.95} if r["quantization"] == "hswd" else r for r in every_method()]
    met, text = study.bars(rows)[0]
    assert met
    assert "in 6 of 6 methods" in text
    unfinished = [r for r in rows if (r["method"], r["quantization"]) != ("csq", "swd")]
    assert "in 5 of 5 methods" in study.bars(unfinished)[0][1]


def test_table_has_means_and_deviations():
    rows = [row("csq", "hswd", 0.5, seed=0), row("csq", "hswd", 0.7, seed=1)]
    line = study.table(rows).splitlines()[1].split()
    assert line[:3] == ["csq", "32", "hswd"]
    assert line[3:6] == ["0.6000", "+-", "0.1414"]


def test_validation_comes_from_the_training_set_alone(fashion_mnist):
    split = study.validation(fashion_mnist)
    assert [len(part) for part in (split.query, split.train, split.database)] == [500, 3500, 1000]
    held = {image.numpy().tobytes() for image in fashion_mnist.train.images}
    assert all(image.numpy().tobytes() in held for image in split.query.images)
