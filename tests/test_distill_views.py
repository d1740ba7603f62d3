"""The views that a student and its teacher see: fresh ones, and those that are drawn once."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from distill_runs import own_pictures, teach, tiny, write_pictures
from train_runs import small_digits

from hashfast._cache import ArrayCache
from hashfast.augment import build_augmentation, to_unit
from hashfast.data import ArrayDataset
from hashfast.distill import Teacher
from hashfast.distill.fixed_views import FixedViews
from hashfast.distill.loop import build_run
from hashfast.distill.objective import Objective
from hashfast.distill.views import FreshViews, mixed, own_views, rotated
from hashfast.hashing import HashModel, ModelConfig
from hashfast.hashing.features import FeatureCache, Loading
from hashfast.losses import BRCD, CSQ, KL, PACKD, SSKD, CIBHash, Distillation

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
BITS = 8
DISTILLATIONS = {"kl": KL, "brcd": BRCD, "sskd": SSKD, "packd": PACKD}


@pytest.fixture(scope="module")
def small():
    return small_digits()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return teach(tmp_path_factory.mktemp("teacher") / "model")


@pytest.fixture
def teacher(folder, tmp_path):
    return Teacher(folder, ArrayCache(tmp_path / "cache"), Loading(CPU))


def objective_of(name="kl", base=None, **weights):
    weights = {"base_weight": 1.0, "distillation_weight": 1.0, "compare_codes": True, **weights}
    return Objective(base or CSQ(10, BITS), DISTILLATIONS[name](BITS), **weights)


def fresh(teacher, splits, objective, augmented_anchor=False):
    augmentation = build_augmentation("cibhash", splits.image_shape)
    originals = teacher.of(splits, "train")
    return FreshViews(objective, augmentation, teacher, originals, augmented_anchor)


def fixed(teacher, splits, objective, number=2, augmented_anchor=False, **options):
    given = {"name": "cibhash", "seed": 0, "features": None, **options}
    return FixedViews(
        objective,
        build_augmentation(given.pop("name"), splits.image_shape),
        options.get("name", "cibhash"),
        number,
        teacher,
        splits,
        teacher.arrays,
        augmented_anchor=augmented_anchor,
        **given,
    )


def draws(views, rows, number=1):
    """What steps are given of these rows of the training set."""
    dataset = views if isinstance(views, FixedViews) else small_digits().train
    batch = dataset.batch(rows)
    return [views.draw(*batch) for _ in range(number)]


# Which views there are


class StudentsToo(Distillation):
    needs = ("student_aug", "teacher_aug")


@pytest.mark.parametrize(
    ("distillation", "base", "weights", "expected"),
    [
        (KL, CSQ, {}, (False, False, False)),
        (KL, CIBHash, {}, (True, True, False)),
        (KL, CIBHash, {"base_weight": 0}, (False, False, False)),
        (BRCD, CSQ, {}, (True, False, False)),
        (BRCD, CIBHash, {}, (True, True, False)),
        (BRCD, CIBHash, {"distillation_weight": 0}, (True, True, False)),
        (BRCD, CSQ, {"distillation_weight": 0}, (False, False, False)),
        (SSKD, CSQ, {}, (False, False, True)),
        (SSKD, CIBHash, {}, (True, True, True)),
        (PACKD, CSQ, {"distillation_weight": 0}, (False, False, False)),
        (StudentsToo, CSQ, {}, (True, True, False)),
    ],
)
def test_only_views_that_a_loss_looks_at(distillation, base, weights, expected):
    own = base(10, BITS) if base is CSQ else base(BITS)
    weights = {"base_weight": 1.0, "distillation_weight": 1.0, **weights}
    made = Objective(own, distillation(BITS), compare_codes=True, **weights)
    assert (made.second_view, made.student_sees_second, made.own_views) == expected


# Rotations and mixtures


def test_rotations_are_in_order():
    images = torch.rand(3, 1, 4, 4)
    views = own_views("rotated", 3, images, torch.arange(3))
    assert views.shape == (3, 3, 1, 4, 4)
    for turns in (1, 2, 3):
        turned = images
        for _ in range(turns):
            # Counter-clockwise: row i of the result is column -1 - i.
            turned = torch.stack([turned[..., -1 - i] for i in range(4)], -2)
        assert views[:, turns - 1].equal(turned)
        assert rotated(images, turns).equal(turned)


def test_mixtures_are_of_two_images_of_one_class():
    labels = torch.tensor([0, 1, 0, 2, 1, 0])
    images = torch.eye(6).view(6, 1, 1, 6)  # the pixels are shares of the images
    partners = [set() for _ in labels]
    shares = []
    for _ in range(60):
        for row, mix in enumerate(mixed(images, labels).view(6, 6)):
            assert mix.sum() == pytest.approx(1)
            others = [i for i in mix.nonzero().flatten().tolist() if i != row]
            assert all(labels[i] == labels[row] for i in others)
            partners[row] |= set(others)
            shares.append(mix[row].item() if others else None)
    assert partners == [{2, 5}, {4}, {0, 5}, set(), {1}, {0, 2}]
    drawn = torch.tensor([share for share in shares if share is not None])
    assert 0.45 < drawn.mean() < 0.55  # uniform: mean 1/2, deviation 0.29
    assert 0.26 < drawn.std() < 0.32
    alone = mixed(images, torch.arange(6))
    torch.testing.assert_close(alone, images)


def test_mixtures_of_several_classes_and_of_no_images():
    labels = torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    images = torch.eye(4).view(4, 1, 1, 4)
    for _ in range(20):
        mix = mixed(images, labels).view(4, 4)
        assert (mix > 0).tolist()[2:] == [[False, False, True, False], [False, False, False, True]]
        assert not mix[:2, 2:].any()
    assert mixed(images[:0], labels[:0]).shape == (0, 1, 1, 4)
    views = own_views("mixed", 3, images, labels)
    assert views.shape == (4, 3, 1, 1, 4)
    assert not views[:, 0].equal(views[:, 1])


# Fresh views


def test_the_image_itself_is_not_shown_to_the_teacher_again(small, teacher):
    views = fresh(teacher, small, objective_of("kl"))
    teacher.outputs = None
    (found,) = draws(views, [7, 3])
    assert found.first.equal(to_unit(small.train.images[[7, 3]]))
    assert found.teacher.equal(views.originals[[7, 3]])
    assert (found.second, found.own, found.teacher_aug) == (None, None, None)


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("name", ["brcd", "sskd", "packd"])
def test_the_teacher_sees_what_the_student_sees(small, teacher, name, augmented):
    objective = objective_of(name, CIBHash(BITS))
    rows = list(range(0, 90, 3))
    one, two = draws(fresh(teacher, small, objective, augmented), rows, 2)
    assert one.first.equal(two.first) != augmented
    assert not one.second.equal(two.second)
    assert not one.second.equal(one.first)
    torch.testing.assert_close(one.teacher, teacher.outputs(one.first))
    if name == "brcd":
        assert one.own is None
        assert one.teacher_aug.equal(teacher.outputs(one.second).unsqueeze(1))
        return
    count = objective.distillation.num_views
    assert one.own.shape == (30, count, 1, 8, 8)
    for view in range(count):
        seen = teacher.outputs(one.own[:, view])
        torch.testing.assert_close(one.teacher_aug[:, view], seen, rtol=1e-4, atol=1e-5)
        if name == "sskd":
            assert one.own[:, view].equal(one.first.rot90(view + 1, (2, 3)))


def test_what_the_teacher_gives_can_be_learnt_from(small, teacher):
    """Outputs of inference mode could not be kept for a backward pass."""
    found = teacher.outputs(small.train.images[:4])
    weight = torch.ones(BITS, requires_grad=True)
    (found * weight).sum().backward()
    assert weight.grad.equal(found.sum(0))


# Views drawn once


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", ["kl", "brcd", "sskd", "packd"])
def test_the_codes_kept_are_those_of_the_images_kept(small, teacher, name, frozen):
    objective = objective_of(name, CIBHash(BITS))
    views = fixed(teacher, small, objective)
    count = {"kl": 3, "brcd": 3, "sskd": 6, "packd": 5}[name]
    assert len(views.inputs) == len(views.outputs) == count
    for images, outputs in zip(views.inputs, views.outputs, strict=True):
        assert images.shape == (97, 1, 8, 8)
        assert images.dtype == "uint8"
        seen = teacher.outputs(torch.from_numpy(images))
        torch.testing.assert_close(torch.from_numpy(outputs), seen, rtol=1e-5, atol=1e-5)
    images = [torch.from_numpy(array) for array in views.inputs]
    assert images[0].equal(small.train.images)
    assert not any(images[0].equal(other) for other in images[1:])
    assert not images[1].equal(images[2])
    if name == "sskd":
        for turns in (1, 2, 3):
            assert images[2 + turns].equal(images[0].rot90(turns, (2, 3)))
    if frozen:
        model = HashModel(ModelConfig("convnet3", BITS, "linear", (1, 8, 8), 4, (0.5,), (0.5,)))
        features = FeatureCache(model, teacher.arrays)
        kept = fixed(teacher, small, objective, features=features)
        with torch.no_grad():
            for ours, image in zip(kept.inputs, images, strict=True):
                torch.testing.assert_close(
                    torch.from_numpy(ours), model.features(image), rtol=1e-5, atol=1e-5
                )
        for ours, theirs in zip(kept.outputs, views.outputs, strict=True):
            assert (ours == theirs).all()


def slots(views, found, rows):
    """Which of the kept views were given: as first, second and further views."""

    def slot(kept, given):
        hits = [
            i for i, array in enumerate(kept) if torch.from_numpy(array[rows].copy()).equal(given)
        ]
        assert len(hits) == 1
        return hits[0]

    first = slot(views.inputs, found.first)
    assert slot(views.outputs, found.teacher) == first
    second = None if found.second is None else slot(views.inputs, found.second)
    own = None
    if found.own is not None:
        own = tuple(slot(views.inputs, view) for view in found.own.unbind(1))
        aug = tuple(slot(views.outputs, view) for view in found.teacher_aug.unbind(1))
        assert aug == own
    elif found.teacher_aug is not None:
        assert slot(views.outputs, found.teacher_aug[:, 0]) == second
    return first, second, own


@pytest.mark.parametrize(
    ("name", "augmented", "expected"),
    [
        ("brcd", False, {(0, 1, None), (0, 2, None)}),
        ("brcd", True, {(1, 2, None), (2, 1, None)}),
        ("sskd", False, {(0, 1, (3, 4, 5)), (0, 2, (3, 4, 5))}),
        ("packd", False, {(0, a, (b,)) for a in (1, 2) for b in (3, 4)}),
    ],
)
def test_a_step_is_given_kept_views_at_random(small, teacher, name, augmented, expected):
    objective = objective_of(name, CIBHash(BITS))
    views = fixed(teacher, small, objective, augmented_anchor=augmented)
    rows = list(range(0, 90, 2))
    found = {slots(views, found, rows) for found in draws(views, rows, 40)}
    assert found == expected


def test_views_of_a_loss_that_compares_none(small, teacher):
    views = fixed(teacher, small, objective_of("kl"))
    assert len(views.inputs) == 1
    (found,) = draws(views, [4, 2])
    assert found.first.equal(small.train.images[[4, 2]])
    assert (found.second, found.own, found.teacher_aug) == (None, None, None)
    images, labels, indices = views.batch([4, 2])
    assert images.shape == (2, 0)
    assert labels.tolist() == small.train.labels[[4, 2]].tolist()
    assert indices.tolist() == [4, 2]
    assert len(views) == 97


def test_kept_mixtures_are_of_one_class(teacher, small):
    """Images of one grey a class, but for a pixel: a mixture has the grey, and another pixel."""
    labels = small.train.labels
    grey = (20 * labels.view(-1, 1, 1, 1).expand(-1, 1, 8, 8)).to(torch.uint8)
    grey[:, :, 0, 0] = torch.arange(97, dtype=torch.uint8)[:, None]  # a mark of each image
    splits = replace(small, name="grey", train=ArrayDataset(grey, labels))
    views = fixed(teacher, splits, objective_of("packd"), number=3)
    assert len(views.own) == 3
    for slot in views.own:
        mixtures = torch.from_numpy(views.inputs[slot])
        assert mixtures[:, :, 1:].equal(grey[:, :, 1:])
        changed = (mixtures[:, 0, 0, 0] != grey[:, 0, 0, 0]).float().mean()
        assert changed > 0.8


def test_views_are_drawn_once_for_all_runs(small, teacher, monkeypatch):
    objective = objective_of("packd", CIBHash(BITS))
    first = fixed(teacher, small, objective)
    monkeypatch.setattr(Teacher, "outputs", None)
    again = fixed(teacher, small, objective)
    for ours, theirs in zip(
        again.inputs + again.outputs, first.inputs + first.outputs, strict=True
    ):
        assert (ours == theirs).all()


def test_other_seeds_augmentations_and_teachers_are_other_views(small, teacher, tmp_path):
    objective = objective_of("brcd")
    first = fixed(teacher, small, objective)
    for change in ({"seed": 1}, {"name": "standard"}):
        other = fixed(teacher, small, objective, **change)
        assert not (other.inputs[1] == first.inputs[1]).all()
        assert (other.outputs[0] == first.outputs[0]).all()
        assert not (other.outputs[1] == first.outputs[1]).all()
    elsewhere = teach(tmp_path / "other", seed=1)
    other = fixed(Teacher(elsewhere, teacher.arrays, Loading(CPU)), small, objective)
    assert (other.inputs[1] == first.inputs[1]).all()
    assert not (other.outputs[1] == first.outputs[1]).any()


def test_two_random_views_need_two_kept(small, teacher):
    for change in ({"fixed_views": 1}, {"frozen": True, "feature_views": 1}):
        config = tiny(teacher.folder, distillation="brcd", anchor="augmented", **change)
        with pytest.raises(
            ValueError, match="compares two random views of an image, and 1 is kept"
        ):
            build_run(config, small, teacher, teacher.arrays, None, False)
    config = tiny(teacher.folder, method="cibhash", augment="none")
    with pytest.raises(ValueError, match=r"cibhash looks at random views .* choose"):
        build_run(config, small, teacher, teacher.arrays, None, False)


# Pictures that cannot be read


@pytest.mark.parametrize("frozen", [False, True])
def test_unreadable_pictures_are_in_no_batch(tmp_path, frozen):
    splits = own_pictures(write_pictures(tmp_path / "pictures"))
    folder = teach(tmp_path / "teacher", splits, batch_size=8)
    Path(splits.train.path(2)).write_bytes(b"")
    arrays = ArrayCache(tmp_path / "cache")
    teacher = Teacher(folder, arrays, Loading(CPU))
    model = HashModel(ModelConfig("convnet3", BITS, "linear", (3, 8, 8), 4))
    features = FeatureCache(model, arrays) if frozen else None
    views = fixed(teacher, splits, objective_of("packd"), features=features)
    rows = list(range(len(splits.train)))
    _, labels, indices = views.batch(rows)
    assert indices.tolist() == [row for row in rows if row != 2]
    assert labels.equal(splits.train.labels[indices])
    (found,) = draws(views, rows)
    assert len(found.first) == len(found.own) == len(rows) - 1
    assert found.first.float().isfinite().all()
    assert found.teacher.isfinite().all()
    if frozen:  # what is kept for training is what evaluation, and other runs, read
        kept = features.of(splits, "train")
        assert kept.batch(rows)[2].equal(indices)
    encoded = teacher.encoded(splits, "train")
    assert encoded.indices.equal(indices)
    assert len(encoded.codes) == len(rows) - 1
