"""`hashfast reproduce`: every table and figure, from the command line, kept and gone on with."""

import csv
import json
from dataclasses import replace

import pytest
import torch
from cli_calls import answer, call
from PIL import Image
from train_runs import small_digits

from hashfast import plots, presets
from hashfast.hashing import train
from hashfast.hashing.learner import Learner
from hashfast.reproduce import PAPERS, experiment, measures, reproduce

SMALL = ("--data", "digits", "--epochs", 1, "--device", "cpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Few images, a tiny network and few points."""
    monkeypatch.setattr(experiment, "load", lambda *args, **options: small_digits())
    for name, value in (("SAMPLE", 40), ("QUERIES", 1), ("NEIGHBOURS", 2)):
        monkeypatch.setattr(measures, name, value)
    tiny = {
        name: replace(preset, settings={**preset.settings, "width": 4.0})
        for name, preset in presets.PRESETS.items()
        if name.startswith(presets.STAND_IN)
    }
    monkeypatch.setattr(presets, "PRESETS", {**presets.PRESETS, **tiny})


@pytest.fixture
def trained(monkeypatch):
    """The settings of every training."""
    seen = []

    def counted(config, *args, **options):
        seen.append(config)
        return train(config, *args, **options)

    monkeypatch.setattr(measures, "train", counted)
    return seen


def kept(out):
    return {path.name: json.loads(path.read_text()) for path in (out / "runs").glob("*.json")}


def test_a_table_of_map(capsys, tmp_path, trained):
    arguments = ["002", "--table", 1, *SMALL, "--methods", "csq", "--bits", 16]
    found = answer(capsys, "reproduce", *arguments, "--seeds", 3, 5, "--out", tmp_path)
    assert len(trained) == found["runs"] == 3 * 2
    assert {config.seed for config in trained} == {3, 5}
    assert list(found["table"]) == ["CSQ", "CSQ-S", "CSQ-C"]
    assert list(found["table"]["CSQ"]) == ["digits 16 bits"]

    settings = presets.find_preset("fashion-mnist/csq-c").config(
        data="digits", epochs=1, bits=16, device="cpu"
    )
    cell, base = (found["table"][row]["digits 16 bits"] for row in ("CSQ-C", "CSQ"))
    for seed, value in zip((3, 5), cell["values"], strict=True):
        alone = train(replace(settings, seed=seed), splits=small_digits(), progress=False)
        assert value == alone.report.map
    assert cell["mean"] == pytest.approx(sum(cell["values"]) / 2)
    assert cell["deviation"] == pytest.approx(abs(cell["values"][0] - cell["values"][1]) / 2**0.5)
    assert cell["change"] == pytest.approx(cell["mean"] / base["mean"] - 1)
    # The paper's, of CIFAR-10.
    assert (cell["paper"], base["paper"]) == (0.8457, 0.8069)
    assert cell["paper_change"] == pytest.approx(0.048, abs=5e-4)
    assert found["stand_in"]
    title = "STAND-IN on digits, small network (the paper's figures: cifar10, VGG11). 002 table 1"
    assert found["title"].startswith(title)
    assert (tmp_path / "table.md").read_text().startswith(f"# {title}")
    assert json.loads((tmp_path / "table.json").read_text()) == found
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    assert float(rows[-1]["mean"]) == cell["mean"]
    assert rows[-1]["paper"] == "0.8457"
    assert rows[-1]["seeds"] == "2"


def test_nothing_is_done_twice(capsys, tmp_path, trained):
    arguments = ["reproduce", "002", "--table", "1", *SMALL, "--methods", "csq", "--bits", 8]
    arguments += ["--seeds", 0, "--out", tmp_path]
    first = call(capsys, *arguments)
    assert len(trained) == 3
    assert "CSQ-C, digits 8 bits, seed 0" in first[2]
    again = call(capsys, *arguments)
    assert len(trained) == 3
    assert again[:2] == first[:2]
    # Only what is new is done; folders of whole runs are gone.
    assert call(capsys, *arguments, "--seeds", 0, 1)[0] == 0
    assert [config.seed for config in trained[3:]] == [1, 1, 1]
    assert all(path.suffix == ".json" for path in (tmp_path / "runs").iterdir())
    assert len(kept(tmp_path)) == 6
    assert call(capsys, *arguments, "--epochs", 2)[0] == 0
    assert len(trained) == 9


def test_experiments_share_a_folder_but_no_runs_that_measure_other_things(tmp_path, trained):
    common = {"data": "digits", "epochs": 1, "bits": (16,), "methods": ("csq",), "seeds": (0,)}
    common |= {"device": "cpu", "out": tmp_path, "progress": False}
    reproduce("002", table="1", **common)
    reproduce("002", figure="5", **common)
    assert len(trained) == 3
    reproduce("002", figure="4", **common)
    assert len(trained) == 6


def test_an_interrupted_call_goes_on(capsys, tmp_path, monkeypatch):
    arguments = ["reproduce", "002", "--table", "1", "--data", "digits", "--device", "cpu"]
    arguments += ["--methods", "csq", "--bits", 8, "--seeds", 0, "--epochs", 2]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert call(capsys, *arguments, "--out", whole)[0] == 0

    steps, real = [], Learner.step

    def step(self, *args):
        steps.append(self.config.quantization)
        if stop and len(steps) == stop:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(Learner, "step", step)
    stop = 6 + 5  # 3 steps an epoch, 2 epochs: in the second epoch of the second run
    status, out, err = call(capsys, *arguments, "--out", stopped)
    assert (status, out) == (1, "")
    assert "interrupted" in err
    assert len(kept(stopped)) == 1
    stop = 0
    steps.clear()
    assert call(capsys, *arguments, "--out", stopped)[0] == 0
    assert steps == ["swd"] * 3 + ["hswd"] * 6
    results = [json.loads((folder / "table.json").read_text()) for folder in (whole, stopped)]
    assert results[0]["table"] == results[1]["table"]


def test_precision_at_1000(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "load", lambda *args, **options: wide)
    small = small_digits()
    everything = torch.arange(len(small.database)).repeat(4)
    wide = replace(small, database=small.database.subset(everything))
    arguments = ["002", "--table", 2, *SMALL, "--methods", "dch", "--bits", 8, "--seeds", 0]
    found = answer(capsys, "reproduce", *arguments, "--out", tmp_path)
    (result,) = (r["result"] for name, r in kept(tmp_path).items() if "-hswd-" in name)
    cell = found["table"]["DCH-C"]["digits 8 bits"]
    assert cell["mean"] == result["report"]["precision_at"]["1000"]
    assert 0.05 < cell["mean"] < 0.5

    monkeypatch.setattr(experiment, "load", lambda *args, **options: small)
    status, _, err = call(capsys, "reproduce", *arguments, "--out", tmp_path / "narrow")
    assert status == 1
    assert "a database of 1,000 images" in err


def test_seconds_an_epoch(capsys, tmp_path, monkeypatch):
    turns, real = [], Learner.step

    def step(self, step, *args):
        turns.append((step, self.config.quantization))
        return real(self, step, *args)

    monkeypatch.setattr(Learner, "step", step)
    arguments = ["002", "--table", 3, "--data", "digits", "--device", "cpu", "--bits", 8]
    arguments += ["--methods", "dsdh", "csq", "--epochs", 2, "--out", tmp_path]
    found = answer(capsys, "reproduce", *arguments)
    # Three kinds take turns at every batch: 3 to warm up, then 3 an epoch; for two methods.
    assert len(turns) == 2 * 3 * (3 + 3 + 3)
    for i in range(0, len(turns), 3):
        assert {kind for _, kind in turns[i : i + 3]} == {"original", "swd", "hswd"}
        assert len({number for number, _ in turns[i : i + 3]}) == 1
    assert len({kind for _, kind in turns[9:27:3]}) == 3  # each goes first at times

    rows = found["table"]
    assert list(rows) == ["digits, DSDH", "digits, CSQ", "digits, mean"]
    for name, result in kept(tmp_path).items():
        row = rows["digits, DSDH" if name.startswith("dsdh") else "digits, CSQ"]
        for part in ("epoch", "loss"):
            seconds = {kind: sum(v) / 2 for kind, v in result["result"][part].items()}
            assert row[f"{part}: SWD"]["mean"] == pytest.approx(seconds["swd"])
            ratio = seconds["hswd"] / seconds["original"]
            assert row[f"{part}: HSWD / original"]["mean"] == pytest.approx(ratio)
    mean = sum(rows[f"digits, {name}"]["epoch: HSWD"]["mean"] for name in ("DSDH", "CSQ")) / 2
    cells = rows["digits, mean"]
    assert cells["epoch: HSWD"]["mean"] == pytest.approx(mean)
    assert cells["epoch: HSWD"]["paper"] == 17.1
    assert cells["epoch: SWD / original"]["paper"] == pytest.approx(24.2 / 19.4)
    assert cells["loss: SWD"]["paper"] is None
    assert any("processor time" in note for note in found["notes"])
    assert len(answer(capsys, "reproduce", *arguments)["table"]) == 3
    assert len(turns) == 54


@pytest.mark.parametrize(
    ("asked", "runs", "rows", "pictures"),
    [
        (("002", "figure 2", "csq"), 2, ["CSQ", "CSQ-C"], 1),
        (("002", "figure 4", "csq"), 3, ["CSQ", "CSQ-S", "CSQ-C"], 1),
        (("002", "figure 5", "dbdh"), 3, [f"DBDH{m}, 32 bits" for m in ("", "-S", "-C")], 1),
        (("003", "table deformation", "dch"), 3, None, 0),
        (("003", "figure A"), 0, None, 1),
        (("003", "figure b"), 1, ["digits 64 bits"], 1),
        (("003", "figure E"), 0, None, 1),
        (("003", "figure F"), 1, ["digits 64 bits"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_tables_and_figures(capsys, tmp_path, trained, asked, runs, rows, pictures):
    paper, name, *methods = asked
    arguments = [paper, f"--{name.split()[0]}", name.split()[1], "--data", "digits"]
    arguments += ["--methods", *methods] if methods else []
    arguments += ["--seeds", 0, "--epochs", 1, "--device", "cpu", "--out", tmp_path]
    found = answer(capsys, "reproduce", *arguments)
    assert len(trained) == found["runs"] == runs
    assert len(found["pictures"]) == pictures
    for path in found["pictures"]:
        assert Image.open(path).size[0] > 300
        assert f"]({path.rpartition('/')[2]})" in (tmp_path / "table.md").read_text()
    if rows is not None:
        assert list(found["table"]) == rows
    assert (found["table"] is None) == (runs == 0)


def test_tables_of_dhd_vary_one_setting(capsys, tmp_path, trained):
    arguments = [*SMALL, "--bits", 16, "--seeds", 0]
    a, b, c = (
        answer(capsys, "reproduce", "003", "--table", name, *arguments, "--out", tmp_path / name)
        for name in "ABc"
    )
    assert [config.options for config in trained[:5]] == [
        (f"tau={t / 10}",) for t in (2, 4, 6, 8, 10)
    ]
    assert {config.augment_scale for config in trained[:5]} == {0.2}  # the stand-in's
    assert list(a["table"]) == [f"tau = {t / 10}" for t in (2, 4, 6, 8, 10)]
    assert a["table"]["tau = 0.6"]["digits 16 bits"]["paper"] == 0.858

    scales = [0.2, 0.4, 0.5, 0.6, 0.8, 1.0]
    assert [config.augment_scale for config in trained[5:11]] == scales
    assert len({replace(config, augment_scale=0) for config in trained[5:11]}) == 1
    assert list(b["table"]) == [f"s_T = {scale}" for scale in scales]

    assert trained[11:][4].options == ("tau=0.2", "distill_weight=0.1", "sigma=0.5")
    weights = [config.quantization_weight for config in trained[11:]]
    assert weights == [0.1, 0.1, 0.1, 0.05, 0.5, 0.1, 0.1]
    cell = c["table"]["lambda1 = 0.1, lambda2 = 0.1, sigma = 0.25"]["16 bits"]
    assert cell["paper"] == 0.654


def test_deformed_queries(capsys, tmp_path, trained):
    arguments = ["003", "--table", "deformation", *SMALL, "--methods", "csq", "--bits", 8]
    found = answer(capsys, "reproduce", *arguments, "--out", tmp_path)["table"]
    assert [row.removeprefix("digits 8 bits, ") for row in found] == [
        "DHD",
        "DHD, lambda1 = 0",
        "csq",
    ]
    settings = [(config.method, config.options, config.augment) for config in trained]
    assert settings == [
        ("dhd", ("tau=0.2",), "dhd"),
        ("dhd", ("tau=0.2", "distill_weight=0"), "dhd"),
        ("csq", (), "standard"),
    ]
    results = {r["settings"]["method"]: r["result"] for r in kept(tmp_path).values()}
    cells = found["digits 8 bits, csq"]
    assert list(cells)[:2] == ["none", "cutout"]
    assert len(cells) == 8
    assert cells["none"]["mean"] == results["csq"]["report"]["map"]
    assert len({cell["mean"] for cell in cells.values()}) > 4


def test_distances_go_on_where_they_stopped(tmp_path, monkeypatch):
    common = {"data": "digits", "epochs": 2, "bits": (8,), "device": "cpu", "progress": False}
    common |= {"methods": ("csq",), "figure": "3"}
    drawn, draw = [], plots.distance_curves
    monkeypatch.setattr(plots, "distance_curves", lambda *args: (drawn.append(args), draw(*args)))
    whole = reproduce("002", out=tmp_path / "whole", **common)
    assert [path.name for path in whole.pictures] == ["distances.png"]
    assert list(whole.table.rows) == ["CSQ-S", "CSQ-C"]

    calls, real = [], measures._distances

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(measures, "_distances", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reproduce("002", out=tmp_path / "stopped", **common)
    reproduce("002", out=tmp_path / "stopped", **common)
    assert len(calls) == 1 + 1 + 1 + 2  # up to the interruption, the rest of it, the other run
    histories = [
        {name: result["result"]["history"] for name, result in kept(tmp_path / folder).items()}
        for folder in ("whole", "stopped")
    ]
    assert histories[0] == histories[1]
    curves = {tuple(curve["swd"]) for curve in drawn[0][0].values()}
    assert curves == {tuple(p["swd"] for p in history) for history in histories[0].values()}
    for name, history in histories[0].items():
        assert [point["epoch"] for point in history] == [1, 2]
        final = kept(tmp_path / "whole")[name]["result"]["report"]["map"]
        assert history[-1]["map"] == final
        assert all(0 < point["hswd"] < 10 and 0 < point["swd"] < 10 for point in history)


def test_it_lists_what_there_is(capsys):
    status, out, _ = call(capsys, "reproduce")
    assert status == 0
    for paper, (title, experiments) in PAPERS.items():
        assert f"{paper}  {title}" in out
        for name, found in experiments.items():
            assert f"--{name} " in out
            assert found.what in out
    assert list(answer(capsys, "reproduce", "003")) == ["003"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["005"], 2, "unknown paper '005'; known: 000, 001, 002, 003"),
        (["002", "--table", "9"], 2, "002 has no table 9; it has table 1"),
        (["002", "--table", "1", "--figure", "2"], 2, "one table or one figure"),
        (["--table", "1"], 2, "name the paper"),
        (["002", "--table", "1", "--data", "mnist"], 2, "unknown protocol 'mnist'"),
        (["002", "--table", "1", "--methods", "dpn"], 1, "dpn is none of the paper's methods"),
        (["002", "--figure", "2", "--bits", "8"], 1, "codes of 2 bits"),
        (["003", "--table", "A", "--methods", "csq"], 1, "methods cannot be chosen"),
        (["002", "--table", "1", "--epochs", "0"], 1, "epochs is 0"),
    ],
)
def test_what_cannot_be_is_refused(capsys, monkeypatch, tmp_path, trained, arguments, status, said):
    monkeypatch.chdir(tmp_path)
    found, _, err = call(capsys, "reproduce", *arguments)
    assert found == status
    assert said in " ".join(err.replace("│", "").split())
    assert not trained
