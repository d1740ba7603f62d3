"""Frozen backbones: features computed once, and a head that is trained and evaluated on them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from distill_runs import CLASSES, encoded_features, own_pictures, write_pictures
from PIL import Image
from torch import nn
from train_runs import TINY, interrupt, lines, run, same_weights, small_digits, splits_of

from hashfast import data
from hashfast._cache import ArrayCache
from hashfast.augment import build_augmentation
from hashfast.data import ArrayDataset, UnreadableImage
from hashfast.hashing import HashModel, ModelConfig, backbones, encode_dataset
from hashfast.hashing.evaluation import encode_part
from hashfast.hashing.features import BATCH, FeatureCache, FeatureDataset, described_part
from hashfast.hashing.learner import Learner
from hashfast.hashing.train import build_learner
from hashfast.metrics import evaluate

pytestmark = pytest.mark.usefixtures("one_thread")

FROZEN = replace(TINY, method="csq", frozen=True, epochs=2)
TWO_VIEWS = replace(FROZEN, method="cibhash", feature_views=3)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def small():
    return small_digits()


def fresh_model(seed=0, bits=8, head="linear", shape=(1, 8, 8)):
    torch.manual_seed(seed)
    channels = (0.5,) * shape[0]
    return HashModel(ModelConfig("convnet3", bits, head, shape, 4, channels, channels)).eval()


def features_of(folder, splits, *view, seed=0, **options):
    cache = FeatureCache(fresh_model(seed=seed, **options), ArrayCache(folder))
    return cache.of(splits, "train", *view)


class Normed(nn.Module):
    """A network with statistics that move whenever it sees images in training mode."""

    num_features = 6

    def __init__(self, in_channels, image_size):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5)
        )

    def forward(self, images):
        return self.layers(images).mean((2, 3))


# Training


@pytest.mark.parametrize("method", ["csq", "orthohash", "cibhash", "tbh", "mecoq", "bihalf"])
def test_the_head_learns_and_the_backbone_does_not_move(small, monkeypatch, method):
    monkeypatch.setitem(backbones.OWN_BACKBONES, "normed", Normed)
    changes = {"backbone": "normed", "width": None, "weight_decay": 0.1, "epochs": 1}
    config = replace(FROZEN, method=method, **changes)
    start = build_learner(config, small, CPU).model.state_dict()
    frozen = run(config, splits=small).model.state_dict()
    for name, value in frozen.items():
        if name.startswith("backbone."):
            assert value.equal(start[name]), name
    assert any(not value.equal(start[name]) for name, value in frozen.items())
    if method == "csq":  # all of it moves where it is not frozen
        moved = run(replace(config, frozen=False), splits=small).model.state_dict()
        assert not moved["backbone.layers.1.running_mean"].equal(
            start["backbone.layers.1.running_mean"]
        )


def test_features_are_computed_once_and_for_all_runs(small, monkeypatch, tmp_path):
    seen = encoded_features(monkeypatch)
    config = replace(TWO_VIEWS, cache=tmp_path / "cache", evaluate_every=1)
    first = run(config, splits=small)
    sizes = [97] * config.feature_views + [len(small.query), len(small.database)]
    assert sum(seen) == sum(sizes)
    seen.clear()
    again = run(config, splits=small)
    other = run(replace(config, bits=16, learning_rate=1e-3), splits=small)
    assert seen == []
    assert same_weights(first.model, again.model)
    assert first.results["report"] == again.results["report"]
    assert other.model.bits == 16
    # Without a folder the features last for the run.
    alone = run(replace(config, cache=None), splits=small)
    assert sum(seen) == sum(sizes)
    assert same_weights(first.model, alone.model)


def test_one_view_of_the_images_themselves_equals_training_the_head_alone(small):
    """The same batches, outputs and losses as a whole network whose backbone has no rate."""
    config = replace(FROZEN, method="csq", optimizer="sgd", momentum=0.0)
    frozen = run(config, splits=small)
    whole = run(replace(config, frozen=False, backbone_learning_rate_scale=1e-30), splits=small)
    torch.testing.assert_close(
        frozen.model.state_dict(), whole.model.state_dict(), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("head", ["linear", "bn", "mlp", "pq"])
def test_evaluation_from_features_is_that_of_the_whole_model(small, tmp_path, head):
    model = fresh_model(head=head)
    cache = FeatureCache(model, ArrayCache(tmp_path))
    for part in ("query", "train", "database"):
        whole = encode_part(model, small, part)
        kept = encode_part(model, small, part, features=cache)
        for ours, theirs in zip(kept[:4], whole[:4], strict=True):
            assert ours.equal(theirs)
            assert ours.dtype == theirs.dtype


def test_a_trained_model_is_the_one_that_was_evaluated(small):
    result = run(FROZEN, splits=small)
    query, database = (encode_dataset(result.model, p) for p in (small.query, small.database))
    labels = query.labels, database.labels
    again = evaluate(query.codes, database.codes, *labels, topk=small.topk)
    assert again.map == result.report.map


@pytest.mark.parametrize("method", ["csq", "cibhash", "tbh", "mecoq"])
def test_a_resumed_run_equals_an_uninterrupted_one(small, monkeypatch, tmp_path, method):
    config = replace(TWO_VIEWS, method=method, epochs=3, cache=tmp_path / "cache")
    whole = run(config, tmp_path / "whole", small)
    for call in (5, 3):  # in the second epoch, in the third: three steps each
        with monkeypatch.context() as patch:
            interrupt(patch, Learner, "step", call)
            with pytest.raises(KeyboardInterrupt):
                run(config, tmp_path / "resumed", small, resume=True)
    torch.manual_seed(99)
    other = replace(config, cache=tmp_path / "elsewhere")  # where features lie may change
    resumed = run(other, tmp_path / "resumed", small, resume=True)
    assert same_weights(resumed.model, whole.model)
    assert lines(tmp_path / "resumed") == lines(tmp_path / "whole")


@pytest.mark.parametrize(
    "change", [{"augment": "none"}, {"feature_views": 1}, {"method": "dhd", "feature_views": 1}]
)
def test_two_views_need_two_kept(small, change):
    with pytest.raises(ValueError, match=r"compares two views .* feature_views of at least 2"):
        run(replace(TWO_VIEWS, **change), splits=small)
    with pytest.raises(ValueError, match="feature_views is 0; it must be at least 1"):
        replace(FROZEN, feature_views=0)


def test_a_step_compares_two_of_the_views_kept(small):
    learner = build_learner(TWO_VIEWS, small, CPU)
    features = torch.arange(3.0).view(1, 3, 1).expand(5, 3, 7)
    pairs = {tuple(int(view()[4, 6]) for view in learner._views(features)) for _ in range(60)}
    assert pairs == {(a, b) for a in range(3) for b in range(3) if a != b}


# What is kept


def test_features_are_those_of_the_backbone(small, tmp_path):
    model = fresh_model()
    found = FeatureCache(model.train(), ArrayCache(tmp_path)).of(small, "train")
    assert model.training
    features, labels, indices = found.batch([5, 2])
    with torch.no_grad():
        expected = model.eval().features(small.train.images)
    assert features.shape == (2, 1, model.backbone.num_features)
    torch.testing.assert_close(features[:, 0], expected[[5, 2]], rtol=1e-5, atol=1e-6)
    assert labels.tolist() == small.train.labels[[5, 2]].tolist()
    assert indices.tolist() == [5, 2]
    assert len(found) == 97
    one, label, index = found[5]
    assert one.equal(features[0])
    assert (label, index) == (int(small.train.labels[5]), 5)
    assert found.batch([])[0].shape == (0, 1, model.backbone.num_features)


def test_views_differ_and_repeat_with_their_seed(small, tmp_path):
    augmentation = build_augmentation("cibhash", (1, 8, 8), 1.0)

    def views(folder, seed):
        torch.manual_seed(torch.seed())  # nothing depends on what was drawn before
        found = features_of(tmp_path / folder, small, augmentation, "cibhash", 2, seed)
        return found.batch(range(97))[0].unbind(1)

    one, two = views("a", 0)
    assert not torch.isclose(one, two).all(1).any()  # no image has the same view twice
    plain = features_of(tmp_path / "a", small).batch(range(97))[0][:, 0]
    assert not torch.isclose(one, plain).all(1).any()
    for ours, theirs in zip(views("b", 0), (one, two), strict=True):
        assert ours.equal(theirs)
    assert not any(ours.equal(theirs) for ours in views("a", 1) for theirs in (one, two))


def test_no_draws_come_twice_in_a_set(tmp_path):
    """Of one image many times over, and more often than go through the network at once."""
    image = torch.randint(256, (1, 1, 8, 8), dtype=torch.uint8)
    dataset = ArrayDataset(image.repeat(2 * BATCH, 1, 1, 1), torch.zeros(2 * BATCH).long())
    augmentation = build_augmentation("cibhash", (1, 8, 8))
    found = features_of(tmp_path, splits_of(dataset, 1), augmentation, "cibhash")
    views = found.batch(range(2 * BATCH))[0][:, 0]
    assert not torch.isclose(views[:BATCH], views[BATCH:]).all(1).any()


def test_the_key_is_all_that_features_depend_on(small, monkeypatch, tmp_path):
    seen = encoded_features(monkeypatch)
    standard, noisy = (build_augmentation(name, (1, 8, 8)) for name in ("standard", "cibhash"))
    fewer = replace(small, train=small.train.subset(range(40)))
    images = small.train.images.clone()
    images[5, 0, 3, 3] += 1
    changed = replace(small, train=ArrayDataset(images, small.train.labels))
    renamed = replace(small, seed=5)

    def computed(splits=small, *view, **options):
        seen.clear()
        features_of(tmp_path, splits, *view, **options)
        return bool(seen)

    for case, arguments, options in [
        ("first", (), {}),
        ("other weights", (), {"seed": 1}),
        ("fewer images", (fewer,), {}),
        ("other images", (changed,), {}),
        ("augmented", (small, standard, "standard"), {}),
        ("other augmentation", (small, noisy, "cibhash"), {}),
        ("other seed", (small, noisy, "cibhash", 1, 7), {}),
        ("one more view", (small, noisy, "cibhash", 2), {}),
    ]:
        assert computed(*arguments, **options), case
        assert not computed(*arguments, **options), case
    assert not computed(renamed)  # the same images under another name
    for case, options in [("other bits", {"bits": 16}), ("other head", {"head": "mlp"})]:
        assert not computed(**options), case
    seen.clear()
    FeatureCache(fresh_model(), ArrayCache(tmp_path)).of(small, "query")
    assert seen == [len(small.query)]


def test_the_strength_of_views_is_part_of_the_key(small, monkeypatch, tmp_path):
    seen = encoded_features(monkeypatch)
    config = replace(FROZEN, method="dhd", feature_views=2, epochs=1, cache=tmp_path)
    run(config, splits=small)
    seen.clear()
    run(replace(config, augment_scale=1.0), splits=small)
    assert sum(seen) == 2 * 97


def test_folders_with_the_same_names_have_features_of_their_own(tmp_path):
    one, two = (
        own_pictures(write_pictures(tmp_path / name, seed)) for seed, name in enumerate("ab")
    )
    assert one.describe() == two.describe()
    assert described_part(one, "train") != described_part(two, "train")
    model = fresh_model(shape=(3, 8, 8))
    cache = FeatureCache(model, ArrayCache(tmp_path / "cache"))
    first, second = (cache.of(splits, "train").batch([0])[0] for splits in (one, two))
    assert not first.equal(second)


def test_an_interruption_leaves_no_half_file(monkeypatch, tmp_path):
    whole = data.load("digits")  # three chunks and more of the database
    model, arrays = fresh_model(), ArrayCache(tmp_path / "cache")
    with monkeypatch.context() as patch:
        interrupt(patch, HashModel, "features", 3)
        with pytest.raises(KeyboardInterrupt):
            FeatureCache(model, arrays).of(whole, "database")
    assert list((tmp_path / "cache").iterdir()) == []
    found = FeatureCache(model, arrays).of(whole, "database").batch(range(len(whole.database)))[0]
    alone = FeatureCache(model, ArrayCache(None)).of(whole, "database")
    assert found.equal(alone.batch(range(len(whole.database)))[0])


def test_a_picture_that_changes_under_its_name_is_seen(tmp_path):
    splits = own_pictures(write_pictures(tmp_path / "pictures"))
    cache = FeatureCache(fresh_model(shape=(3, 8, 8)), ArrayCache(tmp_path / "cache"))
    before = cache.of(splits, "train").batch([0, 1])[0]
    assert cache.of(splits, "train").batch([0, 1])[0].equal(before)
    Image.new("RGB", (20, 20), (0, 200, 0)).save(splits.train.path(0))
    after = cache.of(splits, "train").batch([0, 1])[0]
    assert not after[0].equal(before[0])
    torch.testing.assert_close(after[1], before[1])


# Pictures that cannot be read


@pytest.fixture
def pictures(tmp_path):
    """Splits whose training picture 3 and query 1 cannot be read."""
    splits = own_pictures(write_pictures(tmp_path / "pictures"))
    for path in (splits.train.path(3), splits.query.path(1)):
        Path(path).write_bytes(b"")
    return splits


def test_unreadable_pictures_are_left_out_once(pictures, monkeypatch, tmp_path):
    config = replace(FROZEN, batch_size=6, cache=tmp_path / "cache")
    seen = encoded_features(monkeypatch)
    with pytest.warns(UserWarning, match="^2 unreadable pictures were left out") as warned:
        first = run(config, splits=pictures)
    assert sum("unreadable" in str(w.message) for w in warned) == 1
    named = [f"item 3 ({pictures.train.path(3)}) could", f"item 1 ({pictures.query.path(1)}) could"]
    listed = first.results["unreadable"]
    assert [text.partition(" not")[0] for text in listed] == named
    readable = len(pictures.train) - 1, len(pictures.query) - 1
    assert sum(seen) == sum(readable)  # the database is the training set
    assert first.report.queries == readable[1]
    seen.clear()
    with pytest.warns(UserWarning, match="^2 unreadable pictures were left out"):
        again = run(config, splits=pictures)
    assert again.results["unreadable"] == listed
    assert seen == []
    assert same_weights(first.model, again.model)
    assert again.report.queries == readable[1]


def test_the_others_keep_their_place(pictures, tmp_path):
    cache = FeatureCache(fresh_model(shape=(3, 8, 8)), ArrayCache(tmp_path / "cache"))
    found = cache.of(pictures, "train")
    assert found.unreadable == {3: f"item 3 ({pictures.train.path(3)}) could not be read"}
    features, labels, indices = found.batch(range(len(found)))
    assert indices.tolist() == [i for i in range(len(found)) if i != 3]
    assert labels.equal(pictures.train.labels[indices])
    with torch.inference_mode():
        images = torch.stack([pictures.train[int(i)][0] for i in indices])
        expected = cache.model.features(images)
    torch.testing.assert_close(features[:, 0], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(UnreadableImage, match="item 3 could not be read"):
        found[3]
    assert found.batch([3])[0].shape[0] == 0


def test_no_readable_picture(pictures):
    for row in range(len(pictures.train)):
        Path(pictures.train.path(row)).write_bytes(b"")
    with pytest.raises(UnreadableImage, match="no picture is readable, the first: "):
        run(FROZEN, splits=pictures)


# Errors


def test_features_that_are_not_finite_name_the_image(small, tmp_path):
    model = fresh_model()

    class Spoilt(nn.Module):
        num_features = 3

        def forward(self, images):
            features = images.flatten(1)[:, :3].clone()
            features[4, 1] = torch.nan
            return features

    model.backbone = Spoilt()
    with pytest.raises(ValueError, match="item 4: the model's outputs are not finite"):
        FeatureCache(model, ArrayCache(tmp_path)).of(small, "train")
    assert list(tmp_path.iterdir()) == []


def test_labels_have_to_be_known(small):
    wrapped = data.wrap([(image, label) for image, label, _ in small.train], 8, 1)
    views = [np.zeros((97, 2), np.float32)]
    with pytest.raises(TypeError, match="give it a `labels` attribute"):
        FeatureDataset(views, wrapped)


def test_multi_hot_labels():
    pixels = torch.randint(256, (48, 1, 8, 8), dtype=torch.uint8)
    labels = (torch.rand(48, CLASSES) < 0.5).float()
    splits = splits_of(ArrayDataset(pixels, labels), CLASSES, multi_label=True)
    assert features_of(None, splits)[7][1].equal(labels[7])
    assert run(FROZEN, splits=splits).report.queries == 12
