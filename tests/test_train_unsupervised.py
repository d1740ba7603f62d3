"""Training without labels: each method's head and inputs, its views, and continued runs."""

from dataclasses import replace

import pytest
import torch
from train_runs import TINY, interrupt, lines, run, same_weights, small_digits

from hashfast.augment import ContrastiveViews
from hashfast.data import ArrayDataset, wrap
from hashfast.hashing import HashModel, ModelConfig, TrainConfig
from hashfast.hashing.learner import Learner, augmentation_name, training_views
from hashfast.hashing.methods import build_criterion, build_unsupervised
from hashfast.hashing.network import Network
from hashfast.hashing.train import build_learner
from hashfast.losses import METHODS, UNSUPERVISED

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
every_method = pytest.mark.parametrize("method", UNSUPERVISED)


def config_of(method, **changes):
    return replace(TINY, method=method, epochs=2, learning_rate=1e-3, **changes)


@pytest.fixture(scope="module")
def small():
    return small_digits()


class Mirrored(torch.nn.Module):
    def forward(self, images):
        return images.flip(3)


def relabelled(splits, labels):
    return replace(splits, train=ArrayDataset(splits.train.images, labels))


@every_method
def test_a_run_without_labels(small, tmp_path, method):
    result = run(config_of(method), tmp_path, small)
    start = build_learner(config_of(method), small, CPU).model.state_dict()
    for name, value in result.model.state_dict().items():
        assert not value.equal(start[name]), name
    assert result.model.config.head == UNSUPERVISED[method].head
    assert same_weights(HashModel.from_pretrained(tmp_path), result.model)
    assert result.results["config"]["method"] == method
    assert all({"loss", "similarity"} <= line.keys() for line in lines(tmp_path))
    # Labels are for the evaluation: other ones, or none, give the same model.
    shuffled = run(config_of(method), splits=relabelled(small, small.train.labels.flip(0)))
    nothing = run(config_of(method), splits=relabelled(small, None))
    assert same_weights(shuffled.model, result.model)
    assert same_weights(nothing.model, result.model)


def test_views_of_an_image_come_to_have_one_code(small, tmp_path):
    """What CIBHash learns: its loss falls below log(2M - 1) = 4.1, that of any codes."""
    config = replace(config_of("cibhash"), bits=16, width=16, epochs=12)
    run(config, tmp_path, small)
    losses = [line["loss"] for line in lines(tmp_path)]
    assert sum(losses[-3:]) / 3 < 3.85
    assert losses[0] > 4.0


@every_method
def test_the_loss_gets_what_it_names(small, monkeypatch, method):
    """At the first step: outputs of the network, and what lies on the way to them."""
    loss, seen = UNSUPERVISED[method], []
    real = loss.similarity

    def similarity(self, outputs, **inputs):
        seen.append((outputs.detach(), inputs))
        return real(self, outputs, **inputs)

    monkeypatch.setattr(loss, "similarity", similarity)
    learner = build_learner(config_of(method, augment="none"), small, CPU)
    images = small.train.batch(range(8))
    with torch.no_grad():
        model = learner.model
        features = model.features(images[0])
        outputs = model.head(features)
        expected = {"u2": model(images[0].flip(3)), "features": features}
        if method == "tbh":
            expected["hidden"] = model.head.hidden(features)
        if method == "mecoq":
            expected["codebooks"] = model.head.codebooks.clone()
    learner.second_view = Mirrored()
    learner.loss(0, images, [8])
    assert len(seen) == 1
    assert seen[0][0].equal(outputs)
    assert set(seen[0][1]) == set(loss.needs)
    for name, value in seen[0][1].items():
        assert value.detach().equal(expected[name]), name
        assert value.requires_grad == (name != "features"), name


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("head", ["linear", "mlp", "pq"])
def test_the_network_gives_what_is_asked_for(head, frozen):
    model = HashModel(ModelConfig("convnet3", 6, head, (1, 8, 8), 4, (0.5,), (0.5,)))
    images = torch.rand(5, 1, 8, 8)
    features = model.features(images)
    asked = {"linear": "features", "mlp": "hidden", "pq": "codebooks"}[head]
    outputs, found = Network(model, ("u2", "index", asked), frozen)(features if frozen else images)
    assert outputs.equal(model(images))
    assert list(found) == [asked]
    assert Network(model, ("u2",), frozen)(features if frozen else images)[1] == {}
    expected = {
        "linear": lambda: features,
        "mlp": lambda: model.head.hidden(features),
        "pq": lambda: model.head.codebooks,
    }
    assert found[asked].equal(expected[head]())


# Views


@pytest.mark.parametrize(
    ("method", "second", "found"),
    [
        ("cibhash", "u2", "cibhash"),
        ("mecoq", "u2", "cibhash"),
        ("dhd", "u_student", "dhd"),
        ("bihalf", None, "none"),
        ("tbh", None, "none"),
        ("csq", None, "none"),
    ],
)
def test_auto_is_what_a_method_was_published_with(method, second, found):
    needs = {**METHODS, **UNSUPERVISED}[method].needs
    assert second is None or second in needs
    for augment in ("auto", "none", "standard", "cibhash"):
        config = replace(TINY, method=method, augment=augment)
        expected = found if augment == "auto" else augment
        assert augmentation_name(config, second) == expected


def test_both_views_of_cibhash_are_as_strong(small):
    config = replace(TINY, method="cibhash", augment_scale=0.1)
    views = training_views(config, "u2", (1, 8, 8))
    assert [type(view.steps) for view in views] == [ContrastiveViews] * 2
    assert [view.steps.scale for view in views] == [1.0, 1.0]
    learner = build_learner(config, small, CPU)
    torch.manual_seed(0)
    first, second = (view() for view in learner._views(small.train.images[:4]))
    assert not torch.isclose(first, second).flatten(1).all(1).any()


@pytest.mark.parametrize("method", ["cibhash", "mecoq"])
def test_the_augmentation_decides_what_is_learnt(small, method):
    config = config_of(method)
    auto, named, other, none = (
        run(replace(config, augment=name), splits=small).model
        for name in ("auto", "cibhash", "standard", "none")
    )
    assert same_weights(auto, named)
    assert not same_weights(auto, other)
    assert not same_weights(auto, none)


# Continued runs


@every_method
def test_a_resumed_run_equals_an_uninterrupted_one(small, monkeypatch, tmp_path, method):
    config = config_of(method, quantization="hswd", warmup_epochs=0.5)
    whole = run(config, tmp_path / "whole", small)
    with monkeypatch.context() as patch:
        interrupt(patch, Learner, "step", 5)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "resumed", small)
    torch.manual_seed(99)
    resumed = run(config, tmp_path / "resumed", small, resume=True)
    assert same_weights(resumed.model, whole.model)
    assert lines(tmp_path / "resumed") == lines(tmp_path / "whole")
    assert "quantization" in lines(tmp_path / "whole")[0]


@pytest.mark.parametrize("change", [{"amp": "bf16"}, {"channels_last": True}, {"amp": "fp16"}])
def test_other_ways_to_compute(small, change):
    for method in ("cibhash", "tbh", "mecoq"):
        assert run(config_of(method, **change), splits=small).report.queries == len(small.query)


# Data and errors


def test_items_without_labels(small):
    """Of which nothing but the images is known, and that by reading them."""
    splits = replace(small, train=wrap([(image, 0) for image, _, _ in small.train], 8, 1))
    start = build_learner(config_of("bihalf"), splits, CPU).model
    assert not same_weights(run(config_of("bihalf"), splits=splits).model, start)


def test_unknown_methods_list_all_that_learn():
    with pytest.raises(ValueError, match=r"unknown method 'cibhsh'; known: csq, .*cibhash.*mecoq"):
        TrainConfig(method="cibhsh")
    with pytest.raises(ValueError, match="cibhash has no argument 'tau'; its arguments: "):
        TrainConfig(method="cibhash", options=("tau=0.3",))
    with pytest.raises(ValueError, match="cibhash compares no pairs and has no memory bank"):
        TrainConfig(method="cibhash", memory_bank=True)
    with pytest.raises(ValueError, match="unknown augmentation 'cibhsh'; known: auto, none"):
        TrainConfig(method="cibhash", augment="cibhsh")


def test_what_needs_labels_says_so(small):
    with pytest.raises(ValueError, match="tbh learns without labels, and here is one needed"):
        build_criterion(config_of("tbh"), small)


def test_arguments_and_widths_reach_the_method(small):
    model = HashModel(ModelConfig("convnet3", 8, "mlp", (1, 8, 8), 4, (0.5,), (0.5,)))
    config = config_of("tbh", options=("width=32", "stochastic=true"), quantization="swd")
    criterion = build_unsupervised(config, model)
    assert (criterion.num_features, criterion.num_hidden) == (model.backbone.num_features, 1024)
    assert criterion.stochastic
    assert criterion.continuous.out_features == 32
    assert criterion.quantization == "swd"


def test_a_frozen_network_that_was_never_trained_is_told(small):
    with pytest.warns(UserWarning, match="the frozen convnet3 was never trained"):
        run(config_of("bihalf", frozen=True), splits=small)


def test_collapsed_codes_are_told(small, monkeypatch):
    real = HashModel.forward
    monkeypatch.setattr(HashModel, "forward", lambda self, images: real(self, images) * 0 + 1)
    with pytest.warns(UserWarning, match="collapsed: the database has 1 distinct ones for 10 clas"):
        run(config_of("cibhash", augment="standard"), splits=small)
