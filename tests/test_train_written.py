"""What a run writes: metrics of every epoch, results, the model."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from train_runs import MOVING, TINY, interrupt, lines, loop, run, same_weights, small_digits

import hashfast
from hashfast import losses
from hashfast.hashing import HashModel, TrainConfig, encode_dataset
from hashfast.hashing.checkpoint import load_checkpoint
from hashfast.hashing.learner import Learner
from hashfast.metrics import evaluate


@pytest.fixture(scope="module")
def small():
    return small_digits()


def test_evaluation_during_training_changes_nothing_but_the_log(tmp_path, monkeypatch, small):
    config = replace(TINY, epochs=5, quantization="hswd")
    plain = run(config, tmp_path / "plain", small)
    config = replace(config, evaluate_every=2)
    watched = run(config, tmp_path / "watched", small)
    assert same_weights(plain.model, watched.model)
    assert ["map" in line for line in lines(tmp_path / "watched")] == [False, True] * 2 + [False]
    assert lines(tmp_path / "watched", (*MOVING, "map")) == lines(tmp_path / "plain")
    with monkeypatch.context() as patch:  # the model as it was after epoch 2
        interrupt(patch, Learner, "step", 7)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "stopped", small)
    plain.model.load_state_dict(load_checkpoint(tmp_path / "stopped")["model"])
    query, database = (encode_dataset(plain.model, part) for part in (small.query, small.database))
    report = evaluate(query.codes, database.codes, query.labels, database.labels, topk=1000)
    assert lines(tmp_path / "watched")[1]["map"] == report.map


def test_results_say_what_was_done(tmp_path, small):
    result = run(replace(TINY, root=Path("some/where")), tmp_path, small)
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored == json.loads(json.dumps(result.results))
    assert stored["config"]["method"] == "orthohash"
    assert stored["config"]["seed"] == 0
    assert stored["config"]["root"] == "some/where"
    assert stored["config"].keys() == TrainConfig.__dataclass_fields__.keys()
    assert stored["protocol"]["name"] == "digits"
    assert stored["protocol"]["sizes"] == {"query": 50, "train": 97, "database": 275}
    assert stored["protocol"]["fingerprint"] == small.fingerprint
    assert stored["report"]["map"] == result.report.map == stored["report"]["map_by_ties"]["index"]
    by_ties = stored["report"]["map_by_ties"]
    assert by_ties["worst"] < by_ties["expected"] < by_ties["best"]
    assert by_ties["worst"] <= by_ties["index"] <= by_ties["best"]
    assert stored["report"]["topk"] == 1000
    assert stored["report"]["bits"] == 8
    assert 0 < stored["quantization_error"] < math.pi / 2
    assert stored["unreadable"] == []
    assert stored["environment"]["torch"] == torch.__version__
    assert stored["environment"]["hashfast"] == hashfast.__version__
    assert stored["environment"]["device"]

    rows = lines(tmp_path, without=())
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert sum(row["seconds"] for row in rows) == pytest.approx(stored["train_seconds"])
    for row in rows:
        assert row["images_per_second"] == pytest.approx(97 / row["seconds"])
        assert row["loss"] == pytest.approx(row["similarity"])
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[0]["learning_rate"] == pytest.approx(0.005 * (1 + math.cos(math.pi * 2 / 12)))

    model = HashModel.from_pretrained(tmp_path)
    assert same_weights(model, result.model)
    assert model.training_info["results"] == stored
    card = (tmp_path / "README.md").read_text()
    assert f"| mAP@1000 (ties by index) | {round(result.report.map, 4)} |" in card
    assert "| protocol | digits |" in card


def test_logged_terms_are_means_over_the_steps(tmp_path, monkeypatch, small):
    seen = []
    real = losses.CSQ.original_quantization

    def noted(self, outputs):
        value = real(self, outputs)
        seen.append(float(value.detach()))
        return value

    monkeypatch.setattr(losses.CSQ, "original_quantization", noted)
    run(replace(TINY, method="csq", epochs=2), tmp_path, small)
    for row, values in zip(lines(tmp_path), (seen[:3], seen[3:]), strict=True):
        assert row["quantization"] == pytest.approx(np.mean(values), rel=1e-5)
        assert row["loss"] == pytest.approx(
            row["similarity"] + 1e-4 * row["quantization"], rel=1e-5
        )


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch, small):
    monkeypatch.chdir(tmp_path)
    run(replace(TINY, epochs=1), splits=small)
    assert list(tmp_path.iterdir()) == []


# TensorBoard


def scalars(out):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard")).Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_tensorboard_shows_every_epoch_once(tmp_path, monkeypatch, small):
    config = replace(TINY, tensorboard=True, evaluate_every=2)
    with monkeypatch.context() as patch:  # epoch 3 is logged, and not in the checkpoint
        interrupt(patch, loop, "save_checkpoint", 3)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path, small)
    run(config, tmp_path, small, resume=True)
    rows = lines(tmp_path, without=())
    shown = scalars(tmp_path)
    assert shown.keys() == {name for row in rows for name in row} - {"epoch"}
    for name, values in shown.items():
        expected = [(row["epoch"], row[name]) for row in rows if name in row]
        assert [step for step, _ in values] == [step for step, _ in expected]
        assert np.allclose([value for _, value in values], [value for _, value in expected])


def test_tensorboard_needs_a_folder_and_its_package(tmp_path, monkeypatch, small):
    config = replace(TINY, tensorboard=True)
    with pytest.raises(ValueError, match="tensorboard=True writes into the run's folder"):
        run(config, splits=small)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r'pip install "hashfast\[train\]"'):
        run(config, tmp_path, small)
    run(replace(TINY, epochs=1), tmp_path, small)
    assert not (tmp_path / "tensorboard").exists()
