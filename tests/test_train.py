"""The training loop: it learns, follows its seed, and takes any data."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from train_runs import TINY, interrupt, loop, run, same_weights, small_digits, splits_of

import hashfast
from hashfast import losses
from hashfast.data import ArrayDataset, FileDataset, UnreadableImage, load, load_folder
from hashfast.hashing import HashModel, RandomProjection, TrainConfig, encode_dataset, train
from hashfast.hashing.learner import Learner
from hashfast.metrics import evaluate


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def small():
    return small_digits()


@pytest.mark.parametrize(("method", "bar"), [("orthohash", 0.7), ("csq", 0.6)])
def test_a_short_run_beats_random_projections_by_far(digits, method, bar):
    config = replace(TINY, method=method, bits=16, width=16, epochs=8)
    result = run(config, splits=digits)
    projection = RandomProjection(16).fit(digits.train.images.flatten(1).float())
    codes = [
        hashfast.pack(projection(part.images.flatten(1).float()))
        for part in (digits.query, digits.database)
    ]
    baseline = evaluate(*codes, digits.query.labels, digits.database.labels, topk=1000).map
    assert result.report.map > bar
    assert baseline < bar - 0.1
    # What is returned is the model that was evaluated.
    query, database = (encode_dataset(result.model, p) for p in (digits.query, digits.database))
    again = evaluate(query.codes, database.codes, query.labels, database.labels, topk=1000)
    assert again.map == result.report.map
    assert not result.model.training


def test_two_epochs_of_fashion_mnist(fashion_mnist):
    """Random projections of the pixels reach 0.40 here, an untrained network 0.39."""
    part = fashion_mnist.database.subset(range(0, 64_000, 16))
    config = TrainConfig(
        method="orthohash", quantization="hswd", width=16, epochs=2, learning_rate=3e-3
    )
    assert run(config, splits=replace(fashion_mnist, database=part)).report.map > 0.62


def test_the_seed_decides_everything(small):
    config = replace(TINY, quantization="hswd", epochs=2)
    torch.manual_seed(1)
    first = run(config, splits=small)
    torch.manual_seed(2)
    again = run(config, splits=small)
    other = run(replace(config, seed=1), splits=small)
    assert same_weights(first.model, again.model)
    assert first.results["report"] == again.results["report"]
    for name, value in first.model.state_dict().items():
        if value.is_floating_point() and value.std() > 0:
            assert not value.equal(other.model.state_dict()[name]), name


@pytest.mark.parametrize("method", losses.METHODS)
def test_multi_label_data_of_your_own(method):
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(64, 3, generator=generator) < 0.4).float()
    noise = torch.randint(30, (64, 3, 8, 8), generator=generator)
    pixels = (noise + 200 * labels[:, :, None, None]).to(torch.uint8)
    splits = splits_of(ArrayDataset(pixels, labels), 3, multi_label=True)
    result = run(replace(TINY, method=method, backbone="pixels", width=None), splits=splits)
    assert result.results["protocol"]["name"] == "own"
    assert (
        result.report.map
        > evaluate(
            *[torch.zeros(n, 1, dtype=torch.uint8) for n in (16, 64)],
            splits.query.labels,
            labels,
            topk=20,
        ).map
        + 0.1
    )  # identical codes: every item at one distance


@pytest.fixture
def colours(tmp_path):
    """Three class folders of 20 pictures of different sizes, each class a colour."""
    generator = np.random.default_rng(0)
    for c, name in enumerate(("blue", "green", "red")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(20):
            pixels = generator.integers(0, 100, (24 + i, 30, 3), dtype=np.uint8)
            pixels[..., c] += 120
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{i}.png")
    return tmp_path / "pictures"


def test_the_model_returned_holds_no_gradients(small):
    result = run(replace(TINY, epochs=1), splits=small)
    assert not result.model.training
    assert all(parameter.grad is None for parameter in result.model.parameters())


def test_a_folder_of_pictures(colours, tmp_path):
    splits = load_folder(colours, image_size=16, query=0.2)
    assert isinstance(splits.train, FileDataset)
    config = replace(TINY, epochs=3, batch_size=16, quantization="hswd")
    result = run(config, tmp_path / "run", splits)
    assert result.report.map > 0.9
    assert result.model.config.mean == (0.485, 0.456, 0.406)
    assert same_weights(run(replace(config, workers=2), splits=splits).model, result.model)
    model = HashModel.from_pretrained(tmp_path / "run")
    path = splits.database.path(0)
    assert torch.equal(model.encode(path), encode_dataset(model, splits.database).codes[:1])


def test_unreadable_pictures(colours):
    splits = load_folder(colours, image_size=16, query=0.2)
    config = replace(TINY, epochs=1, batch_size=16)
    query, trained = Path(splits.query.path(2)), Path(splits.train.path(7))
    query.write_bytes(b"")
    with pytest.warns(UserWarning, match=rf"1 unreadable pictures .*{query.name}"):
        result = run(config, splits=splits)
    assert len(result.results["unreadable"]) == 1
    assert str(query) in result.results["unreadable"][0]
    assert result.report.queries == len(splits.query) - 1
    trained.write_bytes(b"")
    with pytest.warns(UserWarning, match="2 unreadable pictures were left out"):
        result = run(config, splits=splits)
    assert any(str(trained) in reason for reason in result.results["unreadable"])
    for i in range(len(splits.train)):
        Path(splits.train.path(i)).write_bytes(b"")
    with pytest.raises(UnreadableImage, match="no training picture is readable"):
        run(config, splits=splits)


def test_a_run_stopped_after_training_knows_what_it_could_not_read(colours, tmp_path, monkeypatch):
    splits = load_folder(colours, image_size=16, query=0.2)
    splits = replace(splits, database=splits.query.subset(range(6)))
    trained = Path(splits.train.path(7))
    trained.write_bytes(b"")
    config = replace(TINY, epochs=1, batch_size=16)
    with monkeypatch.context() as patch:
        interrupt(patch, loop.Run, "evaluate", 1)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "run", splits)
    with pytest.warns(UserWarning, match="1 unreadable pictures were left out"):
        result = run(config, tmp_path / "run", splits, resume=True)
    assert str(trained) in result.results["unreadable"][0]


def test_batch_norm_refuses_batches_of_one(small):
    with pytest.raises(ValueError, match="batch_size must be at least 2"):
        run(replace(TINY, method="orthohash", batch_size=1), splits=small)


def test_labels_are_checked_before_training(monkeypatch):
    interrupt(monkeypatch, Learner, "step", 1)
    pixels = torch.randint(256, (12, 1, 8, 8), dtype=torch.uint8)
    with pytest.raises(ValueError, match="num_classes=2 expects ids 0 to 1"):
        run(TINY, splits=splits_of(ArrayDataset(pixels, torch.arange(12) % 3), 2))
    with pytest.raises(ValueError, match="class ids -1 to -1"):
        run(TINY, splits=splits_of(ArrayDataset(pixels), 2))
    with pytest.raises(ValueError, match="learns from classes and own has 1; put the pictures"):
        run(TINY, splits=splits_of(ArrayDataset(pixels, torch.zeros(12).long()), 1))
    wide = ArrayDataset(pixels[..., [*range(8), 0, 0]], torch.arange(12) % 2)
    with pytest.raises(ValueError, match="8x10; models take square ones"):
        run(TINY, splits=splits_of(wide, 2))


def test_progress_goes_to_stderr(small, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(replace(TINY, epochs=2), splits=small)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "orthohash 8 bits" in captured.err
    assert "6/6" in captured.err
    run(replace(TINY, epochs=1), splits=small)
    assert capsys.readouterr().err == ""
