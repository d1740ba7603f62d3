"""The training loop: it learns, resumes exactly, refuses to lose anything, and says what it did."""

import json
import math
import os
import pickle
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import hashfast
from hashfast import losses
from hashfast.data import ArrayDataset, FileDataset, Splits, UnreadableImage, load, load_folder
from hashfast.hashing import (
    DivergedError,
    HashModel,
    RandomProjection,
    TrainConfig,
    encode_dataset,
    train,
)
from hashfast.hashing.checkpoint import CHECKPOINT_FILE, load_checkpoint
from hashfast.hashing.loading import shuffled
from hashfast.metrics import evaluate

# `hashfast.hashing.train` is the function, which hides its module.
loop = sys.modules[train.__module__]

TINY = TrainConfig(
    method="orthohash",
    bits=8,
    width=4,
    epochs=4,
    batch_size=32,
    learning_rate=1e-2,
    device="cpu",
)
MOVING = ("seconds", "images_per_second")


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def small(digits):
    """97 training images: four batches of 32, of which the last would be one image."""
    return replace(
        digits,
        train=digits.train.subset(range(0, 500, 5)).subset(range(97)),
        query=digits.query.subset(range(0, 200, 4)),
        database=digits.database.subset(range(0, 1097, 4)),
    )


def run(config, out=None, splits=None, **options):
    return train(config, out, splits=splits, progress=False, **options)


def same_weights(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(ours[k].equal(theirs[k]) for k in ours)


def lines(out, without=MOVING):
    text = (out / "metrics.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    return [{key: value for key, value in row.items() if key not in without} for row in rows]


def interrupt(patch, owner, name, call):
    """Ctrl-C at the `call`-th call (from 1) of a method."""
    real, calls = getattr(owner, name), []

    def method(*args, **kwargs):
        calls.append(name)
        if len(calls) == call:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    patch.setattr(owner, name, method)


def tree(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# It learns


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


# Reproducible, resumable


@pytest.mark.parametrize(
    ("method", "quantization"), [("csq", "hswd"), ("orthohash", "swd"), ("orthohash", "original")]
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path, monkeypatch, small, method, quantization
):
    config = replace(TINY, method=method, quantization=quantization, warmup_epochs=1.5)
    whole = run(config, tmp_path / "whole", small)
    out = tmp_path / "resumed"
    for call in (8, 4):  # in the third epoch, then at the first step of the last: 3 steps each
        with monkeypatch.context() as patch:
            interrupt(patch, loop._Run, "_step", call)
            with pytest.raises(KeyboardInterrupt):
                run(config, out, small, resume=True)
        assert not (out / "results.json").exists()
    assert load_checkpoint(out)["epoch"] == 3
    torch.manual_seed(99)
    resumed = run(config, out, small, resume=True)
    assert same_weights(resumed.model, whole.model)
    assert resumed.model.fingerprint() == whole.model.fingerprint()
    assert resumed.results["report"] == whole.results["report"]
    assert resumed.results["train_seconds"] > 0
    assert [line["epoch"] for line in lines(out)] == [1, 2, 3, 4]
    assert lines(out) == lines(tmp_path / "whole")
    saved = HashModel.from_pretrained(out)
    assert same_weights(saved, whole.model)


class Learnt(losses.CSQ):
    """A loss with a parameter, a buffer that moves and a schedule of its own."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.register_buffer("moving", torch.zeros(()))
        self.epoch = -1

    def start_epoch(self, epoch):
        self.epoch = epoch

    def similarity(self, outputs, labels):
        self.moving += 1
        return super().similarity(self.scale * outputs, labels) * (1 + self.epoch + self.moving)


def test_the_state_of_the_loss_is_resumed_too(tmp_path, monkeypatch, small):
    monkeypatch.setitem(losses.METHODS, "learnt", Learnt)
    config = replace(TINY, method="learnt")
    run(config, tmp_path / "whole", small)
    with monkeypatch.context() as patch:
        interrupt(patch, loop._Run, "_step", 8)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "resumed", small)
    run(config, tmp_path / "resumed", small, resume=True)
    whole, resumed = (load_checkpoint(tmp_path / name) for name in ("whole", "resumed"))
    for key in ("model", "criterion"):
        assert all(whole[key][name].equal(resumed[key][name]) for name in whole[key]), key
    assert resumed["criterion"]["moving"] == 12
    assert resumed["criterion"]["scale"] != 1


@pytest.mark.parametrize(
    ("name", "call", "epoch"),
    [
        ("_save", 4, 3),  # trained, not saved
        ("_evaluate", 1, 4),  # all saved, not evaluated
    ],
)
def test_a_run_stopped_near_its_end_resumes(tmp_path, monkeypatch, small, name, call, epoch):
    whole = run(TINY, tmp_path / "whole", small)
    out = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        interrupt(patch, loop._Run, name, call)
        with pytest.raises(KeyboardInterrupt):
            run(TINY, out, small)
    assert load_checkpoint(out)["epoch"] == epoch
    assert same_weights(run(TINY, out, small, resume=True).model, whole.model)
    assert lines(out) == lines(tmp_path / "whole")


@pytest.mark.parametrize("name", ["write_text", "save_checkpoint"])
def test_metrics_and_checkpoint_agree_after_a_stop_between_them(tmp_path, monkeypatch, small, name):
    whole = run(TINY, tmp_path / "whole", small)
    out = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        interrupt(patch, loop, name, 4)
        with pytest.raises(KeyboardInterrupt):
            run(TINY, out, small)
    assert same_weights(run(TINY, out, small, resume=True).model, whole.model)
    assert lines(out) == lines(tmp_path / "whole")


def test_resuming_a_finished_run_changes_nothing(tmp_path, small):
    first = run(TINY, tmp_path, small, resume=True)  # nothing there yet: starts
    kept = {name: content for name, content in tree(tmp_path).items() if name != "README.md"}
    again = run(TINY, tmp_path, small, resume=True)
    assert same_weights(first.model, again.model)
    assert {name: tree(tmp_path)[name] for name in kept} == kept


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


# Nothing is overwritten or mixed


def test_a_run_is_not_overwritten(tmp_path, small):
    run(replace(TINY, epochs=1), tmp_path, small)
    before = tree(tmp_path)
    with pytest.raises(FileExistsError, match=r"holds a run at epoch 1 of 1: continue it with"):
        run(replace(TINY, epochs=1), tmp_path, small)
    (tmp_path / CHECKPOINT_FILE).unlink()
    for resume in (False, True):
        with pytest.raises(FileExistsError, match="holds a model and no checkpoint"):
            run(replace(TINY, epochs=1), tmp_path, small, resume=resume)
    assert tree(tmp_path) == {k: v for k, v in before.items() if k != CHECKPOINT_FILE}


def test_other_settings_are_refused_by_name(tmp_path, small, digits):
    run(replace(TINY, epochs=1), tmp_path, small)
    other = replace(TINY, epochs=1, bits=16, learning_rate=0.5)
    with pytest.raises(ValueError, match=r"bits 8 -> 16; learning_rate 0\.01 -> 0\.5$"):
        run(other, tmp_path, small, resume=True)
    with pytest.raises(ValueError, match=r"other settings: data sizes .*97.* -> .*500"):
        run(replace(TINY, epochs=1), tmp_path, digits, resume=True)
    free = replace(TINY, epochs=1, workers=1, evaluate_every=1, root=Path("x"))
    assert run(free, tmp_path, small, resume=True).results["config"]["workers"] == 1


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path, small):
    out, exploded = tmp_path / "run", tmp_path / "exploded"
    run(replace(TINY, epochs=1), out, small)
    path = out / CHECKPOINT_FILE
    whole = path.read_bytes()
    bomb = pickle.dumps(Bomb(exploded), protocol=2)
    for content in (whole[: len(whole) // 2], b"", bomb):
        path.write_bytes(content)
        for resume in (True, False):
            with pytest.raises(ValueError, match=r"checkpoint\.pt is not a readable checkpoint"):
                run(replace(TINY, epochs=1), out, small, resume=resume)
        assert path.read_bytes() == content
    torch.save(Bomb(exploded), path)
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        run(replace(TINY, epochs=1), out, small, resume=True)
    assert not exploded.exists()
    for foreign, found in (({"format": 2}, "2"), ({"state_dict": {}}, "None"), ([1], "None")):
        torch.save(foreign, path)
        with pytest.raises(ValueError, match=f"has format {found}; this version"):
            run(replace(TINY, epochs=1), out, small, resume=True)


# Options


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision(small, amp):
    full, half = run(TINY, splits=small), run(replace(TINY, amp=amp), splits=small)
    assert all(p.dtype == torch.float32 for p in half.model.parameters())
    difference = [
        float((a.data - b.data).norm() / a.data.norm())
        for a, b in zip(full.model.parameters(), half.model.parameters(), strict=True)
        if a.ndim > 1
    ]
    assert 1e-5 < max(difference) < 1
    assert abs(half.report.map - full.report.map) < 0.1


@pytest.mark.slow
def test_compiled(small):
    config = replace(TINY, epochs=1)
    plain, compiled = run(config, splits=small), run(replace(config, compile=True), splits=small)
    assert isinstance(compiled.model, HashModel)
    ours, theirs = plain.model.state_dict(), compiled.model.state_dict()
    assert ours.keys() == theirs.keys()
    # Adam turns a gradient near 0 into a whole step, so single weights may differ by some steps.
    distance = sum((ours[name] - theirs[name]).float().norm() ** 2 for name in ours) ** 0.5
    assert distance < 0.01 * sum(value.float().norm() ** 2 for value in ours.values()) ** 0.5


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [
        (97, 32, [32, 32, 33]),
        (98, 32, [32, 32, 32, 2]),
        (96, 32, [32, 32, 32]),
        (33, 32, [33]),
        (1, 32, [1]),
        (3, 1, [1, 2]),
    ],
)
def test_a_batch_of_one_joins_the_one_before(n, batch_size, sizes):
    rows = shuffled(n, batch_size, 0, 0)
    assert [len(batch) for batch in rows] == sizes
    assert torch.cat(rows).sort().values.tolist() == list(range(n))


def test_the_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        return tuple(torch.cat(shuffled(50, 8, seed, epoch)).tolist())

    torch.manual_seed(5)
    first = order(3, 2)
    torch.manual_seed(6)
    assert order(3, 2) == first
    assert len({order(seed, epoch) for seed in (0, 1, -1) for epoch in range(3)}) == 9


@pytest.mark.parametrize("warmup", [0, 1, 1.5])
def test_the_learning_rate_warms_up_then_follows_a_cosine(monkeypatch, small, warmup):
    used = []
    real = torch.optim.Adam.step

    def step(self, *args, **kwargs):
        used.append({group["lr"] for group in self.param_groups})
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    run(replace(TINY, learning_rate=0.3, warmup_epochs=warmup), splits=small)
    before = warmup * 3  # steps, of 12
    expected = [
        0.3 * (i + 1) / (before + 1)
        if i < before
        else 0.15 * (1 + math.cos(math.pi * (i - before) / (12 - before)))
        for i in range(12)
    ]
    assert [len(rates) for rates in used] == [1] * 12
    assert np.allclose([rates.pop() for rates in used], expected, rtol=1e-12)
    assert max(expected) <= 0.3
    if warmup == 1:
        assert np.allclose(expected[:4], [0.075, 0.15, 0.225, 0.3])


def test_evaluation_during_training_changes_nothing_but_the_log(tmp_path, monkeypatch, small):
    config = replace(TINY, epochs=5, quantization="hswd")
    plain = run(config, tmp_path / "plain", small)
    config = replace(config, evaluate_every=2)
    watched = run(config, tmp_path / "watched", small)
    assert same_weights(plain.model, watched.model)
    assert ["map" in line for line in lines(tmp_path / "watched")] == [False, True] * 2 + [False]
    assert lines(tmp_path / "watched", (*MOVING, "map")) == lines(tmp_path / "plain")
    with monkeypatch.context() as patch:  # the model as it was after epoch 2
        interrupt(patch, loop._Run, "_step", 7)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "stopped", small)
    plain.model.load_state_dict(load_checkpoint(tmp_path / "stopped")["model"])
    query, database = (encode_dataset(plain.model, part) for part in (small.query, small.database))
    report = evaluate(query.codes, database.codes, query.labels, database.labels, topk=1000)
    assert lines(tmp_path / "watched")[1]["map"] == report.map


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_training_starts_from_given_weights(tmp_path, small, suffix):
    first = run(replace(TINY, epochs=1), splits=small)
    state = first.model.backbone.state_dict()
    path = tmp_path / f"backbone{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    config = replace(TINY, epochs=1, weights=str(path), learning_rate=1e-12)
    result = run(config, splits=small)
    for name, value in result.model.backbone.state_dict().items():
        assert torch.allclose(value, state[name], atol=1e-9)
    assert result.model.config.mean == (0.449,)


# Divergence


def broken(monkeypatch, method, term, call):
    """The term is infinite at its `call`-th call, from 0."""
    real, calls = getattr(method, term), []

    def infinite(self, *args, **kwargs):
        calls.append(term)
        value = real(self, *args, **kwargs)
        return value * torch.inf if len(calls) == call + 1 else value

    monkeypatch.setattr(method, term, infinite)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_epoch(
    tmp_path, monkeypatch, small
):
    config = replace(TINY, method="csq")
    whole = run(config, splits=small)
    with monkeypatch.context() as patch:
        broken(patch, losses.CSQ, "original_quantization", 7)
        with pytest.raises(DivergedError) as caught:
            run(config, tmp_path, small)
    rate = 0.005 * (1 + math.cos(math.pi * 7 / 12))
    message = str(caught.value)
    assert "at step 7 (terms: quantization, loss; learning rate" in message
    assert f"learning rate {rate:.3g})" in message
    assert f"{tmp_path / CHECKPOINT_FILE} holds the last epoch that was fine" in message
    assert {path.name for path in tmp_path.iterdir()} == {CHECKPOINT_FILE, "metrics.jsonl"}
    assert load_checkpoint(tmp_path)["epoch"] == 2
    assert [line["epoch"] for line in lines(tmp_path)] == [1, 2]
    assert same_weights(run(config, tmp_path, small, resume=True).model, whole.model)


def test_a_run_that_diverges_at_once_promises_no_checkpoint(tmp_path, monkeypatch, small):
    broken(monkeypatch, losses.OrthoHash, "similarity", 1)
    with pytest.raises(DivergedError, match=r"step 1 \(terms: similarity, loss") as caught:
        run(TINY, tmp_path / "run", small)
    assert "checkpoint" not in str(caught.value)
    assert list((tmp_path / "run").iterdir()) == []


def test_weights_spoiled_by_the_last_step_of_an_epoch_are_not_kept(tmp_path, monkeypatch, small):
    real = loop._Run._learning_rate
    monkeypatch.setattr(
        loop._Run, "_learning_rate", lambda self, i: math.inf if i == 5 else real(self, i)
    )
    with pytest.raises(DivergedError, match=r"step 5 \(terms: weights; learning rate inf\)"):
        run(TINY, tmp_path, small)
    state = load_checkpoint(tmp_path)
    assert state["epoch"] == 1
    assert all(value.isfinite().all() for value in state["model"].values())


# What is written


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


# Data


def splits_of(dataset, num_classes, **options):
    return Splits(
        name="own",
        query=dataset.subset(range(0, len(dataset), 4)),
        train=dataset,
        database=dataset,
        num_classes=num_classes,
        topk=20,
        image_shape=dataset.image_shape,
        class_names=tuple(map(str, range(num_classes))),
        seed=0,
        **{"multi_label": False, **options},
    )


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


def test_batch_norm_refuses_batches_of_one(small):
    with pytest.raises(ValueError, match="batch_size must be at least 2"):
        run(replace(TINY, method="orthohash", batch_size=1), splits=small)


def test_normalisation_is_that_of_the_training_images():
    pixels = torch.randint(256, (40, 3, 9, 9), dtype=torch.uint8)
    pixels[:, 1] //= 3
    mean, std = loop.channel_statistics(pixels)
    exact = pixels.numpy().astype(np.float64) / 255
    assert np.allclose(mean, exact.mean((0, 2, 3)), atol=1e-6)
    assert np.allclose(std, exact.std((0, 2, 3)), atol=1e-6)


def test_constant_and_nearly_constant_channels_are_not_blown_up():
    pixels = torch.randint(256, (20, 3, 8, 8), dtype=torch.uint8)
    pixels[:, 0], pixels[:, 2] = 255, 7
    pixels[3, 2, 1, 1] = 8
    mean, std = loop.channel_statistics(pixels)
    assert (mean[0], std[0], std[2]) == (1.0, 1.0, 1.0)
    assert 0.2 < std[1] < 0.4
    splits = splits_of(ArrayDataset(pixels, torch.arange(20) % 2), 2)
    model = run(replace(TINY, epochs=1), splits=splits).model
    assert model.config.mean == mean
    assert model.config.std == std
    normalised = (torch.tensor([0.0, 1.0]) - mean[0]) / std[0]
    assert normalised.abs().max() <= 1


# What cannot work is said at once


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "magic"}, "unknown method 'magic'; known: .*csq"),
        ({"quantization": "round"}, "unknown quantization 'round'"),
        ({"backbone": "brain", "width": None}, "unknown backbone 'brain'"),
        ({"data": "mnist"}, "unknown protocol 'mnist'"),
        ({"bits": 2, "method": "csq"}, "10 classes need 10 different codes"),
        ({"quantization": "none", "quantization_weight": 0.5}, "has nothing to weigh"),
    ],
)
def test_unknown_names_and_settings_leave_no_folder(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        run(replace(TINY, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 0}, "bits is 0; it must be at least 1"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be positive"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"warmup_epochs": 4}, "warmup_epochs is 4 of 4 epochs"),
        ({"warmup_epochs": -1}, "warmup_epochs is -1; it must not be negative"),
        ({"evaluate_every": -1}, "evaluate_every is -1"),
        ({"workers": -1}, "workers is -1"),
        ({"amp": "fp8"}, "amp is 'fp8'; expected one of no, bf16, fp16"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_labels_are_checked_before_training(monkeypatch):
    interrupt(monkeypatch, loop._Run, "_step", 1)
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
