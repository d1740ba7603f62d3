"""Paper 004: what its tables and figures train, and a small one of each done."""

import json
from dataclasses import replace

import pytest
import torch
from cli_calls import answer, call
from PIL import Image
from train_runs import interrupt, small_digits

from hashfast import plots, presets, unpack
from hashfast.distill import DistillConfig, distill
from hashfast.hashing import HashModel, encode_dataset, train
from hashfast.hashing.learner import Learner
from hashfast.losses import DISTILLATION
from hashfast.reproduce import (
    PAPERS,
    distilling,
    experiment,
    figures004,
    reproduce,
    runs004,
    speed004,
)
from hashfast.reproduce.numbers004 import TABLE_1_COLUMNS, TABLE_2
from hashfast.reproduce.plan import Choices, Plan
from hashfast.reproduce.runs004 import paper_map

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*clusters of codes instead of k"),
]

# Pixels as features: narrow networks give one code for all images after an epoch, whose quality
# tells no run from another.
TINY = {"backbone": "pixels", "width": None, "epochs": 1, "batch_size": 16, "learning_rate": 1e-2}
KINDS = {
    "teacher": {"weights": None, "image_size": 16, "feature_views": 2},
    "student": {},
    "distill": {"fixed_views": 2},
}
COMMON = {"data": "digits", "device": "cpu", "progress": False}


def plan(name, **choices):
    found = PAPERS["004"].experiments[name]
    return found.plan(Plan(found, Choices(**choices)))


@pytest.fixture
def root(tmp_path):
    for name in ("cifar10-brcd", "coco", "imagenet100"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    """Few images, tiny networks, one epoch."""
    digits = replace(small_digits(), topk=50)  # which the paper does not have
    monkeypatch.setattr(experiment, "load", lambda *args, **options: digits)
    tiny = dict(presets.PRESETS)
    for name, preset in presets.PRESETS.items():
        if name.startswith("004/") and name.endswith(presets.STAND_IN):
            kind = "distill" if preset.command == "distill" else name[4:11]
            tiny[name] = replace(preset, settings={**preset.settings, **TINY, **KINDS[kind]})
    monkeypatch.setattr(presets, "PRESETS", tiny)


@pytest.fixture
def trained(monkeypatch, quick):
    """The settings of every training."""
    seen = []

    def counted(function):
        def call(config, *args, **options):
            seen.append(config)
            return function(config, *args, **options)

        return call

    monkeypatch.setattr(distilling, "train", counted(train))
    monkeypatch.setattr(distilling, "distill", counted(distill))
    return seen


@pytest.fixture
def drawn(monkeypatch):
    """What is given to a function of hashfast.plots, instead of a picture."""

    def drawn(name):
        seen = []
        monkeypatch.setattr(plots, name, lambda *args, **options: seen.append((args, options)))
        return seen

    return drawn


def by_hand(out, method, bits, seed=0, loss="cibhash", **changes):
    """A student of the teacher in `out`, trained without `reproduce`."""
    (teacher,) = (out / "teachers").glob(f"pixels-{loss}-{bits}bits-*")
    config = presets.find_preset(f"004/{method}-fashion-mnist").config(
        data="digits", device="cpu", bits=bits, seed=seed, method=loss, teacher=teacher, **changes
    )
    splits = replace(small_digits(), topk=1000)
    return distill(config, splits=splits, progress=False)


def test_numbers():
    for place, number in {
        ("NO KD", "coco", 64, "sshp"): 0.7609,
        ("KL", "cifar10-brcd", 32, "ashp"): 0.6612,
        ("SP", "imagenet100", 64, "ashp"): 0.4031,
        ("RKD", "cifar10-brcd", 32, "sshp"): 0.4059,
        ("PACKD", "coco", 32, "ashp"): 0.0343,
        ("BRCD", "coco", 64, "ashp"): 0.8407,
        ("BRCD w/o BM", "cifar10-brcd", 32, "ashp"): 0.7100,
        ("BRCD w/o NP", "imagenet100", 64, "ashp"): 0.8821,
        ("BRCD w/o P", "imagenet100", 32, "sshp"): 0.8789,
    }.items():
        assert paper_map(*place) == number
    for place in (
        ("NO KD", "coco", 64, "ashp"),
        ("BRCD", "coco", 16, "sshp"),
        ("BRCD", "cifar10", 32, "sshp"),
        ("alpha = 0.6, delta = 0.2", "cifar10-brcd", 64, "sshp"),
    ):
        assert paper_map(*place) is None
    # Table 2 prints a part of Table 1 again.
    again = [TABLE_2["cibhash"][paradigm][-1] for paradigm in ("sshp", "ashp")]
    assert again == [paper_map("BRCD", "cifar10-brcd", 64, p) for p in ("sshp", "ashp")]
    assert len(TABLE_1_COLUMNS) == len(runs004.METHODS["brcd"].numbers) == 12


def test_the_whole_of_table_1(root):
    runs = plan("table 1", root=root)
    assert len(runs) == 13 * 3 * 2
    losses = {"NO KD", *(name.upper() for name in DISTILLATION)}
    assert {run.row for run in runs} == losses | {f"BRCD w/o {x}" for x in ("BM", "NP", "P")}
    for run in runs:
        config = run.config
        assert (config.backbone, config.method, config.frozen) == ("efficientnet_b0", "cibhash", 1)
        assert (config.epochs, config.image_size, config.seed) == (400, 224, 0)
        assert config.root == root / config.data
        assert f"{config.bits} bits" in run.column
        if run.row == "NO KD":
            assert not isinstance(config, DistillConfig)
            continue
        assert config.distillation == run.row.split()[0].lower()
        teacher = config.taught_by
        assert (teacher.backbone, teacher.method, teacher.epochs) == ("vit_b_16", "cibhash", 200)
        assert (teacher.data, teacher.bits) == (config.data, config.bits)
    options = {run.row: run.config.distillation_options for run in runs if "BRCD" in run.row}
    assert options == {
        "BRCD": (),
        "BRCD w/o BM": ("bit_mask=false",),
        "BRCD w/o NP": ("false_negatives=false", "offset_positives=false"),
        "BRCD w/o P": ("offset_positives=false",),
    }


def test_table_2(root):
    runs = plan("table 2", root=root)
    assert len(runs) == 5 * 10
    for run in runs:
        if run.column != "NO KD":
            assert run.config.taught_by.method == run.config.method
            assert run.config.taught_by.backbone == "vit_b_16"
    chosen = plan("table 2", root=root, methods=("mecoq", "kl", "none"))
    assert [(r.config.method, r.column) for r in chosen] == [("mecoq", "KL"), ("mecoq", "NO KD")]
    assert {r.config.method for r in plan("table 2", root=root, methods=("kl",))} == set(TABLE_2)
    # The row of CIBHash is that of Table 1.
    again = [r.config for r in plan("table 1", root=root, methods=("kl",), bits=(64,))]
    assert runs[31].config == again[0]
    assert (runs[31].config.method, runs[31].column) == ("cibhash", "KL")


def test_backbones_of_figure_4(root):
    runs = plan("figure 4", root=root, methods=("none", "brcd"))
    found = {
        run.row: (run.config.taught_by.backbone, run.config.backbone)
        for run in runs
        if run.column == "BRCD"
    }
    assert found == {
        f"{teacher} -> {student}": (t, s)
        for teacher, t in {"ViT-B/16": "vit_b_16", "ViT-L/16": "vit_l_16"}.items()
        for student, s in {
            "EfficientNet-B0": "efficientnet_b0",
            "ResNet-18": "resnet18",
            "MobileNetV2": "mobilenet_v2",
        }.items()
    }
    alone = {r.row: r.config.backbone for r in runs if r.column == "NO KD"}
    assert alone == {row: student for row, (_, student) in found.items()}
    rows = {r.row: r.config for r in plan("figure 4", methods=("brcd",))}
    assert {c.taught_by.backbone for c in rows.values()} == {"efficientnet-lite0"}
    assert {c.taught_by.image_size for c in rows.values()} == {64}
    assert [(c.backbone, c.width) for c in rows.values()] == [
        ("convnet3", 16),
        ("convnet3", 8),
        ("pixels", None),
    ]


def test_parameters_of_figure_5b(root):
    runs = plan("figure 5b", root=root)
    assert len(runs) == 4 * 5
    (default,) = plan(
        "table 1", root=root / "cifar10-brcd", data="cifar10-brcd", bits=(64,), methods=("brcd",)
    )
    options = {run.row: run.config.distillation_options for run in runs}
    assert options["alpha = 0.6, delta = 0.2"] == ("alpha=0.6", "delta=0.2")
    assert options["alpha = 0.8, delta = 0.4"] == ("delta=0.4",)
    (same,) = (run for run in runs if run.config == default.config)
    assert same.row == "alpha = 0.8, delta = 0.5"


def test_models_of_figure_6(root):
    runs = plan("figure 6", root=root)
    assert [(r.row, r.config.backbone) for r in runs[::5]] == [
        ("EfficientNet-B0", "efficientnet_b0"),
        ("ViT-B/16", "vit_b_16"),
    ]
    assert [run.config.seed for run in runs] == 2 * [0, 1, 2, 3, 4]
    # Images are loaded in the size of the first run, which must not be a teacher's.
    assert plan("figure 6")[0].config.image_size is None


def test_stand_ins_scale_and_seeds():
    runs = plan("table 1", methods=("brcd",), bits=(32,), scale=0.5, seeds=(3, 4))
    settings = presets.PRESETS["004/brcd-fashion-mnist"].settings
    for run in runs:
        assert (run.source.name, run.source.like) == ("fashion-mnist", "cifar10-brcd")
        assert run.config.epochs == settings["epochs"] / 2
        assert run.config.taught_by.epochs == 10
        assert (run.config.width, run.config.fixed_views) == (16, 4)
        assert run.config.taught_by.seed == 0  # all seeds learn from one teacher
    assert [run.config.seed for run in runs] == [3, 4]
    (run,) = plan("table 1", methods=("crcd",), bits=(32,))
    assert run.config.distillation_options == ("negatives=64",)  # of the preset
    (run,) = plan("table 1", methods=("brcd",), bits=(32,), epochs=3)
    assert run.config.epochs == run.config.taught_by.epochs == 3
    assert [run.config.epochs for run in plan("figure 3", epochs=3)] == [3]


def test_map_is_cut_as_in_the_paper():
    digits = small_digits()
    assert runs004.ranked_as_in_paper(digits).topk == 1000
    coco = replace(digits, name="coco", topk=5000)
    assert runs004.ranked_as_in_paper(coco).topk == 5000


def test_table_1(capsys, tmp_path, trained):
    arguments = ["004", "--table", 1, "--data", "digits", "--device", "cpu", "--bits", 32, 64]
    arguments += ["--methods", "none", "sp", "brcd-bm", "--seeds", 1, 2]
    found = answer(capsys, "reproduce", *arguments, "--out", tmp_path)
    # A teacher for each length of code, whatever the number of students.
    assert len(trained) == 3 * 2 * 2 + 2
    assert found["runs"] == 3 * 2 * 2
    table = found["table"]
    assert list(table) == ["NO KD", "SP", "BRCD w/o BM"]
    assert list(table["SP"]) == [f"digits {b} bits {p}" for b in (32, 64) for p in ("SSHP", "ASHP")]
    assert list(table["NO KD"]) == ["digits 32 bits SSHP", "digits 64 bits SSHP"]
    title = "STAND-IN on digits, small network (the paper's figures: cifar10-brcd, ViT-B/16 and"
    assert found["title"].startswith(title)
    assert "| method      | digits 32 bits SSHP" in (tmp_path / "table.md").read_text()
    assert "SSHP | digits 32 bits ASHP" in " ".join((tmp_path / "table.md").read_text().split())

    papers = {row: [cell["paper"] for cell in cells.values()] for row, cells in table.items()}
    assert papers == {
        "NO KD": [0.4935, 0.5111],
        "SP": [0.6208, 0.4728, 0.6273, 0.6765],
        "BRCD w/o BM": [0.6612, 0.7100, 0.6721, 0.7216],
    }
    masked = {"distillation_options": ("bit_mask=false",)}
    for row, name, changes in (("SP", "sp", {}), ("BRCD w/o BM", "brcd", masked)):
        alone = by_hand(tmp_path, name, 64, seed=2, **changes)
        values = [table[row][f"digits 64 bits {p}"]["values"][1] for p in ("SSHP", "ASHP")]
        assert values == [alone.sshp.map, alone.ashp.map]
        assert values[0] != values[1]
    config = presets.find_preset("004/student-fashion-mnist").config(
        data="digits", device="cpu", bits=32, seed=1
    )
    splits = replace(small_digits(), topk=1000)
    value = table["NO KD"]["digits 32 bits SSHP"]["values"][0]
    assert value == train(config, splits=splits, progress=False).report.map
    kept = [json.loads(path.read_text())["result"] for path in (tmp_path / "runs").iterdir()]
    assert {result["protocol"]["topk"] for result in kept} == {1000}
    every = [v for cells in table.values() for cell in cells.values() for v in cell["values"]]
    assert len(set(every)) == len(every)  # no run stands in another's place


def test_table_2_in_print(tmp_path, trained):
    methods = ("bihalf", "tbh", "none", "kl")
    table = reproduce("004", table="2", methods=methods, out=tmp_path, **COMMON).table
    assert list(table.rows) == [
        f"digits 64 bits {hashing} {paradigm}"
        for hashing in ("Bi-half Net", "TBH")
        for paradigm in ("SSHP", "ASHP")
    ]
    assert len(trained) == 2 + 2 * 2
    papers = {row: [c.paper for c in cells.values()] for row, cells in table.rows.items()}
    assert papers["digits 64 bits Bi-half Net SSHP"] == [0.3254, 0.5680]
    assert papers["digits 64 bits Bi-half Net ASHP"] == [0.6189]
    assert papers["digits 64 bits TBH SSHP"] == [0.4383, 0.6215]
    alone = by_hand(tmp_path, "kl", 64, loss="bihalf")
    values = [table.rows[f"digits 64 bits Bi-half Net {p}"]["KL"].mean for p in ("SSHP", "ASHP")]
    assert values == [alone.sshp.map, alone.ashp.map]


def test_runs_are_shared_and_not_repeated(tmp_path, monkeypatch, trained, drawn):
    monkeypatch.setattr(figures004, "ALPHAS", (0.8, 0.9))
    monkeypatch.setattr(figures004, "DELTAS", (0.3, 0.5))
    common = {**COMMON, "bits": (64,), "out": tmp_path}
    bars, maps, points = (
        drawn("alignment_bars"),
        drawn("parameter_map"),
        drawn("teacher_student_tsne"),
    )
    table = reproduce("004", table="1", methods=("kl", "brcd"), **common).table
    assert len(trained) == 3
    again = reproduce("004", table="1", methods=("kl", "brcd"), **common).table
    assert again.rows == table.rows
    aligned = reproduce("004", figure="5a", methods=("kl", "brcd"), **common).table
    reproduce("004", figure="7", methods=("brcd", "kl"), **common)
    assert len(trained) == 3

    found = {name: by_hand(tmp_path, name, 64).results for name in ("kl", "brcd")}
    assert len({result["isd"] for result in found.values()}) == 2
    for name, result in found.items():
        row = {"isd": result["isd"], "nra": result["nra@100"]}
        cells = aligned.rows[name.upper()]
        assert [c.mean for c in cells.values()] == list(row.values())
        assert list(cells) == ["digits 64 bits ISD", "digits 64 bits NRA@100"]
        (((values, _), _),) = bars
        assert values[name.upper()] == row

    (((codes, labels, _, names), _),) = points
    assert list(codes) == ["BRCD", "KL"]
    assert names == small_digits().class_names
    _check_codes(tmp_path, codes["BRCD"], labels)

    parameters = reproduce("004", figure="5b", **common)
    assert len(trained) == 3 + 2 * 2 - 1  # the default's alpha and delta are in Table 1
    cells = parameters.table.rows["alpha = 0.8, delta = 0.5"]
    assert cells["digits 64 bits ASHP"].mean == table.rows["BRCD"]["digits 64 bits ASHP"].mean
    grid = dict(zip(("SSHP", "ASHP"), (values for (values, _), _ in maps), strict=True))
    other = by_hand(tmp_path, "brcd", 64, distillation_options=("alpha=0.9", "delta=0.3"))
    assert grid["SSHP"][0.9, 0.3] == other.sshp.map
    assert grid["ASHP"][0.9, 0.3] == other.ashp.map


def test_runs_are_kept_beside_the_default_folders(tmp_path, monkeypatch, trained, drawn):
    monkeypatch.chdir(tmp_path)
    bars = drawn("alignment_bars")
    reproduce("004", table="1", methods=("kl",), bits=(16,), **COMMON)
    reproduce("004", figure="5a", methods=("kl",), bits=(16,), **COMMON)
    assert (len(trained), len(bars)) == (2, 1)
    names = {path.name for path in (tmp_path / "reproduce").iterdir()}
    assert names == {"004-table-1", "004-figure-5a", "runs", "teachers", "cache"}
    (kept,) = (tmp_path / "reproduce" / "runs").iterdir()
    assert kept.name.startswith("kl-cibhash-original-16bits-seed0-")


def _check_codes(out, pair, labels):
    """Codes are those of teacher and student for the same images, of the first five classes."""
    digits = small_digits()
    (folder,) = (out / "teachers").glob("pixels-cibhash-64bits-*")
    teacher = HashModel.from_pretrained(folder)
    large = encode_dataset(teacher, digits.database.resized(16)).codes
    small = encode_dataset(by_hand(out, "brcd", 64).model, digits.database).codes
    rows = digits.database.labels < 5
    assert labels.equal(digits.database.labels[rows])
    assert pair[0].equal(large[rows])
    assert pair[1].equal(small[rows])
    assert not pair[0].equal(pair[1])


def test_an_interrupted_call_goes_on(tmp_path, monkeypatch, trained):
    common = {**COMMON, "methods": ("brcd",), "bits": (32,), "epochs": 2}
    whole = reproduce("004", table="1", out=tmp_path / "whole", **common).table
    assert len(trained) == 2
    # In the second epochs of the teacher and of the student: 97 images are 6 batches.
    for call_ in (9, 15):
        with monkeypatch.context() as patch:
            interrupt(patch, Learner, "step", call_)
            with pytest.raises(KeyboardInterrupt):
                reproduce("004", table="1", out=tmp_path / "stopped", **common)
    steps = []
    real = Learner.step
    monkeypatch.setattr(Learner, "step", lambda *a: steps.append(1) or real(*a))
    table = reproduce("004", table="1", out=tmp_path / "stopped", **common).table
    assert table.rows == whole.rows
    assert len(steps) == 6  # the student's second epoch alone
    assert all(path.suffix == ".json" for path in (tmp_path / "stopped" / "runs").iterdir())


def test_figure_3(tmp_path, trained, drawn):
    seen = drawn("bit_histograms")
    table = reproduce("004", figure="3", bits=(24,), out=tmp_path, **COMMON).table
    digits = small_digits()
    (folder,) = (tmp_path / "teachers").iterdir()
    codes = encode_dataset(HashModel.from_pretrained(folder), digits.database.resized(16)).codes
    codes = codes[digits.database.labels == 0]
    (((drawn_codes, _), options),) = seen
    assert drawn_codes.equal(codes)
    expected = unpack(codes, 24).double().mean(0).abs()
    cells = table.rows["digits 24 bits"]
    assert len(cells) == 8
    assert list(cells) == [f"b{bit + 1}" for bit in options["bits"]]
    for bit in options["bits"]:
        assert cells[f"b{bit + 1}"].mean == pytest.approx(expected[bit].item(), abs=1e-6)
    # The teacher that students learn from is the same.
    reproduce("004", table="1", methods=("kl",), bits=(24,), out=tmp_path, **COMMON)
    assert len(trained) == 2


def test_figure_4(tmp_path, monkeypatch, trained, drawn):
    seen = drawn("distillation_bars")
    students = {"MLP": {}, "ConvNet-3": {"backbone": "convnet3", "width": 4.0}}
    networks = runs004.Networks({"pixels": "teacher"}, students)
    monkeypatch.setattr(runs004, "STAND_IN_NETWORKS", networks)
    common = {**COMMON, "methods": ("none", "brcd"), "bits": (32,), "out": tmp_path}
    table = reproduce("004", figure="4", **common).table
    (((values, _), _),) = seen
    alone = by_hand(tmp_path, "brcd", 32, **students["ConvNet-3"])
    assert values["pixels"]["ConvNet-3"]["BRCD"] == alone.sshp.map
    assert list(values["pixels"]) == ["MLP", "ConvNet-3"]
    assert list(values["pixels"]["MLP"]) == ["NO KD", "BRCD"]
    assert table.rows["pixels -> MLP"]["BRCD"].mean == values["pixels"]["MLP"]["BRCD"]
    assert len(trained) == 5


def test_figure_6(tmp_path, monkeypatch, trained, drawn):
    seen, seeds = drawn("offset_positive_boxes"), set()
    real = distilling.seed_draws
    monkeypatch.setattr(distilling, "seed_draws", lambda *a: seeds.add(a[1]) or real(*a))
    common = {**COMMON, "bits": (32,), "seeds": (0, 1)}
    table = reproduce("004", figure="6", out=tmp_path, **common).table
    assert len(trained) == 2  # seeds are of views and clusters
    assert seeds == {0, 1}
    (((boxes, _), _),) = seen
    assert list(boxes) == ["ConvNet-3", "EfficientNet-Lite0"]
    for name, rates in boxes.items():
        assert list(rates) == list(distilling.CLUSTERS)
        assert all(len(both) == 2 and 0 <= min(both) <= max(both) < 1 for both in rates.values())
        assert table.rows[f"{name}, digits 32 bits"]["k = 5"].values == tuple(rates[5])
        assert max(rates[25]) > 0
    assert boxes["ConvNet-3"] != boxes["EfficientNet-Lite0"]
    # Views that are the images themselves are in their clusters.
    monkeypatch.setattr(distilling, "build_augmentation", lambda *args: torch.nn.Identity())
    reproduce("004", figure="6", out=tmp_path / "same", **common)
    assert {
        rate for rates in seen[1][0][0].values() for both in rates.values() for rate in both
    } == {0}


def test_pictures(capsys, tmp_path, quick):
    arguments = ["reproduce", "004", "--data", "digits", "--device", "cpu", "--out", tmp_path]
    for figure, methods, pictures in (
        ("3", [], 1),
        ("5a", ["--methods", "kl", "brcd"], 1),
        ("6", ["--seeds", 0], 1),
        ("7", ["--methods", "kl", "brcd"], 1),
    ):
        found = answer(capsys, *arguments, "--figure", figure, "--bits", 16, *methods)
        assert len(found["pictures"]) == pictures
        for path in found["pictures"]:
            assert Image.open(path).size[0] > 300


def test_table_3(tmp_path, monkeypatch):
    seen = []
    measure = speed004.measure_speed
    monkeypatch.setattr(speed004, "measure_speed", lambda s: seen.append(s) or measure(s))
    for name, value in (("BACKBONES", ("convnet3",)), ("TABLE_3_BATCHES", (4, 8))):
        monkeypatch.setattr(speed004, name, value)
    monkeypatch.setattr(speed004, "SECONDS", 0.0)
    out = reproduce("004", table="3", scale=1e-5, device="cpu", out=tmp_path)
    (shapes,) = seen
    assert (shapes.codes, shapes.k) == ((100, 300, 500), (100,))
    assert shapes.limit == pytest.approx(6e-4)
    assert "STAND-IN" not in out.title
    assert out.table.rows["convnet3 (32x32)"]["4"].mean > 0
    assert "hashfast, n=500, k=100" in out.table.rows
    assert "Tesla V100" in out.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--table", "3", "--data", "digits"], "Table 3 times networks and search on random"),
        (["--table", "1", "--methods", "csq"], "csq is none of the methods: none, kl, sp"),
        (["--figure", "5a", "--methods", "none"], "none has no teacher"),
        (["--figure", "3", "--methods", "kl"], "methods cannot be chosen"),
        (
            ["--table", "1", "--root", "."],
            "has none of the folders cifar10-brcd, coco, imagenet100",
        ),
    ],
)
def test_what_cannot_be_is_refused(capsys, monkeypatch, tmp_path, arguments, said):
    monkeypatch.chdir(tmp_path)
    status, _, err = call(capsys, "reproduce", "004", *arguments)
    assert status == 1
    assert said in " ".join(err.replace("│", "").split())


def test_classes_of_images_with_several_labels():
    labels = torch.tensor([[0, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]]).float()
    assert distilling._classes(labels).tolist() == [1, -1, -1, 2]
    assert distilling._classes(torch.tensor([2, 0])).tolist() == [2, 0]
