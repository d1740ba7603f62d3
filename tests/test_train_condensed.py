"""Training on a condensed set in place of a protocol's training set."""

import json
from dataclasses import replace

import pytest
import torch
from cli_calls import answer, call
from train_runs import TINY, interrupt, run, same_weights, small_digits

from hashfast.data import CondensedSet, load
from hashfast.hashing import HashModel
from hashfast.hashing.learner import Learner
from hashfast.losses import METHODS

pytestmark = pytest.mark.usefixtures("one_thread")

MEAN, STD = (0.3,), (0.4,)


def a_set(ipc=1, seed=0, **options):
    """Real digits as a condensed set."""
    digits = load("digits")
    rows = [
        (digits.train.labels == c).nonzero()[seed * ipc : (seed + 1) * ipc, 0] for c in range(10)
    ]
    images = digits.train.images[torch.cat(rows)].float() / 255
    info = {"mean": list(MEAN), "std": list(STD)}
    labels = torch.arange(10).repeat_interleave(ipc)
    return CondensedSet(images, labels, **{"info": info, **options})


@pytest.fixture
def folder(tmp_path):
    a_set().save(tmp_path / "set")
    return tmp_path / "set"


@pytest.mark.parametrize("method", METHODS)
def test_one_image_a_class_is_a_batch(folder, method):
    # Ten rows, fewer than batch_size, also for batch norm (orthohash) and banks (hashnet).
    config = replace(TINY, method=method, condensed=folder, epochs=2)
    result = run(config, splits=small_digits())
    assert result.results["protocol"]["sizes"]["train"] == 10
    assert result.results["config"]["condensed"] == str(folder)
    assert 0 < result.report.map < 1


def test_it_trains_on_the_decoded_images_alone(tmp_path):
    digits = small_digits()
    condensed = a_set(2, factor=2, formation="multi")
    condensed.save(tmp_path)
    found = run(replace(TINY, condensed=tmp_path), splits=digits)
    images, labels = condensed.decoded()
    assert len(labels) == 10 * 2 * 5
    expected = run(TINY, splits=condensed.in_place_of_training_set(digits))
    assert same_weights(found.model, expected.model)
    assert found.results["protocol"]["recipe"]["condensed"] == condensed.fingerprint()
    assert found.results["protocol"]["sizes"] == {
        **digits.describe()["sizes"],
        "train": len(images),
    }


def test_ten_images_a_class_teach_the_classes():
    splits = a_set(10).in_place_of_training_set(small_digits())
    config = replace(TINY, bits=32, width=16, epochs=20, learning_rate=3e-3)
    assert run(config, splits=splits).report.map > 0.6  # untrained networks: 0.2 to 0.35


def test_models_normalise_as_the_real_images_are(folder, tmp_path):
    config = replace(TINY, condensed=folder, epochs=1)
    model = run(config, tmp_path / "run", splits=small_digits()).model
    assert (model.config.mean, model.config.std) == (MEAN, STD)
    again = HashModel.from_pretrained(tmp_path / "run")
    assert (again.config.mean, again.config.std) == (MEAN, STD)


def test_a_set_that_does_not_say_how_is_normalised_by_its_own(tmp_path):
    half = torch.cat([torch.zeros(10, 1, 8, 4), torch.ones(10, 1, 8, 4)], 3)
    CondensedSet(half, torch.arange(10)).save(tmp_path)
    model = run(replace(TINY, condensed=tmp_path, epochs=1), splits=small_digits()).model
    assert (model.config.mean, model.config.std) == ((0.5,), (0.5,))


def test_pretrained_networks_keep_their_own_normalisation(folder, tmp_path):
    weights = tmp_path / "weights.safetensors"
    from safetensors.torch import save_file

    network = run(replace(TINY, epochs=1), splits=small_digits()).model.backbone
    save_file(network.state_dict(), weights)
    config = replace(TINY, condensed=folder, epochs=1, weights=str(weights))
    expected = run(replace(config, condensed=None), splits=small_digits()).model.config
    model = run(config, splits=small_digits()).model
    assert (model.config.mean, model.config.std) == (expected.mean, expected.std) != (MEAN, STD)


def test_an_interrupted_run_goes_on_with_its_set_wherever_it_lies(tmp_path, monkeypatch):
    a_set().save(tmp_path / "set")
    a_set(seed=1).save(tmp_path / "other")
    config = replace(TINY, condensed=tmp_path / "set")
    whole = run(config, splits=small_digits())
    with monkeypatch.context() as patch:
        interrupt(patch, Learner, "step", 3)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "run", small_digits())
    other = replace(config, condensed=tmp_path / "other")
    with pytest.raises(ValueError, match="was trained with other settings: data recipe"):
        run(other, tmp_path / "run", small_digits(), resume=True)
    with pytest.raises(ValueError, match="was trained with other settings"):
        run(TINY, tmp_path / "run", small_digits(), resume=True)
    moved = (tmp_path / "set").rename(tmp_path / "moved")
    resumed = run(replace(config, condensed=moved), tmp_path / "run", small_digits(), resume=True)
    assert same_weights(resumed.model, whole.model)


def test_a_wrong_set_is_named(capsys, tmp_path):
    status, _, err = call(capsys, "train", "--condensed", tmp_path, "--out", tmp_path / "run")
    assert status == 1
    assert f"no condensed set in {tmp_path}" in err
    CondensedSet(torch.rand(10, 1, 9, 9), torch.arange(10)).save(tmp_path)
    status, _, err = call(capsys, "train", "--condensed", tmp_path, "--out", tmp_path / "run")
    assert status == 1
    assert "the condensed images are [1, 9, 9] and those of digits [1, 8, 8]" in err
    assert not (tmp_path / "run").exists()


def test_from_the_command_line(capsys, folder, tmp_path):
    options = ["--width", 4, "--epochs", 2, "--device", "cpu", "--out", tmp_path / "run"]
    found = answer(capsys, "train", "--condensed", folder, *options)
    assert found["protocol"]["sizes"]["train"] == 10
    written = json.loads((tmp_path / "run" / "results.json").read_text())
    assert written["config"]["condensed"] == str(folder)
