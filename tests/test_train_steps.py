"""A training step: views and draws, optimisers and their rates, clipping, memory order."""

import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from train_runs import TINY, lines, run, small_digits, splits_of

from hashfast import _distributed, losses
from hashfast.data import ArrayDataset
from hashfast.hashing import HashModel, learner
from hashfast.hashing.optimizers import LearningRate


@pytest.fixture(scope="module")
def small():
    return small_digits()


# Views


@pytest.fixture
def views(monkeypatch):
    """Augmentations that note their name, scale and draws, and blacken images by scale."""
    made, seen = [], []

    class View(torch.nn.Module):
        def __init__(self, name, image_shape, scale):
            super().__init__()
            made.append((name, image_shape, scale))
            self.scale = scale

        def forward(self, images):
            seen.append((self.scale, float(torch.rand(()))))
            return images.float() / 255 * (1 - self.scale / 2)

    module = ModuleType("hashfast.augment")
    module.AUGMENTATIONS = {"none": None, "standard": None, "dhd": None}
    module.build_augmentation = View
    monkeypatch.setitem(sys.modules, "hashfast.augment", module)
    return made, seen


def test_two_views_go_through_one_model(views, small, monkeypatch):
    made, seen = views
    inputs = []
    real = losses.DHD.forward

    def forward(self, outputs, labels, *, u_student, index):
        inputs.append((outputs.detach(), u_student.detach()))
        return real(self, outputs, labels, u_student=u_student, index=index)

    monkeypatch.setattr(losses.DHD, "forward", forward)
    run(replace(TINY, method="dhd", augment_scale=0.25, epochs=1), splits=small)
    assert made == [("dhd", (1, 8, 8), 0.25), ("dhd", (1, 8, 8), 1.0)]
    assert [scale for scale, _ in seen] == [0.25, 1.0] * 3
    assert all(not teacher.equal(student) for teacher, student in inputs)
    assert len({draw for _, draw in seen}) == 6


def test_one_view_is_not_scaled(views, small):
    made, _ = views
    run(replace(TINY, augment="standard", augment_scale=0.25, epochs=1), splits=small)
    assert made == [("standard", (1, 8, 8), 1.0)]
    run(replace(TINY, epochs=1), splits=small)
    run(replace(TINY, method="dhd", augment="none", epochs=1), splits=small)
    assert len(made) == 1
    with pytest.raises(ValueError, match="unknown augmentation 'magic'; known: auto, none, stand"):
        replace(TINY, augment="magic")


def test_draws_depend_on_seed_and_step_and_rank_alone(views, small, monkeypatch):
    """Losses draw the same in every process, views do not; a loss draws nothing from views."""
    _, seen = views
    drawn = []
    real = losses.HSWD.forward

    def noted(self, outputs):
        drawn.append(float(torch.rand(())))
        return real(self, outputs)

    monkeypatch.setattr(losses.HSWD, "forward", noted)
    config = replace(TINY, method="csq", quantization="hswd", epochs=2)
    run(config, splits=small)
    plain = list(drawn)
    run(replace(config, augment="standard"), splits=small)
    assert drawn == plain * 2
    assert len(set(plain)) == 6
    first = [draw for _, draw in seen]
    assert len(set(first)) == 6
    seen.clear(), drawn.clear()
    monkeypatch.setattr(_distributed, "rank", lambda: 1)
    monkeypatch.setattr(_distributed, "own_share", lambda rows: rows)
    run(replace(config, augment="standard"), splits=small)
    assert drawn == plain
    assert not set(first) & {draw for _, draw in seen}


# Optimisers


def captured(monkeypatch, config, small):
    """The optimiser of a run of one epoch."""
    made = []
    real = learner.build_optimizer
    monkeypatch.setattr(
        learner, "build_optimizer", lambda *args: made.append(real(*args)) or made[-1]
    )
    result = run(replace(config, epochs=1), splits=small)
    return made[0], result.model


@pytest.mark.parametrize(
    ("name", "momentum", "kind", "expected"),
    [
        ("adam", None, torch.optim.Adam, {"betas": (0.9, 0.999)}),
        ("adamw", None, torch.optim.AdamW, {"betas": (0.9, 0.999)}),
        ("sgd", None, torch.optim.SGD, {"momentum": 0.9}),
        ("sgd", 0.0, torch.optim.SGD, {"momentum": 0.0}),
        ("rmsprop", None, torch.optim.RMSprop, {"momentum": 0.0}),
        ("rmsprop", 0.5, torch.optim.RMSprop, {"momentum": 0.5}),
    ],
)
def test_optimisers(monkeypatch, small, name, momentum, kind, expected):
    config = replace(
        TINY,
        method="dhd",
        optimizer=name,
        momentum=momentum,
        weight_decay=0.01,
        schedule="constant",
        backbone_learning_rate_scale=0.05,
        augment="none",
    )
    optimizer, model = captured(monkeypatch, config, small)
    assert type(optimizer) is kind
    backbone, others = optimizer.param_groups
    assert {id(p) for p in backbone["params"]} == {id(p) for p in model.backbone.parameters()}
    assert len(others["params"]) == len(list(model.head.parameters())) + 1  # the proxies
    assert (backbone["lr"], others["lr"]) == pytest.approx((0.01 * 0.05, 0.01))
    for group in (backbone, others):
        assert group["weight_decay"] == 0.01
        assert {key: group[key] for key in expected} == expected


def test_a_constant_learning_rate_after_the_warm_up(small):
    rate = LearningRate(replace(TINY, schedule="constant", warmup_epochs=1, learning_rate=0.4), 3)
    assert [rate(step) for step in range(12)] == pytest.approx([0.1, 0.2, 0.3] + [0.4] * 9)


def test_a_long_gradient_is_clipped(monkeypatch, small, tmp_path):
    """Of all parameters together, those of the loss included; the log has its whole length."""
    norms = []
    real = torch.optim.SGD.step

    def step(self, *args, **kwargs):
        groups = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(float(torch.nn.utils.get_total_norm(groups)))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    config = replace(TINY, method="greedyhash", optimizer="sgd", learning_rate=1e-9, epochs=1)
    run(config, tmp_path / "free", small)
    run(replace(config, clip_gradient=0.01), tmp_path / "clipped", small)
    free, clipped = norms[:3], norms[3:]
    assert clipped == pytest.approx([0.01] * 3, rel=1e-3)
    assert min(free) > 0.02
    for name in ("free", "clipped"):
        assert lines(tmp_path / name)[0]["gradient_norm"] == pytest.approx(np.mean(free), rel=1e-3)


def test_channels_last_is_another_order_of_the_same_numbers(small, monkeypatch):
    orders = []
    real = HashModel.forward

    def forward(self, images):
        weight = self.backbone.stages[1].conv.weight
        orders.append(
            [
                tensor.is_contiguous(memory_format=torch.channels_last) and tensor.shape[1] > 1
                for tensor in (images, weight)
            ]
        )
        return real(self, images)

    monkeypatch.setattr(HashModel, "forward", forward)
    pixels = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8)
    splits = splits_of(ArrayDataset(pixels, torch.arange(40) % 3), 3)
    config = replace(TINY, method="csq", optimizer="sgd", epochs=1)
    plain = run(config, splits=splits)
    assert not any(map(any, orders))
    orders.clear()
    ordered = run(replace(config, channels_last=True), splits=splits)
    assert orders[0] == [True, True]
    for ours, theirs in zip(plain.model.parameters(), ordered.model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
