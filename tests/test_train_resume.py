"""Runs continue exactly where they stopped, and nothing is overwritten or mixed."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from train_runs import TINY, interrupt, lines, loop, run, same_weights, small_digits, tree

from hashfast import losses
from hashfast.data import load
from hashfast.hashing import HashModel, logs
from hashfast.hashing.checkpoint import CHECKPOINT_FILE, load_checkpoint
from hashfast.hashing.learner import Learner


@pytest.fixture(scope="module")
def small():
    return small_digits()


@pytest.mark.parametrize(
    "change",
    [
        {"method": "csq", "quantization": "hswd"},
        {"method": "orthohash", "quantization": "swd", "optimizer": "sgd"},
        {"method": "orthohash", "augment": "standard"},
        {"method": "dsdh"},
        {"method": "hashnet", "memory_bank": True, "amp": "fp16", "options": ("alpha=0.2",)},
        {"method": "hashnet", "options": ("variant=official",), "channels_last": True},
        {"method": "greedyhash", "optimizer": "rmsprop", "momentum": 0.5},
        {"method": "dhd", "quantization": "hswd", "backbone_learning_rate_scale": 0.05},
    ],
    ids=lambda change: " ".join(map(str, change.values())),
)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, monkeypatch, small, change):
    config = replace(TINY, warmup_epochs=1.5, **change)
    whole = run(config, tmp_path / "whole", small)
    out = tmp_path / "resumed"
    for call in (8, 4):  # in the third epoch, then at the first step of the last: 3 steps each
        with monkeypatch.context() as patch:
            interrupt(patch, Learner, "step", call)
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
        interrupt(patch, Learner, "step", 8)
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
        ("evaluate", 1, 4),  # all saved, not evaluated
    ],
)
def test_a_run_stopped_near_its_end_resumes(tmp_path, monkeypatch, small, name, call, epoch):
    whole = run(TINY, tmp_path / "whole", small)
    out = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        interrupt(patch, loop.Run, name, call)
        with pytest.raises(KeyboardInterrupt):
            run(TINY, out, small)
    assert load_checkpoint(out)["epoch"] == epoch
    assert same_weights(run(TINY, out, small, resume=True).model, whole.model)
    assert lines(out) == lines(tmp_path / "whole")


@pytest.mark.parametrize(("owner", "name"), [(logs, "write_text"), (loop, "save_checkpoint")])
def test_metrics_and_checkpoint_agree_after_a_stop_between_them(
    tmp_path, monkeypatch, small, owner, name
):
    whole = run(TINY, tmp_path / "whole", small)
    out = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        interrupt(patch, owner, name, 4)
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


def test_other_settings_are_refused_by_name(tmp_path, small):
    run(replace(TINY, epochs=1), tmp_path, small)
    other = replace(TINY, epochs=1, bits=16, learning_rate=0.5)
    with pytest.raises(ValueError, match=r"bits 8 -> 16; learning_rate 0\.01 -> 0\.5$"):
        run(other, tmp_path, small, resume=True)
    with pytest.raises(ValueError, match=r"other settings: data sizes .*97.* -> .*500"):
        run(replace(TINY, epochs=1), tmp_path, load("digits"), resume=True)
    free = replace(TINY, epochs=1, workers=1, evaluate_every=1, tensorboard=True, root=Path("x"))
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
    for foreign, found in (({"format": 3}, "3"), ({"state_dict": {}}, "None"), ([1], "None")):
        torch.save(foreign, path)
        with pytest.raises(ValueError, match=f"has format {found}; this version"):
            run(replace(TINY, epochs=1), out, small, resume=True)


# More epochs


def test_epochs_can_be_added_to_a_constant_schedule(tmp_path, small):
    config = replace(TINY, method="dsdh", schedule="constant", warmup_epochs=0.5, epochs=2)
    run(config, tmp_path / "grown", small)
    grown = run(replace(config, epochs=4), tmp_path / "grown", small, resume=True)
    whole = run(replace(config, epochs=4), tmp_path / "whole", small)
    assert same_weights(grown.model, whole.model)
    assert lines(tmp_path / "grown") == lines(tmp_path / "whole")
    assert grown.results["config"]["epochs"] == 4
    with pytest.raises(ValueError, match=r"epochs 4 -> 3 \(it has trained 4 epochs already\)"):
        run(replace(config, epochs=3), tmp_path / "grown", small, resume=True)


def test_epochs_cannot_be_added_to_a_cosine(tmp_path, small):
    run(replace(TINY, epochs=1), tmp_path, small)
    with pytest.raises(ValueError, match=r"epochs 1 -> 4 \(a cosine over other epochs has another"):
        run(TINY, tmp_path, small, resume=True)
