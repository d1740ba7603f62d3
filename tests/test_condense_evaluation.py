"""Evaluation of condensed sets: what is trained, on what, how long; comparisons, tables."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from train_runs import small_digits

from hashfast.condense import CondenseConfig, condense, evaluation
from hashfast.condense.classification import CrossEntropy, classify
from hashfast.condense.comparison import Comparison
from hashfast.condense.evaluation import compare, evaluate_set, quick_evaluation
from hashfast.condense.evaluation_config import EvaluationConfig
from hashfast.data import load
from hashfast.hashing import train
from hashfast.hashing.learner import Learner

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = CondenseConfig(ipc=3, width=4, device="cpu", pool_epochs=1)
EVALUATION = EvaluationConfig(
    evaluate_methods=("orthohash",),
    evaluate_bits=8,
    evaluate_steps=12,
    evaluate_learning_rate=1e-2,
    evaluate_seeds=(0, 1),
)


@pytest.fixture(scope="module")
def splits():
    return small_digits()


@pytest.fixture(scope="module")
def chosen(splits):
    """Three real images a class."""
    config = replace(CONFIG, method="random")
    return condense(config, splits=splits, progress=False).condensed


@pytest.fixture
def steps(monkeypatch):
    """How many images every step sees."""
    seen, real = [], Learner.step

    def step(learner, number, batch, counts):
        seen.append(len(batch[0]))
        return real(learner, number, batch, counts)

    monkeypatch.setattr(Learner, "step", step)
    return seen


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"evaluate_methods": ()}, "evaluate_methods is empty"),
        ({"evaluate_seeds": ()}, "evaluate_seeds is empty"),
        ({"evaluate_steps": 0}, "evaluate_steps is 0"),
        ({"evaluate_baselines": ("random", "best")}, "unknown evaluate_baselines best; known"),
        ({"evaluate_methods": ("dhd", "xyz")}, "evaluation: unknown method 'xyz'"),
        ({"evaluate_bits": 0}, "evaluation: bits is 0"),
        ({"evaluate_augment": "xyz"}, "evaluation: unknown augmentation 'xyz'"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        EvaluationConfig(**settings)


@given(st.integers(1, 1000), st.integers(2, 200), st.integers(2, 100))
def test_epochs_are_the_least_with_all_steps(steps, images, batch):
    settings = EvaluationConfig(evaluate_steps=steps, evaluate_batch=batch).training(CONFIG, images)
    # A last batch of one image joins the one before it.
    full, rest = divmod(images, batch)
    an_epoch = full + (rest > 1 or (rest == 1 and full == 0))
    assert (settings.epochs - 1) * an_epoch < steps <= settings.epochs * an_epoch


def test_settings_of_the_condensation_hold_for_its_own_network_and_loss():
    config = CondenseConfig(hashing_options=("tau=0.4",), width=4, backbone="convnet3")
    evaluation = EvaluationConfig(
        evaluate_backbones=("resnetap10", "convnet3"), evaluate_methods=("dpn", "dhd")
    )
    first = evaluation.training(config, 10)
    assert (first.backbone, first.width, first.method) == ("resnetap10", None, "dpn")
    assert first.options == ()
    own = evaluation.training(config, 10, method="dhd", backbone="convnet3", seed=3)
    assert (own.width, own.options, own.seed) == (4, ("tau=0.4",), 3)
    assert EvaluationConfig().backbones(config) == ("convnet3",)


# One set


def test_a_set_is_trained_on_alone_for_the_steps_asked_for(splits, chosen, steps):
    found = evaluate_set(chosen, splits, CONFIG, EVALUATION, seed=1)
    assert steps == [30] * 12
    other = replace(splits, train=splits.train.subset(range(5)))
    assert evaluate_set(chosen, other, CONFIG, EVALUATION, seed=1)["map"] == found["map"]
    settings = EVALUATION.training(CONFIG, 30, seed=1)
    theirs = train(settings, splits=chosen.in_place_of_training_set(splits), progress=False)
    assert found["map"] == theirs.report.map
    assert found["report"] == theirs.report.to_dict()
    np.testing.assert_allclose(found["precision_curve"], theirs.report.precision_curve, atol=1e-6)
    assert json.loads(json.dumps(found)) == found
    assert "accuracy" not in found


@pytest.fixture
def models(monkeypatch):
    """The configurations of the hashing networks that are trained."""
    seen = []

    def keep(*args, **options):
        result = train(*args, **options)
        seen.append(result.model.config)
        return result

    monkeypatch.setattr(evaluation, "train", keep)
    return seen


def test_networks_normalise_by_the_real_images(splits, chosen, models):
    for condensed in (chosen, None):
        evaluate_set(condensed, splits, CONFIG, EVALUATION)
    ours, whole = models
    assert ours.mean == whole.mean
    assert ours.std == whole.std


def test_all_rows_normalise_alike_where_images_are_files(models, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 128, (2, 8, 12, 12, 3), dtype=np.uint8)
    for label, images in zip("ab", pixels, strict=True):
        (tmp_path / label).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / label / f"{i}.png")
    splits = load("folder", tmp_path, image_size=8)
    settings = replace(
        EVALUATION,
        evaluate_steps=2,
        evaluate_seeds=(0,),
        evaluate_baselines=("random",),
        evaluate_whole=True,
    )
    compare(replace(CONFIG, ipc=1), settings, splits, {}, progress=False)
    evaluate_set(None, splits, CONFIG, settings)
    assert len(models) == 3
    assert len({(config.mean, config.std) for config in models}) == 1
    assert max(models[0].mean) < 0.3  # not that of ImageNet


def test_without_a_set_the_whole_training_set_is_trained_on(splits, steps):
    found = evaluate_set(None, splits, CONFIG, EVALUATION)
    assert steps == [64, 33] * 6
    settings = EVALUATION.training(CONFIG, 97)
    assert found["map"] == train(settings, splits=splits, progress=False).report.map


def test_wrong_labels_are_worth_less(splits, chosen):
    config = replace(CONFIG, width=8)
    settings = replace(
        EVALUATION,
        evaluate_bits=16,
        evaluate_steps=40,
        evaluate_learning_rate=3e-2,
        evaluate_accuracy=True,
    )
    by_class = chosen.images.view(10, 3, -1)
    mixed = replace(chosen, images=by_class.transpose(0, 1).reshape(chosen.images.shape))
    right, wrong = (evaluate_set(s, splits, config, settings) for s in (chosen, mixed))
    assert right["map"] > wrong["map"] + 0.1
    assert right["accuracy"] > wrong["accuracy"] + 0.2


# Accuracy


def test_cross_entropy_by_hand():
    criterion = CrossEntropy(2)
    scores = torch.tensor([[0.0, 0.0], [np.log(3), 0.0]], dtype=torch.float64)
    # -log(1/2) and -log(1/4)
    expected = (np.log(2) + np.log(4)) / 2
    torch.testing.assert_close(
        criterion(scores, torch.tensor([0, 1])), torch.tensor(expected, dtype=torch.float64)
    )


def test_accuracy_is_the_share_of_queries_told_right(splits, steps, monkeypatch):
    from hashfast.condense import classification

    shown = []

    def encode(model, dataset, workers):
        assert dataset is splits.query
        assert model.bits == 10
        assert workers == 0
        scores = F.one_hot(dataset.labels, 10).float()
        scores[:20] = scores[:20].roll(1, 1)
        shown.append(model)
        return type("Encoded", (), {"outputs": scores, "labels": dataset.labels})

    settings = replace(EVALUATION.training(CONFIG, 97), epochs=3)
    monkeypatch.setattr(classification, "encode_dataset", encode)
    assert classify(settings, splits) == pytest.approx(30 / 50)
    assert steps == [64, 33] * 3
    classify(settings, splits)
    states = [model.state_dict().values() for model in shown]
    assert all(one.equal(other) for one, other in zip(*states, strict=True))


# Comparisons


def test_a_comparison_has_all_rows_columns_and_seeds(splits, chosen):
    settings = replace(
        EVALUATION,
        evaluate_methods=("orthohash", "dpn"),
        evaluate_accuracy=True,
        evaluate_whole=True,
        evaluate_steps=1,
    )
    asked = []

    def of_seed(seed):
        asked.append(seed)
        return chosen

    sets = {"DM": chosen, "IEM": of_seed}
    found = compare(CONFIG, settings, splits, sets, progress=False)
    assert list(found.results) == ["Random", "Herding", "DM", "IEM", "Whole set"]
    assert found.columns == ["convnet3 orthohash mAP", "convnet3 dpn mAP", "convnet3 accuracy"]
    assert asked == [0, 1]
    assert found.results["DM"]["convnet3 accuracy"] == found.results["IEM"]["convnet3 accuracy"]
    for row, condensed in (("IEM", chosen), ("Whole set", None)):
        alone = evaluate_set(condensed, splits, CONFIG, settings, method="dpn", seed=1)
        assert found.values(row, "convnet3 dpn mAP")[1] == alone["map"]
        assert found.values(row, "convnet3 accuracy")[1] == alone["accuracy"]


def test_selections_are_as_large_and_drawn_for_every_seed(splits, chosen, monkeypatch):
    trained = []

    def keep(settings, *, splits, progress):
        trained.append(splits.train)
        return train(settings, splits=splits, progress=progress)

    monkeypatch.setattr(evaluation, "train", keep)
    settings = replace(EVALUATION, evaluate_steps=1)
    config = replace(CONFIG, factor=2, network_augmentation=True)  # the compared method's own
    compare(config, settings, splits, {}, progress=False)
    assert [len(dataset) for dataset in trained] == [30] * 4
    assert not trained[0].images.equal(trained[1].images)
    assert not trained[2].images.equal(trained[3].images)
    assert not trained[0].images.equal(trained[2].images)
    assert trained[0].images.equal(chosen.dataset().images)


def test_results_are_kept_and_a_comparison_goes_on(splits, chosen, steps, tmp_path):
    settings = replace(EVALUATION, evaluate_baselines=(), evaluate_accuracy=True, evaluate_steps=2)
    out = tmp_path / "runs"
    first = compare(CONFIG, settings, splits, {"a/b c": chosen}, out=out, progress=False)
    assert len(steps) == 8
    names = sorted(path.name.rpartition("-")[0] for path in out.iterdir())
    assert names == [
        f"a-b-c-convnet3-{what}-{seed}" for what in ("accuracy", "orthohash-mAP") for seed in (0, 1)
    ]
    again = compare(CONFIG, settings, splits, {"a/b c": chosen}, out=out, progress=False)
    assert again == first
    assert len(steps) == 8
    next(out.glob("*mAP-1-*")).unlink()
    assert compare(CONFIG, settings, splits, {"a/b c": chosen}, out=out, progress=False)
    assert len(steps) == 10
    other = replace(chosen, images=chosen.images.flip(3))
    compare(CONFIG, settings, splits, {"a/b c": other}, out=out, progress=False)
    assert len(steps) == 18
    compare(CONFIG, replace(settings, evaluate_bits=9), splits, {"a/b c": chosen}, out=out,
            progress=False)  # fmt: skip
    assert len(steps) > 18


def made(*values, key="map"):
    curves = {"pr_curve": {"radius": [0, 1], "precision": [0.9, 0.5], "recall": [0.1, 1.0]}}
    return [{key: value, "report": curves, "precision_curve": [1.0, 0.5]} for value in values]


COMPARISON = Comparison(
    {
        "Random": {"net dhd mAP": made(0.2, 0.4), "net accuracy": made(0.5, 0.5, key="accuracy")},
        "IEM": {"net dhd mAP": made(0.5, 0.6), "net accuracy": made(0.75, 0.25, key="accuracy")},
    },
    (0, 1),
    1000,
)


def test_the_table_by_hand():
    # Sample deviations: 0.2 / sqrt 2, 0, 0.1 / sqrt 2 and 0.5 / sqrt 2.
    assert str(COMPARISON) == (
        "        net dhd mAP    net accuracy\n"
        "Random  0.3000±0.1414  0.5000±0.0000\n"
        "IEM     0.5500±0.0707  0.5000±0.3536\n"
        "mean±deviation of 2 seeds, mAP@1000"
    )
    one = Comparison({"IEM": {"net dhd mAP": made(0.5)}}, (7,), 10)
    assert str(one) == "     net dhd mAP\nIEM  0.5000\none seed, mAP@10"
    assert one.deviation("IEM", "net dhd mAP") is None
    found = COMPARISON.to_dict()
    assert found["seeds"] == [0, 1]
    assert found["rows"]["IEM"]["net accuracy"]["values"] == [0.75, 0.25]
    assert found["rows"]["Random"]["net dhd mAP"]["mean"] == pytest.approx(0.3)
    assert json.loads(json.dumps(found)) == found


def test_a_comparison_draws_the_curves_of_its_rows(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from saved_figures import capture

    figures = capture(monkeypatch)
    COMPARISON.plot(tmp_path / "curves.png")
    recall, returned = figures[0].axes
    assert [line.get_label() for line in recall.lines] == ["Random", "IEM"]
    np.testing.assert_allclose(recall.lines[0].get_xydata(), [[0.1, 0.9], [1, 0.5]])
    np.testing.assert_allclose(returned.lines[1].get_xydata(), [[1, 1], [2, 0.5]])
    with pytest.raises(ValueError, match="column is 'net accuracy'; expected one of net dhd mAP"):
        COMPARISON.plot(tmp_path / "no.png", "net accuracy")


# While condensing


def test_the_quick_evaluation_samples_queries_and_database(splits, chosen, monkeypatch):
    seen = []

    def keep(settings, *, splits, progress):
        seen.append((settings, splits))
        return train(settings, splits=splits, progress=progress)

    monkeypatch.setattr(evaluation, "train", keep)
    monkeypatch.setattr(evaluation, "QUERIES", 20)
    monkeypatch.setattr(evaluation, "DATABASE", 55)
    settings = replace(EVALUATION, evaluate_seeds=(5, 6), evaluate_accuracy=True)
    quick = quick_evaluation(replace(splits, topk=100), CONFIG, settings)
    found = quick(chosen)
    assert list(found) == ["map"]
    assert quick(chosen) == found
    used, sampled = seen[0]
    assert used.seed == 5
    assert (len(sampled.query), len(sampled.database)) == (20, 55)
    assert sampled.topk == 20  # 100 of 275 images, as 20 of 55
    pictures = {(*image, label) for image, label in pairs(splits.database)}
    assert {(*image, label) for image, label in pairs(sampled.database)} <= pictures
    assert sampled.train.images.equal(chosen.dataset().images)


def pairs(dataset):
    return zip(dataset.images.flatten(1).tolist(), dataset.labels.tolist(), strict=True)


def test_a_small_protocol_is_evaluated_whole(splits, chosen):
    quick = quick_evaluation(splits, CONFIG, EVALUATION)
    whole = evaluate_set(chosen, splits, CONFIG, EVALUATION)
    assert quick(chosen)["map"] == whole["map"]
