"""hashfast bench: what it counts, what it leaves out, and the paper's numbers beside ours."""

import csv

import numpy as np
import pytest
import torch
from cli_calls import answer, call

from hashfast.reproduce import speed004
from hashfast.reproduce.numbers004 import (
    COST,
    INFERENCE_MS,
    TABLE_1,
    TABLE_1_COLUMNS,
    TABLE_2,
    TABLE_2_COLUMNS,
    TABLE_3_BATCHES,
)
from hashfast.reproduce.speed004 import Row, Shapes, Times, network_cost

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(speed004, "SECONDS", 0)
    monkeypatch.setattr(speed004, "_REST", 0)


def test_every_cell_is_timed(capsys, tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    paper = {(2000, 3): (0.5, 0.625, *(None,) * 6)}
    monkeypatch.setattr(speed004, "SEARCH_MS", paper)
    before, file = torch.get_num_threads(), tmp_path / "times.csv"
    sizes = ["--batches", 8, 4, "--codes", "2e3", "1000", "--k", 3, 2]
    arguments = ["bench", "--backbones", "convnet3", *sizes, "--threads", 1, "--device", "cpu"]
    found = answer(capsys, *arguments, "--out", file)
    assert torch.get_num_threads() == before
    rows = {(row["name"], row["batch"]): row for row in found["rows"]}
    searches = [
        f"{library}, n={n}, k={k}"
        for library in ("hashfast", "faiss")
        for n in ("2,000", "1,000")
        for k in (3, 2)
    ]
    names = ["convnet3", *searches]
    assert set(rows) == {(name, batch) for name in names for batch in (4, 8)}
    for row in rows.values():
        assert 0 < row["p20_ms"] <= row["median_ms"] <= row["p80_ms"]
        assert row["calls"] >= 1
    assert rows["faiss, n=2,000, k=3", 8]["paper_ms"] == 0.625
    assert rows["hashfast, n=2,000, k=3", 4]["paper_ms"] == 0.5
    assert rows["hashfast, n=2,000, k=2", 4]["paper_ms"] is None
    assert found["environment"]["threads"] == 1
    assert "faiss" in found["environment"]
    assert found["weights"] == "random"
    with file.open() as lines:
        written = list(csv.DictReader(lines))
    assert [(line["name"], int(line["batch"])) for line in written] == list(rows)
    assert [float(line["median_ms"]) for line in written] == [
        row["median_ms"] for row in found["rows"]
    ]
    assert {line["threads"] for line in written} == {"1"}


def test_text_says_what_was_done(capsys):
    arguments = ["--part", "inference", "--backbones", "convnet3", "--batches", 2]
    status, out, err = call(capsys, "bench", *arguments)
    assert status == 0
    assert "[1/1] convnet3" in err
    assert "Weights are random" in out
    assert torch.__version__ in out
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert len(table) == 3  # no search
    assert table[2].startswith("| convnet3 (32x32) ")


def test_the_papers_numbers_stand_beside_ours():
    shapes = Shapes(("vit_b_16",), (8, 4), (), (), 1.0, CPU)
    rows = [
        Row("vit_b_16", batch, None, None, Times(10.0 * batch, 0, 0, 3), paper)
        for batch, paper in ((4, None), (8, 27.21))
    ]
    costs = {"vit_b_16": speed004.Cost(85_850_000, 17_560_000_000, 0)}
    table = speed004._table(shapes, rows, costs)
    assert list(table.columns) == ["4", "8", "params (M)", "GFLOPs"]
    assert {name: str(cell) for name, cell in table.rows["vit_b_16"].items()} == {
        "4": "40.00",
        "8": "80.00 (27.21)",
        "params (M)": "85.8 (86.6)",
        "GFLOPs": "17.56 (17.56)",
    }


def test_costs_by_hand():
    cost = network_cost("convnet3")
    stages = [(32, 3), (16, 128), (8, 128)]  # side, channels in; 128 channels out, kernels 3x3
    layers = sum(side**2 * channels * 9 * 128 for side, channels in stages)
    features = 128 * 4**2
    assert cost.multiply_adds == layers + features * 64
    convolutions = sum(channels * 9 * 128 + 128 for _, channels in stages)
    assert cost.parameters == convolutions + 3 * 2 * 128 + features * 64 + 64
    assert cost.layer_bytes == 4 * 2 * 128 * 32**2  # into and out of the first stage's norm


@pytest.mark.parametrize(
    ("name", "features"),
    [("vit_b_16", 768), ("resnet18", 512), ("mobilenet_v2", 1280), ("efficientnet_b0", 1280)],
)
def test_costs_are_the_papers_up_to_the_last_layer(name, features):
    cost, (parameters, multiply_adds) = network_cost(name), COST[name]
    with_classifier = cost.parameters + (features + 1) * (1000 - 64)
    assert with_classifier / 1e6 == pytest.approx(parameters, abs=0.05)
    more = cost.multiply_adds + features * (1000 - 64)
    assert more / 1e9 == pytest.approx(multiply_adds, abs=0.006)


@pytest.fixture
def clock(monkeypatch):
    """A clock that takes for the seconds of a call what it returns."""
    monkeypatch.setattr(speed004._Clock, "_seconds", lambda self, call: call())
    return speed004._Clock(Shapes((), (), (), (), 0.5, CPU), [])


def test_what_would_take_too_long_is_left_out(clock):
    calls = {"slow": lambda: 0.375, "quick": lambda: 0.125}
    assert set(clock.time(calls, 4)) == {"slow", "quick"}
    assert set(clock.time(calls, 8)) == {"quick"}
    assert set(clock.time(calls, 16)) == {"quick"}
    assert set(clock.time(calls, 4096)) == set()
    assert clock.left_out == [
        "slow from batch 8: a call would take more than 0.5 s",
        "quick from batch 4096: a call would take more than 0.5 s",
    ]


def test_long_calls_are_made_once(clock):
    seconds = iter([9.0, 1.0, 7.0])  # the first is the warm-up
    assert clock.time({"slow": lambda: next(seconds)}, 4) == {"slow": Times(1e3, 1e3, 1e3, 1)}
    seconds = iter([9.0, *[0.25, 0.125, 0.5]])
    (times,) = clock.time({"quick": lambda: next(seconds)}, 4).values()
    assert times.calls == speed004.MIN_CALLS
    assert (times.median_ms, times.p20_ms, times.p80_ms) == pytest.approx((250, 175, 400))


@pytest.mark.parametrize(("faiss", "fit"), [("1.0", 1000), (None, 1500)])
def test_codes_that_do_not_fit_are_refused(monkeypatch, capsys, faiss, fit):
    monkeypatch.setattr(speed004, "_free_memory", lambda device: 24_000)
    monkeypatch.setattr(speed004, "_faiss_version", lambda: faiss)
    assert speed004.codes_that_fit(CPU) == fit
    arguments = ["--part", "search", "--codes", fit + 1, "--device", "cpu"]
    status, out, err = call(capsys, "bench", *arguments)
    assert (status, out) == (1, "")
    assert f"choose at most {fit:,}" in err


def test_batches_that_do_not_fit_are_left_out(monkeypatch, capsys):
    most = network_cost("convnet3").layer_bytes
    monkeypatch.setattr(speed004, "_free_memory", lambda device: 8 * most)
    arguments = ["--part", "inference", "--backbones", "convnet3", "--device", "cpu"]
    found = answer(capsys, "bench", *arguments, "--batches", 4, 5, 6)
    assert [row["batch"] for row in found["rows"]] == [4]
    assert found["left_out"] == ["convnet3 from batch 5: memory"]


def test_without_faiss(monkeypatch, capsys):
    monkeypatch.setattr(speed004, "_faiss_version", lambda: None)
    arguments = ["--part", "search", "--codes", 500, "--batches", 4, "--k", 2, "--device", "cpu"]
    found = answer(capsys, "bench", *arguments)
    assert [row["name"] for row in found["rows"]] == ["hashfast, n=500, k=2"]
    assert found["environment"]["faiss"] == "not installed"


def test_other_results_are_an_error(monkeypatch, capsys):
    class Wrong:
        def search(self, query, k):
            return np.zeros((len(query), k), np.int32), np.zeros((len(query), k), np.int64)

    monkeypatch.setattr(speed004, "_filled_faiss", lambda codes: Wrong())
    arguments = ["--part", "search", "--codes", 500, "--batches", 4, "--k", 2, "--device", "cpu"]
    status, _, err = call(capsys, "bench", *arguments)
    assert status == 1
    assert "find other distances among 500 codes" in err


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--table", "004/1"), 2, "004/3"),
        (("--batches", "0"), 2, "batches is (0,); expected whole numbers"),
        (("--codes", "1.5"), 2, "codes is (1.5,)"),
        (("--codes", "inf"), 2, "codes is (inf,)"),
        (("--codes", "50"), 2, "expected numbers up to that of codes, 50"),
        (("--limit", "0"), 2, "limit is 0.0; it must be positive"),
        (("--threads", "0"), 2, "threads is 0; it must be positive"),
        (("--backbones", "magic"), 2, "unknown backbone 'magic'"),
        (("--out", "nowhere/times.csv"), 1, "the folder nowhere does not exist"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_timed(
    arguments, status, said, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(speed004, "measure_speed")
    got, out, err = call(capsys, "bench", *arguments)
    assert (got, out) == (status, "")
    assert said in " ".join(err.replace("│", " ").split())


def test_the_numbers_agree_with_the_papers_text():
    def gain(data, others):
        """Of BRCD over the best other in ASHP, mean over the lengths of codes."""
        columns = [i for i, (d, _, p) in enumerate(TABLE_1_COLUMNS) if (d, p) == (data, "ashp")]
        best = [max(TABLE_1[name][i] for name in others) for i in columns]
        ratios = [TABLE_1["brcd"][i] / b for i, b in zip(columns, best, strict=True)]
        return round(100 * (sum(ratios) / len(ratios) - 1), 1)

    others = set(TABLE_1) - {"brcd", "none"}
    assert gain("cifar10-brcd", others) == 9.6
    assert gain("imagenet100", others) == 4.3
    assert gain("coco", others) == 3.1
    least = min(row["sshp"][1] / row["sshp"][0] for row in TABLE_2.values())
    assert int(100 * (least - 1)) == 22  # KL over no distillation
    for name, *numbers in zip(TABLE_2_COLUMNS, *TABLE_2["cibhash"].values(), strict=True):
        places = [TABLE_1_COLUMNS.index(("cifar10-brcd", 64, p)) for p in TABLE_2["cibhash"]]
        assert numbers == [TABLE_1[name][place] for place in places]
    assert round(INFERENCE_MS["vit_l_16"][0] / INFERENCE_MS["resnet18"][0]) == 7
    assert int(INFERENCE_MS["vit_l_16"][TABLE_3_BATCHES.index(64)]) == 657
