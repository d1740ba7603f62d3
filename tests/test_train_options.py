"""Settings of a run: each does what it says, and impossible ones are refused at once."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from train_runs import TINY, run, same_weights, small_digits

from hashfast.hashing import HashModel


@pytest.fixture(scope="module")
def small():
    return small_digits()


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


def test_compiling_serves_training_and_evaluation(monkeypatch, small):
    """Under the names of an uncompiled model's weights."""
    modes = []

    def compiled(call, **options):
        def counted(images):
            modes.append(call.__self__.training)
            return call(images)

        return counted

    monkeypatch.setattr(torch, "compile", compiled)
    config = replace(TINY, epochs=1)
    result = run(replace(config, compile=True), splits=small)
    assert modes == [True] * 3 + [False] * 2  # batches; queries, database
    assert same_weights(result.model, run(config, splits=small).model)


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


# What cannot work is said at once


def test_batch_norm_refuses_batches_of_one(small):
    with pytest.raises(ValueError, match="batch_size must be at least 2"):
        run(replace(TINY, method="orthohash", batch_size=1), splits=small)


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
        ({"warmup_epochs": -1}, "warmup_epochs is -1; it must be 0 or a positive"),
        ({"evaluate_every": -1}, "evaluate_every is -1"),
        ({"workers": -1}, "workers is -1"),
        ({"amp": "fp8"}, "amp is 'fp8'; expected one of no, bf16, fp16"),
        ({"optimizer": "lion"}, "optimizer is 'lion'; expected one of adam, adamw, sgd, rmsprop"),
        ({"schedule": "steps"}, "schedule is 'steps'; expected one of cosine, constant"),
        ({"momentum": 0.9}, "momentum is 0.9, which adam does not take: .* sgd or rmsprop"),
        ({"momentum": 1.0, "optimizer": "sgd"}, "momentum is 1.0; it must be at least 0 and less"),
        ({"weight_decay": -1e-4}, "weight_decay is -0.0001; it must be 0 or a positive"),
        ({"clip_gradient": 0.0}, "clip_gradient is 0.0; it must be positive"),
        ({"backbone_learning_rate_scale": 0.0}, "backbone_learning_rate_scale is 0.0; it must be"),
        ({"augment_scale": 1.5}, r"augment_scale is 1.5; .* choose it in \[0, 1\]"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)
