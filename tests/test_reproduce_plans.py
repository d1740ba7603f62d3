"""What experiments would train on the papers' own data, their numbers, and how tables print."""

from dataclasses import replace

import pytest
import torch
from train_runs import small_digits

import hashfast
from hashfast import unpack
from hashfast._runs import Runs
from hashfast.augment import DEFORMATIONS, deform
from hashfast.data import PROTOCOLS
from hashfast.hashing import TrainConfig, encode_dataset, train
from hashfast.hashing.checkpoint import load_checkpoint
from hashfast.reproduce import PAPERS, Cell, Table, measures, numbers002, numbers003, paper002
from hashfast.reproduce.identity import identity
from hashfast.reproduce.plan import Choices, Plan
from hashfast.reproduce.tables import Entry, tabulate


def plan(paper, name, **choices):
    found = PAPERS[paper].experiments[name]
    return found.plan(Plan(found, Choices(**choices)))


@pytest.fixture
def root(tmp_path):
    for name in ("cifar10", "nuswide21", "coco", "imagenet100", "nuswide21-dhd", "other"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_protocols_exist():
    for paper in PAPERS.values():
        for experiment in paper.experiments.values():
            assert set(experiment.data) <= set(PROTOCOLS)


def test_the_whole_of_table_1(root):
    runs = plan("002", "table 1", root=root)
    assert len(runs) == 6 * 3 * 3 * 3 * 3
    numbers = {(run.row, run.column): run.paper for run in runs}
    assert len(numbers) == 6 * 3 * 9
    assert None not in numbers.values()
    assert numbers["DSDH", "CIFAR-10 16 bits"] == 0.7909
    assert numbers["HashNet-S", "NUS-WIDE 32 bits"] == 0.8438
    assert numbers["DBDH-C", "COCO 64 bits"] == 0.8308
    for run in runs:
        config = run.config
        assert (config.backbone, config.weights) == ("vgg11", "pretrained")
        assert config.root == root / config.data
        assert config.augment == ("auto" if config.data == "cifar10" else "standard")
        assert f"{config.bits} bits" in run.column
        mark = {"original": "", "swd": "-S", "hswd": "-C"}[config.quantization]
        assert run.row.lower() == config.method + mark.lower()
        assert run.baseline == (run.row.removesuffix(mark) if mark else None)


def test_only_the_data_that_is_there(tmp_path, root):
    (root / "coco").rmdir()
    assert {run.source.name for run in plan("002", "table 1", root=root)} == {
        "cifar10",
        "nuswide21",
    }
    with pytest.raises(FileNotFoundError, match="none of the folders cifar10"):
        plan("002", "table 1", root=root / "other")


def test_named_data(root):
    (own,) = {run.source for run in plan("002", "table 3", data="coco", root=root)}
    assert (own.name, own.root, own.stands_in) == ("coco", root, False)
    (other,) = {run.source for run in plan("002", "table 3", data="cifar100", root=root)}
    assert (other.name, other.like, other.stands_in) == ("cifar100", "cifar10", True)
    runs = plan("002", "table 3")
    (stand_in,) = {run.source for run in runs}
    assert (stand_in.name, stand_in.like) == ("fashion-mnist", "cifar10")
    assert {run.config.backbone for run in runs} == {"convnet3"}


def test_other_networks(root):
    assert {run.config.backbone for run in plan("002", "table 2", root=root)} == {"alexnet"}
    runs = plan("002", "table 2", root=root)
    numbers = {(run.row, run.column): run.paper for run in runs}
    assert numbers["HashNet", "CIFAR-10 16 bits"] == 0.6193
    assert numbers["DBDH-C", "NUS-WIDE 32 bits"] == 0.8380
    for run in plan("003", "table C", root=root):
        assert (run.config.backbone, run.config.augment_scale) == ("alexnet", 0.2)
    for run in plan("003", "table C"):
        assert (run.config.backbone, run.config.augment_scale) == ("convnet3", 0.2)


def test_dhd_on_its_own_data(root):
    runs = plan("003", "table B", root=root)
    assert len(runs) == 6 * 3 * 3 * 3
    taus = {run.config.data: run.config.options for run in runs}
    assert taus == {
        "imagenet100": ("tau=0.2",),
        "nuswide21-dhd": ("tau=0.6",),
        "coco": ("tau=0.4",),
    }
    numbers = {(run.row, run.column): run.paper for run in runs}
    assert numbers["s_T = 0.5", "ImageNet 64 bits"] == 0.901
    assert numbers["s_T = 1.0", "COCO 64 bits"] == 0.878
    assert {run.config.backbone for run in runs} == {"resnet50"}
    (run,) = plan("003", "figure D", root=root)
    assert (run.config.data, run.config.bits) == ("coco", 64)


def test_fewer_epochs_warm_up_for_fewer(root):
    runs = plan("003", "figure B", root=root, epochs=5)
    assert [(run.config.epochs, run.config.warmup_epochs) for run in runs] == [(5, 0.5)]
    assert {run.config.epochs for run in plan("002", "table 3", root=root)} == {3}
    assert {run.config.epochs for run in plan("002", "table 1", root=root)} == {200}


def test_numbers_of_002():
    assert numbers002.TABLE_1["csq"]["hswd"][0] == 0.8457
    assert numbers002.TABLE_1["greedyhash"]["swd"][5] == 0.8390
    assert numbers002.TABLE_1["dch"]["original"][8] == 0.7723
    assert numbers002.TABLE_2["dsdh"]["hswd"] == (0.8645, 0.8739, 0.8195, 0.8391)
    assert numbers002.TABLE_3["coco"] == {"original": 55.6, "swd": 68.1, "hswd": 49.5}
    for table, columns in (
        (numbers002.TABLE_1, numbers002.TABLE_1_COLUMNS),
        (numbers002.TABLE_2, numbers002.TABLE_2_COLUMNS),
    ):
        assert list(table) == ["dsdh", "hashnet", "greedyhash", "dch", "csq", "dbdh"]
        for kinds in table.values():
            assert list(kinds) == ["original", "swd", "hswd"]
            assert all(len(row) == len(columns) for row in kinds.values())
            assert all(0.6 < number < 0.9 for row in kinds.values() for number in row)


def test_numbers_of_003():
    columns = numbers003.COLUMNS
    assert columns[4] == ("nuswide21-dhd", 32)
    assert numbers003.TABLE_A[0.4][columns.index(("coco", 16))] == 0.839
    assert numbers003.TABLE_A[1.0][-1] == 0.872
    assert numbers003.TABLE_C[0.1, 0.05, 0.5] == {16: 0.658, 64: 0.717}
    # The tables meet in the paper's own settings: tau by data set, s_T 0.5.
    for (data, bits), number in zip(columns, numbers003.TABLE_B[0.5], strict=True):
        tau = {"imagenet100": 0.2, "nuswide21-dhd": 0.6, "coco": 0.4}[data]
        assert numbers003.TABLE_A[tau][columns.index((data, bits))] == number


def test_four_classes_alone():
    digits = small_digits()
    four = paper002._four_classes(digits)
    for part in ("query", "train", "database"):
        labels = getattr(digits, part).labels
        assert getattr(four, part).labels.equal(labels[labels < 4])
    assert (four.num_classes, four.class_names) == (4, digits.class_names[:4])
    with pytest.raises(ValueError, match="several labels"):
        paper002._four_classes(replace(digits, multi_label=True))


def test_cifar_is_ranked_whole():
    digits = small_digits()
    assert paper002._whole_ranking(digits).topk == digits.topk
    cifar = replace(digits, name="cifar10")
    assert paper002._whole_ranking(cifar).topk == len(digits.database)


def test_views_are_the_same_at_every_call():
    digits = small_digits()
    queries = list(measures.shown_queries(digits))
    assert len(queries) == 3
    views = measures.query_views(digits, queries[1])
    torch.rand(1)  # whatever was drawn in between
    again = measures.query_views(digits, queries[1])
    assert list(views) == ["original", *DEFORMATIONS, "strong view"]
    assert views["original"].equal(digits.query[queries[1]][0])
    assert all(views[name].equal(again[name]) for name in views)
    before = torch.get_rng_state()
    measures.query_views(digits, 0)
    assert torch.get_rng_state().equal(before)


@pytest.fixture(scope="module")
def dhd():
    return TrainConfig(
        method="dhd", augment="none", bits=16, width=4, epochs=2, learning_rate=0.01, device="cpu"
    )


@pytest.fixture(scope="module")
def model(dhd):
    return train(dhd, splits=small_digits(), progress=False).model


def test_a_sample_of_outputs(dhd, model, tmp_path):
    digits = small_digits()
    found = measures.outputs_sample(dhd, digits, tmp_path, False)
    everything = encode_dataset(model, digits.database)
    assert torch.tensor(found["outputs"]).equal(everything.outputs)  # fewer than SAMPLE
    assert found["labels"] == everything.labels.tolist()
    assert found["report"]["bits"] == 16


def test_proxies_after_training(dhd, tmp_path):
    found = measures.proxies(dhd, small_digits(), tmp_path / "whole", False)["proxies"]
    train(dhd, tmp_path / "again", splits=small_digits(), progress=False)
    expected = load_checkpoint(tmp_path / "again")["criterion"]["proxies"]
    assert torch.tensor(found).equal(expected)
    assert list(expected.shape) == [10, 16]


def test_neighbours_of_deformed_queries(dhd, model, tmp_path):
    digits = small_digits()
    found = measures.found_under_deformations(dhd, digits, tmp_path, False)["found"]
    codes = unpack(encode_dataset(model, digits.database).codes, 16).int()
    for query, near in zip(measures.shown_queries(digits), found, strict=True):
        views = measures.query_views(digits, query)
        assert len(near["ids"]) == len(views)
        for i, view in enumerate(views.values()):
            distances = (unpack(model.encode(view), 16).int() != codes).sum(1)
            order = distances.argsort(stable=True)[:10]
            assert near["ids"][i] == order.tolist()
            assert near["distances"][i] == distances[order].tolist()
            same = digits.database.labels[order] == digits.query.labels[query]
            assert near["relevant"][i] == same.tolist()


def test_map_of_deformed_queries(dhd, model, tmp_path):
    digits = small_digits()
    found = measures.deformed_quality(dhd, digits, tmp_path, False)["map_by_deformation"]
    # Zooming draws nothing: the deformed query set can be made at once.
    images = deform(digits.query.images, "zoom-out", torch.Generator())
    database = encode_dataset(model, digits.database)
    expected = hashfast.mean_average_precision(
        model.encode(images),
        database.codes,
        digits.query.labels,
        database.labels,
        topk=digits.topk,
    )
    assert found["zoom-out"] == pytest.approx(expected, abs=1e-12)
    assert list(found) == ["none", *DEFORMATIONS]


def test_a_result_belongs_to_its_settings(tmp_path):
    runs, calls = Runs(tmp_path), []

    def perform(folder):
        assert folder.is_dir()
        (folder / "checkpoint").write_text("half")
        calls.append(folder)
        if fail:
            raise RuntimeError("stopped")
        return {"map": len(calls)}

    config = TrainConfig(device="cpu")
    settings = identity(config, perform="quality")
    fail = True
    with pytest.raises(RuntimeError):
        runs.get("csq", settings, perform)
    assert (calls[0] / "checkpoint").exists()  # an interrupted run goes on from what it left
    fail = False
    assert runs.get("csq", settings, perform) == {"map": 2}
    assert calls[1] == calls[0]
    assert not calls[0].exists()
    assert runs.get("csq", settings, perform) == {"map": 2}
    assert runs.get("csq", identity(config, perform="proxies"), perform) == {"map": 3}
    for change in ({"bits": 8}, {"options": ("variant=official",)}, {"seed": 1}, {"epochs": 3}):
        assert identity(replace(config, **change), perform="quality") != settings
    for change in ({"root": tmp_path}, {"workers": 2}):
        assert identity(replace(config, **change), perform="quality") == settings


def test_cells_in_print():
    assert str(Cell((0.5,))) == "0.5000"
    assert str(Cell((0.5,), paper=0.6)) == "0.5000 (0.6000)"
    assert str(Cell((0.4, 0.6), 0.6, 0.25, -0.01)) == "0.5000±0.1414 +25.0% (0.6000 -1.0%)"
    assert str(Cell((19.41,), 19.4, spec="#.3g")) == "19.4 (19.4)"


def test_a_table_is_aligned_and_compares_with_the_baseline():
    table = tabulate(
        "method",
        [
            Entry("A", "16", 0.4, paper=0.8),
            Entry("A", "16", 0.6, paper=0.8),
            Entry("A-C", "16", 0.75, paper=0.84, baseline="A"),
            Entry("A-C", "32", 0.9, baseline="A"),
        ],
    )
    assert table.columns == ["16", "32"]
    cell = table.rows["A-C"]["16"]
    assert cell.change == pytest.approx(0.5)
    assert cell.paper_change == pytest.approx(0.05)
    assert table.rows["A-C"]["32"].change is None
    assert table.markdown().split("\n") == [
        "| method | 16                           | 32     |",
        "| ------ | ---------------------------- | ------ |",
        "| A      | 0.5000±0.1414 (0.8000)       |        |",
        "| A-C    | 0.7500 +50.0% (0.8400 +5.0%) | 0.9000 |",
    ]
    assert table.csv().split("\n")[1].startswith("A,16,0.5,0.1414")
    assert Table("", []).csv().count("\n") == 1
