"""Papers 000 and 001: what their tables condense and train, and a small one of each kind done."""

from dataclasses import replace

import pytest
from cli_calls import answer, call
from PIL import Image
from train_runs import small_digits

from hashfast import plots, presets
from hashfast.condense import condense
from hashfast.hashing import train
from hashfast.reproduce import (
    PAPERS,
    condensing,
    experiment,
    numbers000,
    paper000,
    reproduce,
)
from hashfast.reproduce.numbers000 import paper_map, share
from hashfast.reproduce.plan import Choices, Plan

SMALL = ("--data", "digits", "--ipc", 2, "--device", "cpu")


def plan(paper, name, **choices):
    found = PAPERS[paper].experiments[name]
    return found.plan(Plan(found, Choices(**choices)))


@pytest.fixture
def root(tmp_path):
    for name in ("cifar10-1", "imagenet10", "imagenet20"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    """Few images, tiny networks, two steps of everything."""
    monkeypatch.setattr(experiment, "load", lambda *args, **options: small_digits())
    few = {"width": 4.0, "real_batch": 4, "evaluate_steps": 4}
    learnt = {"networks": 4, "inner_steps": 2, "learning_rate": 1.0}
    tiny = {}
    for name, preset in presets.PRESETS.items():
        if name.startswith(presets.STAND_IN) and preset.command == "condense":
            changes = few if preset.settings["method"] in ("random", "herding") else few | learnt
            tiny[name] = replace(preset, settings={**preset.settings, **changes})
    monkeypatch.setattr(presets, "PRESETS", {**presets.PRESETS, **tiny})
    networks = {"ConvNet-3": ("convnet3", 4.0), "ResNet-10": ("convnet3", 8.0)}
    monkeypatch.setattr(paper000, "_STAND_IN_NETWORKS", networks)


@pytest.fixture
def condensed(monkeypatch):
    """The settings of every condensation."""
    seen = []

    def counted(config, *args, **options):
        seen.append(config)
        return condense(config, *args, **options)

    monkeypatch.setattr(condensing, "condense", counted)
    return seen


def test_numbers():
    assert paper_map("cifar10-1", 50, 64, "iem") == 0.5749
    assert paper_map("cifar10-1", 50, 64, "iem-pretrained") == 0.5749
    assert paper_map("imagenet10", 3, 32, "idc") == 0.4578
    assert paper_map("imagenet20", 1, 64, "random") == 0.1014
    assert paper_map("imagenet20", 1, 32, "whole") == 0.5205
    assert paper_map("cifar10-1", 1, 32, "dsa") == 0.1512
    for place in (("cifar10-1", 3, 64, "iem"), ("cifar10-1", 1, 16, "iem")):
        assert paper_map(*place) is None
    assert paper_map("cifar10-1", 1, 64, "herding") is None
    assert share(None) is None
    for (protocol, ipc, _), row in numbers000.MAP.items():
        assert ipc in numbers000.IPC[protocol]
        assert len(row) == len(numbers000.MAP_COLUMNS)
        assert all(10 < number < row[-1] for number in row[:-1])
    assert len(numbers000.MAP) == 2 * (3 + 2 + 2)
    # Tables that print the same number again.
    for ipc, rows in numbers000.CROSS_HASHING.items():
        again = {method: row["dhd"] for method, row in rows.items()}
        main = numbers000.MAP["cifar10-1", ipc, 64]
        assert (again["random"], again["iem"]) == (main[0], main[4])
    assert set(numbers000.SPEED) == {(data, ipc) for data, ipc, _ in numbers000.MAP}
    assert set(numbers000.MINUTES) == set(numbers000.SPEED)
    assert numbers000.SPEED["cifar10-1", 10]["iem"] == (39.65, 37.13)
    assert numbers000.ABLATION["imagenet10"][False, True] == 47.63
    assert numbers000.ARCHITECTURES["imagenet10"]["ResNet-50"] == {"idc": 41.87, "iem": 52.61}


def test_the_whole_of_table_1(root):
    runs = plan("000", "table 1", root=root)
    assert len(runs) == 7 * 3 * 2
    numbers = {(run.row, run.column): run.paper for run in runs}
    assert None not in numbers.values()
    assert numbers["IEM (published)", "CIFAR-10 50 ipc 64 bits"] == 0.5749
    assert numbers["IEM (preprint)", "CIFAR-10 1 ipc 32 bits"] == 0.2421
    assert numbers["whole set", "CIFAR-10 10 ipc 64 bits"] == 0.7021
    for run in runs:
        config, made = run.config, run.condensing
        assert config.root == made.config.root == root / "cifar10-1"
        assert (config.data, config.backbone, config.method) == ("cifar10-1", "convnet3", "dhd")
        assert (config.learning_rate, config.weight_decay) == (0.03, 6e-6)
        assert f"{made.config.ipc} ipc {config.bits} bits" in run.column
        assert made.config.bits == 64  # one set serves both lengths of code
        assert made.whole == (run.row == "whole set")
        assert (made.evaluation.evaluate_steps, made.stops) == (10_000, 0)
    pools = {run.row: run.condensing.config.resolved() for run in runs}
    preprint, published = pools["IEM (preprint)"], pools["IEM (published)"]
    assert (preprint.network_pool, preprint.networks) == ("pretrained", 300)
    assert (published.network_pool, published.networks) == ("random", 200)
    assert preprint.network_augmentation is published.network_augmentation is True


def test_images_a_class_are_those_of_the_data(root):
    runs = plan("001", "table I", root=root, bits=(64,))
    assert {(run.source.name, run.condensing.config.ipc) for run in runs} == {
        (data, ipc) for data, counts in numbers000.IPC.items() for ipc in counts
    }
    (run,) = (
        r for r in runs if (r.row, r.column) == ("IEM (published)", "ImageNet20 3 ipc 64 bits")
    )
    assert (run.paper, run.config.backbone, run.config.learning_rate) == (
        0.3512,
        "resnetap10",
        4e-3,
    )
    config = run.condensing.config
    assert (config.factor, config.learning_rate, config.networks) == (3, 20, 300)
    chosen = plan("001", "table I", root=root, bits=(64,), ipc=(5,), methods=("dm",))
    assert [run.paper for run in chosen] == [None] * 3


def test_stand_ins_and_scale():
    runs = plan("000", "table 2", scale=0.1, methods=("random", "iem"), ipc=(3,), bits=(32,))
    assert {(run.source.name, run.source.like) for run in runs} == {("fashion-mnist", "imagenet10")}
    settings = presets.PRESETS["fashion-mnist/iem"].settings
    config = runs[1].condensing.config
    assert config.networks == settings["networks"] / 10
    assert config.inner_steps == settings["inner_steps"]
    assert runs[0].condensing.config.networks is None
    for run in runs:
        assert run.condensing.evaluation.evaluate_steps == settings["evaluate_steps"] / 10
        assert (run.config.width, run.config.bits) == (32, 32)
    (run,) = plan("002", "table 3", scale=0.5, methods=("csq",), epochs=4)
    assert run.config.epochs == 4
    (run,) = plan("003", "figure B", scale=0.2)
    assert run.config.epochs == 1


def test_other_networks_and_ablation(root):
    runs = plan("000", "table 3", root=root)
    numbers = {(run.row, run.column): run.paper for run in runs}
    assert numbers["IEM (published)", "CIFAR-10 50 ipc DenseNet-121"] == 0.4976
    assert numbers["IDC", "ImageNet10 3 ipc ResNetAP-10"] == 0.4608
    assert len(numbers) == 3 * 6
    (run,) = (r for r in runs if (r.row, r.column) == ("IDC", "ImageNet10 3 ipc ResNet-18"))
    assert run.config.backbone == "resnet18"
    assert (run.condensing.config.backbone, run.condensing.config.metric) == ("resnetap10", "l1")

    runs = plan("000", "table 4", root=root)
    found = {
        run.row: (c.network_pool, c.network_augmentation, c.factor, run.paper)
        for run in runs
        for c in [run.condensing.config.resolved()]
        if run.source.name == "cifar10-1"
    }
    assert found == {
        "neither": ("random", False, 1, 0.4322),
        "ESP": ("pretrained", True, 1, 0.4799),
        "MF": ("random", False, 2, 0.5773),
        "ESP and MF": ("pretrained", True, 2, 0.5788),
    }
    runs = plan("001", "table II", root=root)
    rows = [(run.row, run.paper) for run in runs if run.source.name == "imagenet10"]
    assert rows == [("neither", 0.2583), ("NA", 0.3023), ("DA", 0.4763), ("NA and DA", 0.5038)]
    assert {run.condensing.config.network_pool for run in runs} == {"random"}


def test_hashing_losses(root):
    runs = plan("000", "table 5", root=root)
    numbers = {(run.row, run.column): run.paper for run in runs}
    assert numbers["Random", "CIFAR-10 10 ipc DPN"] == 0.2560
    assert numbers["IEM (published)", "CIFAR-10 50 ipc OrthoHash"] == 0.5388
    assert {run.condensing.config.hashing for run in runs} == {"dhd"}
    assert {run.config.method for run in runs} == {"dhd", "dpn", "orthohash"}
    for run in plan("000", "figure 7", root=root):
        # What depends on the loss is condensed for each.
        own = run.row in ("IDC", "IEM (preprint)")
        assert run.condensing.config.hashing == (run.config.method if own else "dhd")


def test_curves_stop_on_the_way(root):
    for paper, name in (("000", "figure 6"), ("000", "figure 9"), ("001", "figure 3")):
        assert {run.condensing.stops for run in plan(paper, name, root=root)} == {10}
    runs = plan("000", "table 7", root=root)
    stops = {run.row: run.condensing.stops for run in runs}
    assert stops == {
        "Random": 0,
        "DM": 0,
        "DSA": 0,
        "IDC": 10,
        "IEM (preprint)": 10,
        "IEM (published)": 10,
    }


def test_a_table_of_condensed_sets(capsys, tmp_path, quick, condensed):
    arguments = ["000", "--table", 1, *SMALL, "--methods", "random", "iem", "whole"]
    arguments += ["--bits", 8, 16, "--seeds", 1, "--out", tmp_path]
    found = answer(capsys, "reproduce", *arguments)
    assert found["runs"] == 3 * 2
    # One set serves both lengths of code.
    assert [(c.method, c.seed) for c in condensed] == [("random", 1), ("iem", 1)]
    assert list(found["table"]) == ["Random", "IEM (published)", "whole set"]
    title = "STAND-IN on digits, small network (the paper's figures: cifar10-1, ConvNet-3)"
    assert found["title"].startswith(title)
    assert any("59.12 (Table 3)" in note for note in found["notes"])

    splits, settings = small_digits(), presets.find_preset("fashion-mnist/iem")
    config = settings.config(data="digits", ipc=2, seed=1, device="cpu")
    alone = condense(config, splits=splits, progress=False).condensed
    data = alone.in_place_of_training_set(splits)
    training = settings.evaluation(evaluate_bits=16).training(config, len(data.train), seed=1)
    cell = found["table"]["IEM (published)"]["digits 2 ipc 16 bits"]
    assert cell["mean"] == train(training, splits=data, progress=False).report.map
    training = settings.evaluation(evaluate_bits=16).training(config, len(splits.train), seed=1)
    cell = found["table"]["whole set"]["digits 2 ipc 16 bits"]
    assert cell["mean"] == train(training, splits=splits, progress=False).report.map

    # Nothing is done twice, in this experiment or another.
    assert answer(capsys, "reproduce", *arguments)["table"] == found["table"]
    arguments[1:3] = ["--figure", 4]
    curves = answer(capsys, "reproduce", *arguments)
    assert len(condensed) == 2
    assert curves["table"]["Random"] == found["table"]["Random"]


def test_sets_are_kept_beside_the_default_folder(tmp_path, monkeypatch, quick, condensed):
    monkeypatch.chdir(tmp_path)
    common = {"data": "digits", "ipc": (2,), "bits": (8,), "device": "cpu", "progress": False}
    reproduce("000", table="1", methods=("random",), **common)
    reproduce("001", table="I", methods=("random",), **common)
    assert len(condensed) == 1
    (kept,) = (tmp_path / "reproduce" / "condensed").glob("digits-random-2ipc-seed0-*")
    assert (kept / "condensed.safetensors").is_file()


def test_an_interrupted_call_goes_on(capsys, tmp_path, monkeypatch, quick):
    arguments = ["reproduce", "000", "--table", 7, *SMALL, "--methods", "iem", "--bits", 8]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert call(capsys, *arguments, "--out", whole)[0] == 0
    real, calls = condensing.train, []

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(condensing, "train", interrupted)
    assert call(capsys, *arguments, "--out", stopped)[0] == 1
    assert call(capsys, *arguments, "--out", stopped)[0] == 0
    tables = [answer(capsys, *arguments, "--out", out)["table"] for out in (whole, stopped)]
    rows = [table["digits 2 ipc"] for table in tables]
    for column in ("IEM (published)", "IEM (published) 1/5", "IEM (published) 1/10"):
        assert rows[0][column]["values"] == rows[1][column]["values"]


def test_a_part_of_the_time(tmp_path, monkeypatch, quick):
    shown = []
    monkeypatch.setattr(plots, "condensation_curves", lambda curves, path: shown.append(curves))
    common = {"data": "digits", "ipc": (1,), "bits": (64,), "device": "cpu", "progress": False}
    common |= {"methods": ("random", "iem"), "out": tmp_path}
    table = reproduce("000", table="7", **common).table
    row = table.rows["digits 1 ipc"]
    assert list(row) == [
        "Random",
        "IEM (published)",
        "IEM (published) 1/5",
        "IEM (published) 1/10",
        "IEM (published) 1/5 min",
        "IEM (published) 1/10 min",
    ]
    assert [cell.paper for cell in row.values()] == [0.1535, 0.2582, 0.2362, 0.2288, 13, 6]
    reproduce("000", figure="6", **common | {"methods": ("iem",)})
    ((curve,),) = (curves.values() for curves in shown)
    # Four networks, evaluated after each.
    assert len(curve) == 4
    seconds = [second for second, _ in curve]
    assert seconds == sorted(seconds)
    first = row["IEM (published) 1/5"].mean
    assert first == curve[0][1]
    assert row["IEM (published) 1/5 min"].mean == pytest.approx(seconds[0] / 60)
    assert row["IEM (published)"].mean == curve[-1][1]


def test_accuracy_beside_map(capsys, tmp_path, quick):
    arguments = ["001", "--figure", 1, *SMALL, "--methods", "random", "herding", "--bits", 8]
    found = answer(capsys, "reproduce", *arguments, "--out", tmp_path)
    assert list(found["table"]) == ["Random", "Herding"]
    for row in found["table"].values():
        assert list(row) == ["digits 2 ipc 8 bits accuracy", "digits 2 ipc 8 bits mAP"]
        assert all(0 <= cell["mean"] <= 1 for cell in row.values())
        right = 50 * row["digits 2 ipc 8 bits accuracy"]["mean"]  # of 50 queries
        assert right == pytest.approx(round(right), abs=1e-4)
    assert Image.open(found["pictures"][0]).size[0] > 300


@pytest.mark.parametrize(
    ("asked", "runs", "pictures"),
    [
        (("000", "table 3", "iem"), 2, 0),
        (("000", "table 4"), 4, 0),
        (("000", "table 5", "random"), 3, 0),
        (("000", "figure 3", "random", "iem"), 2, 1),
        (("000", "figure 5", "random", "iem-pretrained"), 2, 1),
        (("000", "figure 7", "random"), 3, 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_tables_and_figures(capsys, tmp_path, quick, asked, runs, pictures):
    paper, name, *methods = asked
    arguments = [paper, f"--{name.split()[0]}", name.split()[1], *SMALL, "--bits", 8]
    arguments += ["--methods", *methods] if methods else []
    found = answer(capsys, "reproduce", *arguments, "--out", tmp_path)
    assert (found["runs"], len(found["pictures"])) == (runs, pictures)
    for path in found["pictures"]:
        assert Image.open(path).size[0] > 300


def test_sizes(capsys, tmp_path, quick):
    found = answer(capsys, "reproduce", "000", "--table", 6, "--data", "digits", "--out", tmp_path)
    row = {
        column: (cell["mean"], cell["paper"]) for column, cell in found["table"]["digits"].items()
    }
    assert row == {
        "database": (275, 59000),
        "training": (97, 5000),
        "queries": (50, 1000),
        "classes": (10, 10),
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["000", "--table", "1", "--methods", "csq"],
            "csq is none of the methods: random, herding",
        ),
        (["000", "--table", "1", "--epochs", "3"], "counted in steps: choose --scale"),
        (["000", "--table", "4", "--methods", "iem"], "methods cannot be chosen"),
        (["002", "--table", "1", "--ipc", "3"], "ipc cannot be chosen"),
    ],
)
def test_what_cannot_be_is_refused(capsys, monkeypatch, tmp_path, arguments, said):
    monkeypatch.chdir(tmp_path)
    status, _, err = call(capsys, "reproduce", *arguments)
    assert status == 1
    assert said in " ".join(err.replace("│", "").split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scale", "0"], "scale is 0.0; it must be positive"),
        (["--ipc", "0"], "ipc is (0,); all must be at least 1"),
    ],
)
def test_numbers_that_cannot_be_are_bad_usage(capsys, arguments, said):
    status, _, err = call(capsys, "reproduce", "000", "--table", "1", *arguments)
    assert status == 2
    assert said in " ".join(err.replace("│", "").split())


def test_lines_and_bars(tmp_path):
    lines = {"a": [(1, 0.2), (5, 0.4)], "one point": [(3, 0.5)]}
    plots.quality.quality_lines(lines, tmp_path / "lines.png", xlabel="steps")
    panels = {"accuracy": {"1 ipc": {"a": 0.5}}, "mAP": {"1 ipc": {"a": 0.2, "b": 0.3}, "2": {}}}
    plots.quality.quality_bars(panels, tmp_path / "bars.png")
    for name in ("lines", "bars"):
        assert Image.open(tmp_path / f"{name}.png").size[0] > 300
    with pytest.raises(ValueError, match="lines are empty"):
        plots.quality.quality_lines({}, tmp_path / "no.png", xlabel="")
    with pytest.raises(ValueError, match="panels are empty"):
        plots.quality.quality_bars({}, tmp_path / "no.png")
