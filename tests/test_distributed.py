"""Two processes train as one would: rows gathered, gradients, whole runs, and failures."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import process_runs
import pytest
import torch
from distill_runs import distilled, encoded_features, teach, tiny
from PIL import Image
from torch import nn
from train_runs import TINY, lines, run, same_weights, small_digits, splits_of, tree

from hashfast import _distributed
from hashfast._cache import ArrayCache
from hashfast.augment import to_unit
from hashfast.data import ArrayDataset, load_folder
from hashfast.distill import Teacher
from hashfast.distill.learner import DistillLearner
from hashfast.distill.objective import Objective
from hashfast.distill.teacher import signs
from hashfast.distill.views import FreshViews
from hashfast.hashing import HashModel, ModelConfig, TrainConfig
from hashfast.hashing.batch_norm import SharedBatchNorm, share_batch_norm
from hashfast.hashing.features import FeatureDataset, Loading
from hashfast.hashing.learner import Learner
from hashfast.hashing.loading import shuffled
from hashfast.hashing.methods import build_criterion, build_unsupervised
from hashfast.losses import (
    BRCD,
    CRD,
    KL,
    METHODS,
    RKD,
    SSKD,
    UNSUPERVISED,
    Distillation,
)

WORLD = 2
CPU = torch.device("cpu")


together = partial(process_runs.together, WORLD)


# Rows


def gathered():
    with _distributed.setup(CPU):
        own = _distributed.rank()
        rows = torch.arange(6.0).view(3, 2)[: 1 + 2 * own] + 10 * own
        rows.requires_grad_()
        joined = _distributed.gather_rows(rows)
        (joined * torch.arange(1.0, 9.0).view(4, 2)).sum().backward()
        odd = [
            _distributed.gather_rows(torch.full((own, 3), 7, dtype=torch.uint8)),
            _distributed.gather_rows(torch.arange(6).view(2, 3).T[own:]),
            _distributed.gather_rows(torch.empty(0, 4)),
        ]
        share = _distributed.own_share(torch.arange(5))
        objects = _distributed.gather_objects({"rank": own})
        _distributed.barrier()
        return joined.detach(), rows.grad, odd, share, objects, _distributed.gather_counts(own)


def test_rows_of_all_processes_join_in_their_order(tmp_path):
    for own, result in enumerate(together(gathered, tmp_path)):
        joined, gradient, odd, share, objects, counts = result
        assert joined.tolist() == [[0, 1], [10, 11], [12, 13], [14, 15]]
        assert gradient.tolist() == [[[1, 2]], [[3, 4], [5, 6], [7, 8]]][own]
        assert odd[0].equal(torch.full((1, 3), 7, dtype=torch.uint8))
        assert odd[1].tolist() == [[0, 3], [1, 4], [2, 5], [1, 4], [2, 5]]
        assert odd[2].shape == (0, 4)
        assert share.tolist() == [[0, 1, 2], [3, 4]][own]
        assert objects == [{"rank": 0}, {"rank": 1}]
        assert counts == [0, 1]


def test_one_process_needs_no_group():
    with _distributed.setup(CPU) as device:
        assert device == CPU
        assert not _distributed.is_distributed()
        rows = torch.rand(3, 2)
        assert _distributed.gather_rows(rows) is rows
        assert _distributed.own_share(rows).equal(rows)
        assert _distributed.gather_objects(5) == [5]
        assert _distributed.rank() == 0


# Gradients

STEPS = TrainConfig(
    bits=6, width=2, optimizer="sgd", momentum=0.9, learning_rate=0.01, batch_size=9, device="cpu"
)
# Pairs, banks, distributions, parameters of the loss, two views, a clipped gradient.
CASES = {
    "pairs": {"method": "hashnet"},
    "clipped": {"method": "dch", "clip_gradient": 0.05},
    "bank": {"method": "hashnet", "memory_bank": True},
    "codes of a bank": {"method": "dsdh"},
    "hswd": {"method": "csq", "quantization": "hswd"},
    "swd": {"method": "dpn", "quantization": "swd"},
    "classifier": {"method": "greedyhash"},
    "proxies and two views": {"method": "dhd", "augment": "none", "quantization": "hswd"},
    "in the batch": {"method": "dbdh", "memory_bank": False},
}


def steps():
    """Terms, gradients and final weights of a few steps of each case, in float64."""
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(256, (24, 1, 8, 8), generator=generator, dtype=torch.uint8)
    hot = (torch.rand(24, 3, generator=generator) < 0.5).float()
    # 9 rows are 5 and 4, and one row leaves a process without any.
    batches = [torch.arange(0, 9), torch.arange(9, 10), torch.arange(8, 17), torch.arange(24)]
    results = {}
    with _distributed.setup(CPU):
        for labels in (torch.arange(24) % 3, hot):
            dataset = ArrayDataset(pixels, labels)
            for name, change in CASES.items():
                config = replace(STEPS, **change)
                torch.manual_seed(0)
                criterion = build_criterion(config, splits_of(dataset, 3))
                criterion.check_labels(labels)
                shape = dataset.image_shape
                model = HashModel(
                    ModelConfig("convnet3", 6, criterion.head, shape, 2, (0.5,), (0.3,))
                )
                learner = Learner(config, model.double(), criterion.double(), CPU, len(batches))
                results[name, labels.ndim] = seen = []
                learner.start_epoch(0)
                for step, rows in enumerate(batches):
                    if step == 2:
                        learner.start_epoch(1)
                    share = _distributed.own_share(rows)
                    counts = _distributed.gather_counts(len(share))
                    terms = learner.step(step, dataset.batch(share), counts)
                    seen += [value.clone() for value in terms.values()]
                    seen += [p.grad.clone() for p in learner.parameters]
                seen += [parameter.detach().clone() for parameter in learner.parameters]
                seen += [buffer.clone() for buffer in criterion.buffers()]
    return results


@pytest.mark.filterwarnings("ignore:.*undefined for a batch")
def test_gradients_are_those_of_one_process(tmp_path):
    expected = steps()
    for result in together(steps, tmp_path):
        assert result.keys() == expected.keys()
        for name, values in expected.items():
            torch.testing.assert_close(
                result[name],
                values,
                rtol=1e-12,
                atol=1e-12,
                msg=lambda text, name=name: f"{name}: {text}",
            )


# Gradients without labels, of a frozen backbone, and of distillation


class Mirrored(nn.Module):
    """A second view that every process draws alike."""

    def forward(self, images):
        return to_unit(images).flip(3)


class Aligned(Distillation):
    """A distillation loss of the student's second views, and so of both views at once."""

    needs = ("student_aug", "teacher_aug")

    def distance(self, student, teacher, student_aug, teacher_aug):
        gap = (student_aug[:, 0] - teacher_aug[:, 0]).square().mean()
        return gap + (student * teacher.roll(1, 0)).mean()


PIXELS = torch.randint(
    256, (24, 1, 8, 8), generator=torch.Generator().manual_seed(3), dtype=torch.uint8
)
IMAGES = ArrayDataset(PIXELS, torch.arange(24) % 3)
UNLABELLED = ("cibhash", "greedyhash-unsupervised", "bihalf", "tbh", "mecoq")
TAUGHT = {
    "kl": ("csq", KL),
    "brcd": ("cibhash", partial(BRCD, k=3)),
    "rkd": ("dsdh", RKD),
    "sskd": ("tbh", SSKD),
    "crd": ("mecoq", partial(CRD, negatives=5)),
    "both views": ("cibhash", Aligned),
}


def small_model(head):
    torch.manual_seed(0)
    model = HashModel(ModelConfig("convnet3", 6, head, (1, 8, 8), 2, (0.5,), (0.3,)))
    return model.double()


def base_of(config, model):
    if config.method in METHODS:
        return build_criterion(config, splits_of(IMAGES, 3))
    return build_unsupervised(config, model)


def moved(learner, dataset):
    """Terms, gradients and final state of a few steps."""
    seen = []
    learner.start_epoch(0)
    for step, rows in enumerate(torch.arange(24).split(9)):
        share = _distributed.own_share(rows)
        counts = _distributed.gather_counts(len(share))
        terms = learner.step(step, dataset.batch(share), counts)
        seen += [value.clone() for value in terms.values()]
        # Where there is none a gradient is not summed either.
        seen += [p.grad.clone() for p in learner.parameters if p.grad is not None]
    return seen + [v.clone() for state in learner.state().values() for v in tensors_of(state)]


def tensors_of(state):
    """Weights and buffers, but not what the optimiser keeps of them."""
    return [value for value in state.values() if isinstance(value, torch.Tensor)]


def unlabelled_steps():
    results = {}
    with _distributed.setup(CPU):
        for method in UNLABELLED:
            config = replace(STEPS, method=method, augment="none")
            model = small_model(UNSUPERVISED[method].head)
            learner = Learner(config, model, build_unsupervised(config, model).double(), CPU, 3)
            learner.second_view = Mirrored()
            results[method] = moved(learner, IMAGES)
        for method in UNLABELLED:  # of two views that come in any order
            config = replace(STEPS, method=method, frozen=True)
            model = small_model(UNSUPERVISED[method].head)
            with torch.no_grad():
                views = [model.features(images).numpy() for images in (PIXELS, Mirrored()(PIXELS))]
            kept = FeatureDataset(views if method == "cibhash" else [views[0]] * 2, IMAGES)
            learner = Learner(config, model, build_unsupervised(config, model).double(), CPU, 3)
            results["frozen " + method] = moved(learner, kept)
    return results


def taught_steps(folder):
    results = {}
    with _distributed.setup(CPU):
        teacher = Teacher(folder / "teacher", ArrayCache(folder / "cache"), Loading(CPU))
        splits = splits_of(IMAGES, 3)
        for name, (method, loss) in TAUGHT.items():
            config = tiny(folder / "teacher", bits=6, optimizer="sgd", method=method)
            model = small_model({**METHODS, **UNSUPERVISED}[method].head)
            distance = loss(6)
            originals = teacher.of(splits, "train")
            distance.prepare(signs(torch.from_numpy(originals)), IMAGES.labels)
            objective = Objective(base_of(config, model), distance, 1.0, 0.5, True).double()
            views = FreshViews(objective, Mirrored(), teacher, originals, False)
            learner = DistillLearner(config, model, objective, views, CPU, 3)
            results[name] = moved(learner, IMAGES)
    return results


def check_alike(expected, found):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(
            found[name],
            values,
            rtol=1e-9,
            atol=1e-9,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def test_gradients_without_labels_are_those_of_one_process(tmp_path):
    expected = unlabelled_steps()
    for result in together(unlabelled_steps, tmp_path):
        check_alike(expected, result)


@pytest.mark.filterwarnings("ignore:.* clusters of codes instead of k")
def test_gradients_of_distillation_are_those_of_one_process(tmp_path):
    teach(tmp_path / "teacher", splits_of(IMAGES, 3), bits=6, batch_size=8)
    expected = taught_steps(tmp_path)
    for result in together(taught_steps, tmp_path, tmp_path):
        check_alike(expected, result)


# Batch norm


def normalised(shared):
    """Outputs, gradients and running statistics of batch norms, of all rows."""
    results = []
    with _distributed.setup(CPU):
        for norm, shape in (
            (nn.BatchNorm1d(3), (9, 3)),
            (nn.BatchNorm2d(3, momentum=None, eps=0.1), (5, 3, 2, 4)),
            (nn.BatchNorm2d(3, affine=False, track_running_stats=False), (1, 3, 2, 2)),
        ):
            model = nn.Sequential(norm).double()
            if shared:
                share_batch_norm(model, CPU)
                assert type(model[0]) is SharedBatchNorm
            generator = torch.Generator().manual_seed(0)
            for _ in range(2):
                values, weights = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
                own = _distributed.own_share(values + 3).requires_grad_()
                outputs = model(own)
                (outputs * _distributed.own_share(weights)).square().sum().backward()
                results.append([_distributed.gather_rows(t) for t in (outputs.detach(), own.grad)])
            # Of every parameter the part of this process's rows.
            parts = [_distributed.gather_rows(p.grad[None]).sum(0) for p in model.parameters()]
            results.append([*parts, *model.buffers(), model.eval()(values).detach()])
    return results


def test_batch_norm_is_that_of_all_rows(tmp_path):
    expected = normalised(False)
    for result in together(normalised, tmp_path, True):
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


def test_shared_batch_norm_without_processes_is_the_norm_it_stands_for():
    plain, shared = (nn.Sequential(nn.BatchNorm2d(3)) for _ in range(2))
    share_batch_norm(shared, CPU)
    values = torch.randn(5, 3, 2, 4)
    assert shared(values).equal(plain(values))
    torch.testing.assert_close(shared.state_dict(), plain.state_dict(), rtol=0, atol=0)


# Whole runs


# Adam would turn the noise in a gradient that is 0, of a bias before a norm, into whole steps.
SGD = replace(TINY, optimizer="sgd", learning_rate=0.02)


def runs(folder):
    """A run, and one that is continued; with the folders of this process's own."""
    config = replace(SGD, method="orthohash", quantization="hswd", epochs=2)
    whole = run(config, folder / "whole", small_digits())
    endless = replace(config, schedule="constant", epochs=1, method="hashnet", memory_bank=True)
    run(endless, folder / "continued", small_digits())
    longer = run(replace(endless, epochs=2), folder / "continued", small_digits(), resume=True)
    pictures = run(replace(SGD, method="dch", batch_size=9), splits=pictures_of(folder))
    return [(one.model, one.results) for one in (whole, longer, pictures)]


def pictures_of(folder):
    """Three classes of eight pictures; all of one process's share of a batch cannot be read."""
    return load_folder(folder / "pictures", image_size=16, query=0.25)


@pytest.fixture
def pictures(tmp_path):
    generator = np.random.default_rng(0)
    for c in range(3):
        (tmp_path / "pictures" / str(c)).mkdir(parents=True)
        for i in range(8):
            pixels = generator.integers(0, 100, (20, 20, 3), dtype=np.uint8)
            pixels[..., c] += 120
            Image.fromarray(pixels).save(tmp_path / "pictures" / str(c) / f"{i}.png")
    splits = pictures_of(tmp_path)
    for row in _unreadable_rows(splits):
        Path(splits.train.path(row)).write_bytes(b"")
    return tmp_path


def _unreadable_rows(splits):
    """The second half of the first batch, and one row of the second."""
    first, second = shuffled(len(splits.train), 9, TINY.seed, 0)
    return [*first.tensor_split(WORLD)[1].tolist(), int(second[0])]


@pytest.mark.filterwarnings("ignore:.*unreadable pictures")
def test_two_processes_train_the_model_of_one(pictures):
    config = replace(SGD, method="orthohash", quantization="hswd", epochs=2)
    together_runs = together(runs, pictures, pictures)
    whole = run(config, pictures / "alone", small_digits())
    endless = replace(config, schedule="constant", method="hashnet", memory_bank=True)
    longer = run(endless, pictures / "endless", small_digits())
    own_pictures = run(replace(SGD, method="dch", batch_size=9), splits=pictures_of(pictures))
    for result in together_runs:
        for (model, results), expected in zip(result, (whole, longer, own_pictures), strict=True):
            torch.testing.assert_close(
                model.state_dict(), expected.model.state_dict(), rtol=1e-4, atol=1e-5
            )
            assert results["processes"] == WORLD
            assert results["report"]["map"] == pytest.approx(expected.report.map, abs=1e-3)
            assert results["unreadable"] == expected.results["unreadable"]
    assert all(
        same_weights(ours, theirs) for (ours, _), (theirs, _) in zip(*together_runs, strict=True)
    )
    for ours, theirs in (("whole", "alone"), ("continued", "endless")):
        for line, expected in zip(lines(pictures / ours), lines(pictures / theirs), strict=True):
            assert line == pytest.approx(expected, rel=1e-4)
    assert tree(pictures / "whole").keys() == tree(pictures / "alone").keys()


def kept_runs(folder):
    """Of a frozen backbone and of students, which share what is computed once."""
    with pytest.MonkeyPatch.context() as patch:
        seen = encoded_features(patch)
        frozen = replace(SGD, method="csq", frozen=True, epochs=2, cache=folder / "cache")
        found = [run(frozen, folder / "frozen", small_digits())]
        computed = len(seen)
    for name, change in TAUGHT_RUNS.items():
        config = tiny(folder / "teacher", optimizer="sgd", cache=folder / "cache", **change)
        found.append(distilled(config, folder / name))
    return [(one.model, one.results) for one in found], computed


TAUGHT_RUNS = {
    "fresh": {"epochs": 2, "evaluate_every": 1},
    "fixed": {"distillation": "crd", "distillation_options": ("negatives=8",), "fixed_views": 1},
    "frozen student": {"distillation": "brcd", "frozen": True, "feature_views": 1},
}


@pytest.mark.filterwarnings("ignore:.* clusters of codes instead of k")
def test_two_processes_share_what_is_computed_once(tmp_path):
    for name in ("alone", "together"):
        teach(tmp_path / name / "teacher")
    expected, computed = kept_runs(tmp_path / "alone")
    assert computed > 0
    for own, result in enumerate(together(kept_runs, tmp_path, tmp_path / "together")):
        found, computed_here = result
        assert computed_here == (0 if own else computed)
        for (model, results), (other, wanted) in zip(found, expected, strict=True):
            torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=1e-4, atol=1e-5)
            for report in ("report", "report_ashp"):
                if report in wanted:
                    wanted_map = pytest.approx(wanted[report]["map"], abs=1e-3)
                    assert results[report]["map"] == wanted_map
    kept = [sorted(path.name for path in (tmp_path / name / "cache").iterdir()) for name in NAMES]
    assert kept[0] == kept[1]
    for name in TAUGHT_RUNS:
        files = [sorted(path.name for path in (tmp_path / n / name).iterdir()) for n in NAMES]
        assert files[0] == files[1]
        assert "database-ashp" in files[0]


NAMES = "alone", "together"


# Failures


def one_fails(folder):
    if int(os.environ["RANK"]) == 1:
        real = Learner.step

        def step(self, number, *arguments):
            if number == 2:
                raise OSError("the second process fails")
            return real(self, number, *arguments)

        Learner.step = step
    run(replace(TINY, method="csq"), folder / "run", small_digits())


def test_the_failure_of_one_process_ends_the_other(tmp_path):
    assert together(one_fails, tmp_path, tmp_path) == [None, None]
    assert "the second process fails" in (tmp_path / "rank1.txt").read_text()
    assert "the second process fails" not in (tmp_path / "rank0.txt").read_text()
    assert not (tmp_path / "run" / "results.json").exists()
