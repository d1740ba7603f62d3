"""Distillations continue exactly where they stopped, wherever that was."""

from dataclasses import replace

import pytest
import torch
from distill_runs import distilled, teach, tiny
from train_runs import interrupt, lines, same_weights, tree

from hashfast.distill import Teacher
from hashfast.distill import loop as module
from hashfast.hashing import HashModel
from hashfast.hashing.checkpoint import load_checkpoint
from hashfast.hashing.learner import Learner
from hashfast.losses import Clusters

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.* clusters of codes instead of k"),
]

STEPS = 3  # of an epoch
FEW = ("negatives=8",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return teach(tmp_path_factory.mktemp("teacher") / "model")


def stopped(config, out, step, owner=Learner, name="step"):
    """Continue the run in `out`, or start one, until a step of this call, counted from 1."""
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, owner, name, step)
        with pytest.raises(KeyboardInterrupt):
            distilled(config, out, resume=True)


def check_same(out, whole):
    """Two finished runs, of which one was stopped."""
    assert lines(out) == lines(whole)
    ours, theirs = load_checkpoint(out), load_checkpoint(whole)
    for part in ("model", "criterion"):
        assert ours[part].keys() == theirs[part].keys()
        for name, value in theirs[part].items():
            torch.testing.assert_close(
                ours[part][name], value, rtol=0, atol=0, equal_nan=True, msg=name
            )
    for folder in ("best-sshp", "best-ashp"):
        one, other = (HashModel.from_pretrained(run / folder) for run in (out, whole))
        assert same_weights(one, other)
    for folder in ("database-sshp", "database-ashp"):
        for name, content in tree(whole / folder).items():
            if name != "gallery.json":  # which names the run's folder
                assert (out / folder / name).read_bytes() == content


@pytest.mark.parametrize(
    "change",
    [
        {"distillation": "brcd", "method": "cibhash"},
        {"distillation": "brcd", "fixed_views": 2},
        {"distillation": "brcd", "anchor": "augmented", "method": "mecoq", "frozen": True},
        {"distillation": "crd", "distillation_options": FEW, "optimizer": "sgd"},
        {"distillation": "crd", "distillation_options": FEW, "fixed_views": 2},
        {"distillation": "crcd", "distillation_options": FEW, "frozen": True},
        {"distillation": "packd", "distillation_options": FEW, "fixed_views": 2},
        {"distillation": "packd", "distillation_options": FEW, "anchor": "augmented"},
        {"distillation": "sskd", "method": "tbh", "warmup_epochs": 0.5},
        {"distillation": "kl", "method": "dsdh", "compare": "outputs", "amp": "bf16"},
    ],
    ids=lambda change: " ".join(str(value) for value in change.values() if value != FEW),
)
def test_a_run_stopped_in_every_epoch_equals_an_uninterrupted_one(folder, tmp_path, change):
    config = tiny(folder, epochs=3, evaluate_every=1, feature_views=2, **change)
    config = replace(config, cache=tmp_path / "cache")
    whole = distilled(config, tmp_path / "whole")
    out = tmp_path / "stopped"
    for epoch, step in enumerate((2, STEPS + 1, STEPS + 3)):  # in the first, second, third
        stopped(config, out, step)
        assert not (out / "results.json").exists()
        if epoch:
            assert load_checkpoint(out)["epoch"] == epoch
    torch.manual_seed(99)
    resumed = distilled(replace(config, cache=None), out, resume=True)
    assert same_weights(resumed.model, whole.model)
    assert resumed.results["report"] == whole.results["report"]
    assert resumed.results["report_ashp"] == whole.results["report_ashp"]
    assert [line["epoch"] for line in lines(out)] == [1, 2, 3]
    check_same(out, tmp_path / "whole")


def test_clusters_are_those_of_the_run_that_is_continued(folder, tmp_path, monkeypatch):
    """Found otherwise, by another version of k-means, they would change what is learnt."""
    config = tiny(folder, distillation="brcd", epochs=2, evaluate_every=1)
    distilled(config, tmp_path / "whole")
    stopped(config, tmp_path / "stopped", STEPS + 1)
    real = Clusters.fit
    found = []

    def fit(codes, k, seed):
        found.append(real(codes, 2, seed))
        return found[-1]

    monkeypatch.setattr(Clusters, "fit", fit)
    distilled(config, tmp_path / "stopped", resume=True)
    assert found
    check_same(tmp_path / "stopped", tmp_path / "whole")


def test_a_run_stopped_before_it_learns_anything(folder, tmp_path):
    """While the teacher's codes, or the views, are made: what was whole is not made again."""
    config = tiny(folder, distillation="brcd", fixed_views=2, epochs=1, evaluate_every=1)
    whole = distilled(config, tmp_path / "whole")
    config = replace(config, cache=tmp_path / "cache")
    for call in (1, 2, 1):  # the training images, two views
        stopped(config, tmp_path / "run", call, Teacher, "outputs")
        assert not (tmp_path / "run").exists()
        assert not list((tmp_path / "cache").glob(".*"))
    assert same_weights(distilled(config, tmp_path / "run").model, whole.model)


@pytest.mark.parametrize("name", ["evaluate_paradigms", "save_galleries"])
def test_a_run_stopped_when_all_is_learnt(folder, tmp_path, name):
    config = tiny(folder, distillation="brcd", epochs=1)
    whole = distilled(config, tmp_path / "whole")
    stopped(config, tmp_path / "run", 1, module, name)
    assert load_checkpoint(tmp_path / "run")["epoch"] == 1
    resumed = distilled(config, tmp_path / "run", resume=True)
    assert same_weights(resumed.model, whole.model)
    assert (tmp_path / "run" / "database-ashp").is_dir()


def test_what_a_continued_run_must_find_again(folder, tmp_path):
    config = tiny(folder)
    distilled(config, tmp_path / "run")
    before = tree_of_files(tmp_path / "run")
    with pytest.raises(FileExistsError, match="continue it with resume"):
        distilled(config, tmp_path / "run")
    for change, message in [
        ({"distillation": "sp"}, "distillation kl -> sp"),
        ({"anchor": "augmented"}, "anchor original -> augmented"),
        ({"fixed_views": 1}, "fixed_views 0 -> 1"),
        ({"distillation_weight": 2.0}, r"distillation_weight 1\.0 -> 2\.0"),
    ]:
        with pytest.raises(ValueError, match=f"was trained with other settings: {message}"):
            distilled(replace(config, **change), tmp_path / "run", resume=True)
    # Another model in the teacher's folder.
    moved = folder.rename(folder.with_name("kept"))
    try:
        teach(folder, seed=3)
        with pytest.raises(ValueError, match=r"other settings: data teacher [0-9a-f]{16} -> "):
            distilled(config, tmp_path / "run", resume=True)
    finally:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        moved.rename(folder)
    assert tree_of_files(tmp_path / "run") == before


def tree_of_files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_epochs_can_be_added_to_a_constant_schedule(folder, tmp_path):
    config = tiny(folder, distillation="brcd", schedule="constant", epochs=2, evaluate_every=1)
    whole = distilled(config, tmp_path / "whole")
    distilled(replace(config, epochs=1), tmp_path / "grown")
    grown = distilled(config, tmp_path / "grown", resume=True)
    assert same_weights(grown.model, whole.model)
