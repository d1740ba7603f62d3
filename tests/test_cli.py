"""The command line as a user types it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from cli_calls import call
from PIL import Image

import hashfast
from hashfast.cli import COMMANDS, main
from hashfast.data import load


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small model trained from the command line, with galleries of digits."""
    folder = tmp_path_factory.mktemp("cli")
    config = folder / "train.yaml"
    config.write_text("method: orthohash\nwidth: 16\nepochs: 9\nlearning-rate: 0.003\n")
    run = folder / "run"
    arguments = ["--config", config, "--epochs", 8, "--out", run]
    assert main([str(a) for a in ["train", *arguments]]) == 0
    for split in ("query", "database"):
        out = folder / split
        status = main(
            ["encode", "digits", "--split", split, "--model", str(run), "--out", str(out)]
        )
        assert status == 0
    return folder


def test_train_writes_a_run(trained):
    results = json.loads((trained / "run" / "results.json").read_text())
    assert results["config"]["method"] == "orthohash"
    assert results["config"]["epochs"] == 8  # the command line wins over the file
    assert results["config"]["learning_rate"] == 0.003
    assert results["protocol"]["name"] == "digits"
    # Random projections of the pixels reach about 0.55.
    assert results["report"]["map"] > 0.75
    lines = (trained / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, 9))


def test_train_refuses_to_overwrite(trained, capsys):
    status, _, err = call(capsys, "train", "--method", "orthohash", "--out", trained / "run")
    assert status == 1
    assert "--resume" in err


def test_eval_agrees_with_training(trained, capsys):
    arguments = ["eval", trained / "query", trained / "database", "--topk", 1000]
    status, out, _ = call(capsys, *arguments, "--json")
    assert status == 0
    results = json.loads((trained / "run" / "results.json").read_text())
    assert json.loads(out)["map"] == pytest.approx(results["report"]["map"], abs=1e-12)
    plot = trained / "pr.png"
    assert call(capsys, *arguments, "--ties", "expected", "--plot", plot)[0] == 0
    assert Image.open(plot).size[0] > 300


def test_search_finds_the_picture_itself(trained, capsys):
    database = load("digits").database
    picture = trained / "digit.png"
    Image.fromarray(database.batch([5])[0][0, 0].numpy()).save(picture)
    status, out, _ = call(
        capsys, "search", trained / "database", "--image", picture, "--k", 5, "--json"
    )
    assert status == 0
    hits = json.loads(out)["results"][0]["hits"]
    assert len(hits) == 5
    assert hits[0]["distance"] == 0
    assert [h["distance"] for h in hits] == sorted(h["distance"] for h in hits)
    arguments = ["search", trained / "database", "--image", picture, "--radius", 0]
    status, out, _ = call(capsys, *arguments)
    assert "digits/database/5\n" in out + "\n"


def test_search_refuses_codes_of_another_model(trained, capsys, tmp_path):
    other = tmp_path / "other"
    assert main(["train", "--width", "8", "--epochs", "1", "--out", str(other)]) == 0
    arguments = ["search", trained / "database", "--model", other, "--image", trained / "digit.png"]
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(trained / "digit.png")
    status, _, err = call(capsys, *arguments)
    assert status == 1
    assert "--force" in err
    assert call(capsys, *arguments, "--force")[0] == 0


def test_encode_a_messy_folder(trained, capsys, tmp_path):
    pictures = tmp_path / "pictures"
    (pictures / "deep").mkdir(parents=True)
    Image.new("RGBA", (30, 20), (255, 0, 0, 128)).save(pictures / "a.png")
    Image.new("CMYK", (16, 16)).save(pictures / "deep" / "b.jpg")
    (pictures / "deep" / "empty.png").write_bytes(b"")
    out = tmp_path / "codes"
    arguments = ["encode", pictures / "deep", "--model", trained / "run", "--out", out]
    status, text, _ = call(capsys, *arguments)
    assert status == 0
    assert "1 codes of 32 bits" in text
    assert "empty.png" in (out / "unreadable.csv").read_text()
    arguments.append("--overwrite")
    status, _, err = call(capsys, *arguments, "--strict")
    assert status == 1
    assert "empty.png: the file is empty" in err
    (pictures / "deep" / "b.jpg").unlink()
    status, _, err = call(capsys, *arguments)
    assert status == 1
    assert "none of the 1 pictures" in err
    status, _, err = call(capsys, "encode", "nowhere", *arguments[2:])
    assert status == 1
    assert "neither a folder, nor a picture, nor a protocol" in err


def test_index_joins_and_describes(trained, capsys, tmp_path):
    both = tmp_path / "both"
    status, out, _ = call(capsys, "index", trained / "query", trained / "database", "--out", both)
    assert status == 0
    assert "1297 codes of 32 bits" in out
    status, out, _ = call(capsys, "index", both, "--json")
    assert json.loads(out)["codes"] == 1297
    npy = tmp_path / "codes.npy"
    np.save(npy, np.arange(12, dtype=np.uint8).reshape(3, 4))
    status, out, _ = call(capsys, "index", npy, "--json")
    assert json.loads(out) == {"codes": 3, "bits": 32, "distinct": 3, "labelled": 0}
    arguments = ["index", npy, trained / "query", "--out", both, "--overwrite"]
    status, _, err = call(capsys, *arguments)
    assert status == 1
    assert "--force" in err
    status, out, _ = call(capsys, "index", both / "codes.ibxf")
    assert status == 0
    np.save(npy, np.zeros((2, 4)))
    assert call(capsys, "index", npy)[0] == 1


def test_methods_and_doctor(capsys):
    status, out, _ = call(capsys, "methods", "--json")
    listed = json.loads(out)
    assert status == 0
    assert {"csq", "orthohash"} <= listed["methods"].keys()
    assert all(listed["methods"].values())
    assert "fashion-mnist" in listed["protocols"]
    status, out, _ = call(capsys, "doctor", "--json")
    found = json.loads(out)["operations"]["hamming_topk"]["cpu"]
    assert (found["backend"] == "C++") != bool(found["why"])
    assert json.loads(out)["environment"]["hash tables"] == "loaded"


def test_doctor_tells_why_there_are_no_hash_tables(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "hashfast._index", None)
    _, out, _ = call(capsys, "doctor")
    assert "hash tables   none: the compiled module hashfast._index cannot be loaded" in out
    with pytest.raises(ImportError, match="build the package again"):
        hashfast.IndexBinaryMultiHash(64)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ((), 2, "usage: hashfast"),
        (("--help",), 0, "usage: hashfast"),
        (("trian",), 2, "did you mean train"),
        (("train", "--bitz", "3"), 2, "bitz"),
        (("train", "--bits", "0"), 2, "at least 1"),
        (("train", "--method", "magic", "--out", "x"), 2, "unknown method 'magic'"),
        (("train", "--data", "magic"), 2, "unknown protocol 'magic'"),
        (("train", "--backbone", "magic"), 2, "unknown backbone 'magic'"),
        (("train", "--options", "magic=1"), 2, "csq has no argument 'magic'"),
        (("train", "--bits", "2", "--width", "4"), 1, "10 classes need 10 different codes"),
        (("train", "--config", "absent.yaml"), 2, "absent.yaml"),
        (("eval", "here", "there"), 1, "no gallery in here"),
    ],
)
def test_usage_errors(arguments, status, said, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    got, out, err = call(capsys, *arguments)
    assert got == status
    assert said in out + err


def test_config_file_is_checked(capsys, tmp_path):
    config = tmp_path / "bad.yaml"
    config.write_text("bitz: 3\n")
    status, _, err = call(capsys, "train", "--config", config)
    assert status == 2
    assert "unknown option(s) bitz" in err


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_is_quick_and_on_standard_output(command, capsys):
    status, out, _ = call(capsys, command, "--help")
    assert status == 0
    assert f"hashfast {command}" in out


def test_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "hashfast", "--version"],
        capture_output=True, text=True, check=False, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.startswith("hashfast ")
