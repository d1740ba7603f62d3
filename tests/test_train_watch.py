"""A loss, gradient or weight that is not finite stops the run; the last good epoch is kept."""

import math
from dataclasses import replace

import pytest
import torch
from train_runs import TINY, lines, run, same_weights, small_digits

from hashfast import losses
from hashfast.hashing import DivergedError, watch
from hashfast.hashing.checkpoint import CHECKPOINT_FILE, load_checkpoint
from hashfast.hashing.optimizers import LearningRate


@pytest.fixture(scope="module")
def small():
    return small_digits()


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
    assert "at step 7 (terms: quantization, loss, gradient_norm; learning rate" in message
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
    real = LearningRate.__call__
    monkeypatch.setattr(
        LearningRate, "__call__", lambda self, i: math.inf if i == 5 else real(self, i)
    )
    with pytest.raises(DivergedError, match=r"step 5 \(terms: weight_norm; learning rate inf\)"):
        run(TINY, tmp_path, small)
    state = load_checkpoint(tmp_path)
    assert state["epoch"] == 1
    assert all(value.isfinite().all() for value in state["model"].values())


def test_a_gradient_that_is_not_finite_is_named(tmp_path, monkeypatch, small):
    """The loss is fine and its gradient is not: the square root of 0."""
    real = losses.CSQ.similarity
    monkeypatch.setattr(
        losses.CSQ,
        "similarity",
        lambda self, outputs, labels: real(self, outputs, labels) + (0 * outputs).sum().sqrt(),
    )
    with pytest.raises(DivergedError, match=r"at step 0 \(terms: gradient_norm; learning rate"):
        run(replace(TINY, method="csq"), tmp_path, small)
    assert not (tmp_path / CHECKPOINT_FILE).exists()


def test_steps_the_scaler_leaves_out_are_no_divergence(tmp_path, monkeypatch, small):
    """The loss is so large that its gradient overflows until the scale has fallen far enough."""
    real = losses.CSQ.similarity
    monkeypatch.setattr(
        losses.CSQ,
        "similarity",
        lambda self, outputs, labels: real(self, outputs, labels) * 2.0**112,
    )
    config = replace(TINY, method="csq", amp="fp16", quantization="none", learning_rate=1e-6)
    run(config, tmp_path, small)
    state = load_checkpoint(tmp_path)
    assert 1 < state["scaler"]["scale"] < 65536
    assert all(math.isfinite(value) for line in lines(tmp_path) for value in line.values())


def test_gradients_that_overflow_at_any_scale_are_divergence(monkeypatch, small):
    monkeypatch.setattr(torch.amp.GradScaler, "get_scale", lambda self: 2.0**-15)
    with pytest.raises(DivergedError, match=r"at step 2 \(terms: gradient_norm; learning rate"):
        run(replace(TINY, amp="fp16"), splits=small)


def test_the_watch_reads_now_and_then_and_names_the_first(monkeypatch):
    monkeypatch.setattr(watch, "_READ_EVERY", 3)
    seen = watch.Watch(lambda step: 0.1 * step)
    finite, infinite = torch.tensor(2.0), torch.tensor(torch.inf)
    seen.see(0, {"a": finite, "b": finite})
    seen.see(1, {"a": finite / 2})
    assert seen.means() == {}
    seen.see(2, {"a": finite, "b": 2 * finite})
    assert seen.means() == {"a": pytest.approx(5 / 3), "b": 3.0}
    seen.see(3, {"a": finite, "b": infinite})
    seen.see(4, {"a": -infinite, "b": finite})
    with pytest.raises(DivergedError, match=r"at step 3 \(terms: b; learning rate 0.3\)"):
        seen.read()
    tolerant = watch.Watch(lambda step: 0.1, tolerated=("b",))
    tolerant.see(0, {"a": finite, "b": infinite})
    tolerant.see(1, {"a": finite, "b": finite})
    tolerant.read()
    assert tolerant.means() == {"a": 2.0, "b": 2.0}
    tolerant.see(2, {"a": infinite, "b": infinite})
    with pytest.raises(DivergedError, match="at step 2"):
        tolerant.read()
