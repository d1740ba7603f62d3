"""Distillation: every loss with every kind of views, teachers of all kinds, what is written."""

import json
from dataclasses import replace
from functools import cache

import pytest
import torch
from distill_runs import (
    counted,
    distilled,
    encoded_features,
    own_pictures,
    teach,
    tiny,
    write_pictures,
)
from torch import nn
from train_runs import interrupt, lines, run, same_weights, small_digits, splits_of

from hashfast._cache import ArrayCache
from hashfast.data import ArrayDataset, load, load_folder, wrap
from hashfast.distill import DistillConfig, Teacher, alignment, distill
from hashfast.distill import loop as module
from hashfast.distill.learner import DistillLearner
from hashfast.distill.objective import Objective
from hashfast.hashing import HashModel, TrainConfig, backbones, encode_dataset
from hashfast.hashing.features import Loading
from hashfast.index import Gallery
from hashfast.losses import CSQ, DISTILLATION, KL, SP, CIBHash
from hashfast.metrics import evaluate, isd, nra

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.* clusters of codes instead of k"),
]

CPU = torch.device("cpu")
WAYS = {
    "fresh": {},
    "fixed": {"fixed_views": 2},
    "frozen": {"frozen": True, "feature_views": 2},
}


@pytest.fixture(scope="module")
def small():
    return small_digits()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return teach(tmp_path_factory.mktemp("teacher") / "model")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A cache that runs share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def undistilled(folder, kept):
    """The student that its own loss alone makes, by the way it sees images."""

    @cache
    def student(way):
        config = tiny(folder, cache=kept, distillation_weight=0, **WAYS[way])
        return distilled(config).model

    return student


def teacher_of(folder):
    return Teacher(folder, ArrayCache(None), Loading(CPU))


def codes_map(query, database, splits):
    labels = query.labels, database.labels
    return evaluate(query.codes, database.codes, *labels, topk=splits.topk).map


# Every loss, every way


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", DISTILLATION)
def test_every_loss_teaches(folder, kept, undistilled, tmp_path, name, way):
    options = {"crcd": ("negatives=4",), "crd": ("negatives=16",), "packd": ("num_views=2",)}
    given = {"distillation": name, "distillation_options": options.get(name, ()), **WAYS[way]}
    result = distilled(tiny(folder, cache=kept, **given), tmp_path / "run")
    plain = undistilled(way)
    assert not same_weights(result.model, plain)
    backbone = result.model.backbone.state_dict()
    same = all(v.equal(plain.backbone.state_dict()[k]) for k, v in backbone.items())
    assert same == (way == "frozen")
    (line,) = lines(tmp_path / "run")
    assert line["loss"] == pytest.approx(line["own loss"] + line["distillation"], rel=1e-5)
    assert line["distillation"] > 0
    facts = result.results["teacher"]
    assert facts["aligned"] == DISTILLATION[name].aligns == (name in ("brcd", "kl"))
    assert facts["fingerprint"] == HashModel.from_pretrained(folder).fingerprint()


@pytest.mark.parametrize("method", ["dhd", "dsdh", "orthohash", "cibhash", "tbh", "mecoq"])
@pytest.mark.parametrize("way", ["fresh", "frozen"])
def test_every_kind_of_own_loss(folder, kept, undistilled, tmp_path, method, way):
    given = {"method": method, "distillation": "brcd", "anchor": "augmented", **WAYS[way]}
    result = distilled(tiny(folder, cache=kept, **given), tmp_path / "run")
    assert result.results["config"]["method"] == method
    (line,) = lines(tmp_path / "run")
    assert line["loss"] == pytest.approx(line["own loss"] + line["distillation"], rel=1e-4)
    assert "own similarity" in line


@pytest.mark.parametrize("compare", ["codes", "outputs"])
@pytest.mark.parametrize("anchor", ["original", "augmented"])
@pytest.mark.parametrize("name", ["brcd", "crd", "sskd", "packd"])
def test_codes_or_outputs_of_either_anchor(folder, small, kept, name, anchor, compare):
    given = {"distillation": name, "anchor": anchor, "compare": compare}
    config = tiny(folder, cache=kept, **given)
    model = distilled(config).model
    other = replace(config, compare="codes" if compare == "outputs" else "outputs")
    assert not same_weights(model, distilled(other).model)


@pytest.mark.parametrize(
    ("change", "anchor"),
    [
        ({"method": "csq"}, "original"),
        ({"method": "dsdh"}, "original"),
        ({"method": "bihalf"}, "original"),
        ({"method": "cibhash"}, "augmented"),
        ({"method": "csq", "frozen": True}, "original"),
    ],
)
def test_without_distillation_it_is_plain_training(folder, small, change, anchor):
    config = tiny(folder, distillation_weight=0, anchor=anchor, epochs=2, **change)
    plain = {name: getattr(config, name) for name in TrainConfig.__dataclass_fields__}
    expected = run(TrainConfig(**plain), splits=small)
    found = distilled(config)
    assert same_weights(found.model, expected.model)
    assert found.results["report"] == expected.results["report"]


def test_without_its_own_loss_labels_count_for_nothing(folder, small, tmp_path):
    other = replace(small, train=ArrayDataset(small.train.images, small.train.labels.flip(0)))
    config = tiny(folder, base_weight=0)
    first = distilled(config, tmp_path / "run")
    assert same_weights(first.model, distilled(config, splits=other).model)
    (line,) = lines(tmp_path / "run")
    assert line["loss"] == line["distillation"]
    assert not any(name.startswith("own") for name in line)
    with_own = replace(config, base_weight=1)
    assert not same_weights(distilled(with_own).model, distilled(with_own, splits=other).model)


def test_a_student_of_outputs_comes_near_its_teacher(folder, tmp_path):
    config = tiny(folder, base_weight=0, compare="outputs", epochs=8, width=8)
    distilled(config, tmp_path / "run")
    losses = [line["distillation"] for line in lines(tmp_path / "run")]
    assert losses[-1] < 0.5 * losses[0]


# The loss


def outputs_of(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("codes", [True, False])
def test_the_loss_is_the_weighted_sum(codes):
    own, distance = CSQ(3, 4), SP(4, 6)
    objective = Objective(own, distance, 0.3, 0.7, codes)
    u, t = outputs_of(5, 4).requires_grad_(), outputs_of(5, 6)
    u.data[0, 0] = 0.0
    t[0, :2] = torch.tensor([0.0, -0.0])
    labels, index = torch.arange(5) % 3, torch.arange(5)
    found = objective(u, labels, index, t, {}, None, None)
    (gradient,) = torch.autograd.grad(found, u)
    student = u.sign().detach().requires_grad_() if codes else u
    teacher = torch.tensor([[1.0 if x > 0 else -1.0 for x in row] for row in t]) if codes else t
    first, second = own(u, labels), distance(student, teacher.double())
    torch.testing.assert_close(found, 0.3 * first + 0.7 * second)
    # The gradient in the codes is that in the outputs.
    through = torch.autograd.grad(second, student, retain_graph=True)[0]
    expected = 0.3 * torch.autograd.grad(first, u)[0] + 0.7 * through
    torch.testing.assert_close(gradient, expected)
    assert objective.components["distillation"] == second
    assert objective.components["loss"] == found


def test_further_views_are_codes_too():
    seen = {}

    class Spy(KL):
        needs = ("student_aug", "teacher_aug", "index", "labels")

        def distance(self, student, teacher, **inputs):
            seen.update(inputs)
            return student.sum()

    objective = Objective(CIBHash(4), Spy(4), 1.0, 1.0, True)
    u, t, aug, taught = outputs_of(5, 4), outputs_of(5, 4), outputs_of(5, 2, 4), outputs_of(5, 2, 4)
    index, labels = torch.arange(5) + 3, torch.arange(5)
    objective(u, labels, index, t, {"u2": outputs_of(5, 4)}, aug, taught)
    assert seen["student_aug"].equal(aug.sign())
    assert seen["teacher_aug"].equal(taught.sign())
    assert seen["index"].equal(index)
    assert seen["labels"].equal(labels)


# Teachers


def test_a_teacher_does_not_move(folder, small, monkeypatch):
    monkeypatch.setitem(backbones.OWN_BACKBONES, "normed", Normed)
    taught = teach(folder.parent / "normed", backbone="normed", width=None)
    config = tiny(taught, distillation="brcd", anchor="augmented", method="cibhash")
    teacher = teacher_of(taught)
    before = {k: v.clone() for k, v in teacher.model.state_dict().items()}
    module.build_run(config, small, teacher, ArrayCache(None), None, False).perform(None)
    for name, value in teacher.model.state_dict().items():
        assert value.equal(before[name]), name
    assert teacher.model.fingerprint() == teacher.fingerprint
    assert not teacher.model.training
    assert not any(p.requires_grad or p.grad is not None for p in teacher.model.parameters())


class Normed(nn.Module):
    """A network with statistics that move whenever it sees images in training mode."""

    num_features = 6

    def __init__(self, in_channels, image_size):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(in_channels, 6, 3), nn.BatchNorm2d(6), nn.ReLU())

    def forward(self, images):
        return self.layers(images).mean((2, 3))


@pytest.mark.parametrize("way", WAYS)
def test_a_teachers_codes_are_computed_once(folder, small, monkeypatch, tmp_path, way):
    shown = counted(monkeypatch, Teacher, "outputs")
    seen = encoded_features(monkeypatch)
    config = tiny(folder, cache=tmp_path, distillation="kl", epochs=2, evaluate_every=1)
    config = replace(config, **WAYS[way])
    distilled(config)
    assert sum(shown) == len(small.train) + len(small.database)
    shown.clear()
    seen.clear()
    distilled(config)
    assert shown == []
    assert (sum(seen) == 0) == (way == "frozen")
    # Of views drawn at every step it has to see each, of views that are kept none again.
    config = replace(config, distillation="brcd", anchor="augmented", evaluate_every=0)
    distilled(config)
    once = {"fresh": 2 * 2 * 97, "fixed": 2 * 97, "frozen": 2 * 97}[way]
    assert sum(shown) == once
    shown.clear()
    distilled(config)
    assert sum(shown) == (once if way == "fresh" else 0)


def test_a_teacher_of_another_input_size(small, tmp_path):
    """It is shown the pictures in its own size, as if the protocol had been loaded so."""
    large = load("digits", image_size=16)
    folder = teach(tmp_path / "teacher", replace(small, **_parts(large), image_shape=(1, 16, 16)))
    config = tiny(folder, distillation="brcd")
    result = distilled(config, tmp_path / "run")
    teacher = HashModel.from_pretrained(folder)
    assert teacher.config.image_shape == (1, 16, 16)
    database = large.database.subset(range(0, 1097, 4))
    expected = encode_dataset(teacher, database)
    found = Gallery.load(tmp_path / "run" / "database-ashp")
    assert (found.index.codes == expected.codes.numpy()).all()
    query = encode_dataset(result.model, small.query)
    assert result.ashp.map == codes_map(query, expected, small)
    # Views in the student's size are scaled to it.
    shown = teacher_of(folder).outputs(small.train.images[:4])
    with torch.no_grad():
        scaled = nn.functional.interpolate(
            small.train.images[:4] / 255, (16, 16), mode="bilinear", antialias=True
        )
        torch.testing.assert_close(shown, teacher(scaled.clamp(0, 1)))


def test_views_are_scaled_down_as_pictures_are(small, tmp_path):
    tiny_digits = load("digits", image_size=4)
    splits = replace(small, **_parts(tiny_digits), image_shape=(1, 4, 4))
    folder = teach(tmp_path / "teacher", splits, backbone="pixels", width=None)
    rows = list(range(40))
    seen = teacher_of(folder).outputs(small.train.batch(rows)[0])
    with torch.no_grad():
        expected = HashModel.from_pretrained(folder)(splits.train.batch(rows)[0])
    assert (seen - expected).abs().max() < 0.1 * expected.std()  # rounded to 256 levels


def _parts(large):
    return {
        "train": large.train.subset(range(0, 500, 5)).subset(range(97)),
        "query": large.query.subset(range(0, 200, 4)),
        "database": large.database.subset(range(0, 1097, 4)),
    }


def test_pictures_are_read_in_the_teachers_size(tmp_path):
    pictures = write_pictures(tmp_path / "pictures")
    large, splits = (own_pictures(pictures, size) for size in (16, 8))
    folder = teach(tmp_path / "teacher", large, batch_size=8)
    found = teacher_of(folder).encoded(splits, "database")
    expected = encode_dataset(HashModel.from_pretrained(folder), large.database)
    assert found.codes.equal(expected.codes)
    assert found.labels.equal(expected.labels)


def test_a_teacher_with_codes_of_another_length(small, tmp_path):
    folder = teach(tmp_path / "teacher", bits=12)
    result = distilled(tiny(folder, distillation="sp"), tmp_path / "run")
    assert result.ashp is None
    assert result.results["report_ashp"] is None
    assert result.results["isd"] is result.results["nra@100"] is None
    assert not (tmp_path / "run" / "database-ashp").exists()
    assert (tmp_path / "run" / "database-sshp").is_dir()
    teacher = teacher_of(folder)
    assert alignment(result.model, small, teacher) is None


def test_what_compares_codes_refuses_others_before_anything_is_computed(tmp_path, monkeypatch):
    folder = teach(tmp_path / "teacher", bits=12)
    shown = counted(monkeypatch, Teacher, "outputs")
    with pytest.raises(ValueError, match="teacher_bits is 12, bits 8: BRCD compares"):
        distilled(tiny(folder, distillation="brcd"))
    assert shown == []


def test_a_teacher_of_other_channels(folder, tmp_path):
    splits = own_pictures(write_pictures(tmp_path / "pictures"))
    with pytest.raises(ValueError, match=r"images of 3 channels and the teacher in .* takes 1 \("):
        distilled(tiny(folder), splits=splits)


def test_what_fails_at_the_end_fails_at_the_start(folder, small, monkeypatch):
    interrupt(monkeypatch, DistillLearner, "step", 1)
    pairs = [(image, label) for image, label, _ in small.database]
    with pytest.raises(TypeError, match="give it a `labels` attribute"):
        distilled(tiny(folder), splits=replace(small, database=wrap(pairs, 8, 1)))
    with pytest.raises(FileNotFoundError, match=r"no model in .*nowhere"):
        distilled(tiny(folder.parent / "nowhere"))
    with pytest.raises(ValueError, match="a distillation needs a teacher"):
        distilled(DistillConfig())


# Results


def test_both_paradigms_are_those_of_the_codes(folder, small, tmp_path):
    result = distilled(tiny(folder, distillation="brcd"), tmp_path / "run")
    teacher = HashModel.from_pretrained(folder)
    query, database, train = (
        encode_dataset(result.model, part) for part in (small.query, small.database, small.train)
    )
    theirs, taught = (encode_dataset(teacher, part) for part in (small.database, small.train))
    assert result.sshp.map == codes_map(query, database, small)
    assert result.ashp.map == codes_map(query, theirs, small)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["report"]["map"] == result.sshp.map
    assert results["report_ashp"]["map"] == result.ashp.map
    assert results["isd"] == isd(train.codes, taught.codes, 8)
    labels = small.train.labels
    assert results["nra@100"] == nra(train.codes, taught.codes, labels, labels, 100, 8)
    assert same_weights(HashModel.from_pretrained(tmp_path / "run"), result.model)
    for name, codes in (("sshp", database.codes), ("ashp", theirs.codes)):
        gallery = Gallery.load(tmp_path / "run" / f"database-{name}")
        assert (gallery.index.codes == codes.numpy()).all()
        assert gallery.labels.tolist() == small.database.labels.tolist()
        assert gallery.items[3] == "digits/database/3"
        assert gallery.class_names == small.class_names
    fingerprints = [
        Gallery.load(tmp_path / "run" / f"database-{name}").info["fingerprint"]
        for name in ("sshp", "ashp")
    ]
    assert fingerprints == [result.model.fingerprint(), teacher.fingerprint()]


def test_galleries_of_pictures_name_the_files(tmp_path):
    splits = load_folder(write_pictures(tmp_path / "pictures"), image_size=8, query=0.25)
    folder = teach(tmp_path / "teacher", splits, batch_size=8)
    distilled(tiny(folder, batch_size=8), tmp_path / "run", splits)
    for name in ("sshp", "ashp"):
        gallery = Gallery.load(tmp_path / "run" / f"database-{name}")
        rows = range(len(splits.database))
        assert gallery.items == [str(splits.database.path(row)) for row in rows]


@pytest.mark.parametrize("every", [0, 1])
def test_the_best_students_are_kept(folder, tmp_path, monkeypatch, every):
    """mAPs that are made up: the best by SSHP is the second student, by ASHP the last."""
    real, seen = module.evaluate_paradigms, []
    made_up = [(0.3, 0.2), (0.5, 0.1), (0.4, 0.6)]

    def evaluate_made_up(model, *rest):
        sshp, ashp = made_up[len(seen)]
        seen.append(model.fingerprint())
        found = real(model, *rest)
        return found._replace(
            sshp=found.sshp._replace(report=replace(found.sshp.report, map=sshp)),
            ashp=found.ashp._replace(report=replace(found.ashp.report, map=ashp)),
        )

    monkeypatch.setattr(module, "evaluate_paradigms", evaluate_made_up)
    config = tiny(folder, distillation="brcd", epochs=3, evaluate_every=every)
    distilled(config, tmp_path / "run")
    kept = {path.name for path in (tmp_path / "run").iterdir() if path.name.startswith("best")}
    if not every:
        assert kept == set()
        return
    assert kept == {"best-sshp", "best-ashp"}
    best = [HashModel.from_pretrained(tmp_path / "run" / f"best-{p}") for p in ("sshp", "ashp")]
    assert [model.fingerprint() for model in best] == [seen[1], seen[2]]
    maps = [(line.get("map"), line.get("map_ashp")) for line in lines(tmp_path / "run")]
    assert maps == [*made_up[:2], (None, None)]
    # They code as their teacher does, and may search what it coded.
    teacher = HashModel.from_pretrained(folder).fingerprint()
    assert all(teacher in model.code_spaces() for model in best)


def test_a_cache_changes_nothing(tmp_path):
    """Also where reading pictures draws from the generator that memories are made with."""
    splits = own_pictures(write_pictures(tmp_path / "pictures"))
    folder = teach(tmp_path / "teacher", splits, batch_size=8)
    config = tiny(folder, distillation="crd", batch_size=8, cache=tmp_path / "cache")
    alone = distilled(replace(config, cache=None), splits=splits).model
    first, again = (distilled(config, splits=splits).model for _ in range(2))
    assert same_weights(first, alone)
    assert same_weights(first, again)


def test_multi_label_data(tmp_path):
    pixels = torch.randint(256, (64, 1, 8, 8), dtype=torch.uint8)
    labels = (torch.rand(64, 3) < 0.5).float()
    splits = splits_of(ArrayDataset(pixels, labels), 3, multi_label=True)
    folder = teach(tmp_path / "teacher", splits)
    for name in ("packd", "brcd"):
        assert distilled(tiny(folder, distillation=name), splits=splits).ashp.queries == 16


# Settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distillation": "brd"}, "unknown distillation 'brd'; known: brcd, kl, sp"),
        ({"distillation_options": ("alfa=1",)}, "kl has no argument 'alfa'; its arguments: "),
        ({"anchor": "image"}, "anchor is 'image'; expected one of original, augmented"),
        ({"compare": "signs"}, "compare is 'signs'; expected one of codes, outputs"),
        ({"base_weight": -1.0}, "base_weight is -1.0; it must be 0 or a positive number"),
        ({"distillation_weight": float("nan")}, "distillation_weight is nan"),
        ({"fixed_views": -2}, "fixed_views is -2"),
        ({"base_weight": 0, "distillation_weight": 0}, "both 0: nothing would be learnt"),
        ({"fixed_views": 2, "frozen": True}, "has feature_views random views .* leave fixed_views"),
        ({"method": "cqs"}, "unknown method 'cqs'"),
    ],
)
def test_settings_that_are_refused(folder, change, message):
    with pytest.raises(ValueError, match=message):
        tiny(folder, **change)


def test_progress_is_shown_unless_it_is_not(folder, small, capsys):
    distilled(tiny(folder))
    assert capsys.readouterr() == ("", "")
    distill(tiny(folder), splits=small)
    out, err = capsys.readouterr()
    assert out == ""
    assert "teacher: 100%" in err


def test_a_loss_of_classes_needs_two(folder, small):
    alike = replace(small, num_classes=1)
    config = tiny(folder, method="cibhash", distillation="packd")
    with pytest.raises(ValueError, match=r"packd learns from classes and digits has 1: .* brcd"):
        distilled(config, splits=alike)
