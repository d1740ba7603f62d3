"""`hashfast distill`, and searching and evaluating with a student what its teacher coded."""

import json
from dataclasses import asdict

import pytest
from cli_calls import answer, call
from PIL import Image

from hashfast import distill as room
from hashfast.cli import main
from hashfast.data import load
from hashfast.distill import DistillConfig
from hashfast.distill.learner import DistillLearner
from hashfast.hashing import HashModel
from hashfast.index import Gallery

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.* clusters of codes instead of k"),
]

SMALL = ["--bits", 8, "--batch-size", 64, "--epochs", 2, "--device", "cpu"]
STUDENT = [*SMALL, "--width", 4, "--method", "csq"]


def succeed(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    out = tmp_path_factory.mktemp("teacher") / "run"
    succeed("train", *SMALL, "--width", 16, "--learning-rate", 0.01, "--out", out)
    return out


@pytest.fixture(scope="module")
def student(teacher):
    """Folder of a student of BRCD, with the best of its epochs."""
    out = teacher.parent / "student"
    options = ["--distillation-options", "alpha=0.7", "k=4", "--evaluate-every", 1]
    succeed("distill", "--teacher", teacher, *STUDENT, *options, "--out", out)
    return out


@pytest.fixture(scope="module")
def stranger(teacher):
    """Folder of a student of RKD, whose codes are not its teacher's."""
    out = teacher.parent / "stranger"
    succeed("distill", "--teacher", teacher, *STUDENT, "--distillation", "rkd", "--out", out)
    return out


@pytest.fixture(scope="module")
def picture(teacher):
    path = teacher.parent / "seven.png"
    Image.fromarray(load("digits").query[7][0][0].numpy()).save(path)
    return path


def test_what_is_said_and_written(teacher, capsys, tmp_path):
    out = tmp_path / "run"
    arguments = ["distill", "--teacher", teacher, *STUDENT, "--out", out]
    status, shown, said = call(capsys, *arguments)
    assert status == 0
    written = json.loads((out / "results.json").read_text())
    lines = shown.splitlines()
    assert lines[0] == "SSHP: the student codes database and queries"
    assert "ASHP: the teacher codes the database, the student the queries" in lines
    for report in ("report", "report_ashp"):
        assert f"{written[report]['map']:.4f}" in shown
    assert f"alignment   {written['isd']:.2f} of 8 bits differ, NRA@100" in shown
    assert f"{written['nra@100']:.3f} (training set)" in shown
    assert f"written to  {out}" in lines
    assert "brcd 8 bits: 100%" in said
    assert {path.name for path in out.iterdir() if path.is_dir()} == {
        "database-sshp",
        "database-ashp",
    }
    # It is not overwritten, and a run that is whole says again what it found.
    status, _, err = call(capsys, *arguments)
    assert status == 1
    assert "--resume" in err
    again = answer(capsys, *arguments, "--resume")
    assert again["report_ashp"]["map"] == written["report_ashp"]["map"]
    assert again["out"] == str(out)


def test_codes_of_another_length_have_one_paradigm(teacher, capsys, tmp_path):
    arguments = ["distill", "--teacher", teacher, *STUDENT, "--bits", 12, "--distillation", "sp"]
    status, shown, _ = call(capsys, *arguments, "--out", tmp_path / "run")
    assert status == 0
    assert "not defined: the codes differ in length" in shown
    assert "alignment" not in shown


def test_a_student_searches_both_galleries(student, picture, capsys):
    for model, galleries in (
        (student, ("sshp", "ashp")),
        (student / "best-sshp", ("ashp",)),
        (student / "best-ashp", ("ashp",)),
    ):
        for name in galleries:
            gallery = student / f"database-{name}"
            arguments = ["search", gallery, "--image", picture, "--k", 3, "--model", model]
            (found,) = answer(capsys, *arguments)["results"]
            hits = found["hits"]
            code = HashModel.from_pretrained(model).encode(picture).numpy()
            distances, _ = Gallery.load(gallery).index.search(code, 3)
            assert [hit["distance"] for hit in hits] == distances[0].tolist()
            assert all(hit["item"].startswith("digits/database/") for hit in hits)


def test_each_gallery_names_its_model(student, teacher, picture, capsys):
    """Without --model the queries are coded by what coded the gallery."""
    for name, model in (("sshp", student), ("ashp", teacher)):
        gallery = student / f"database-{name}"
        (found,) = answer(capsys, "search", gallery, "--image", picture)["results"]
        code = HashModel.from_pretrained(model).encode(picture).numpy()
        distances, _ = Gallery.load(gallery).index.search(code, 10)
        assert [hit["distance"] for hit in found["hits"]] == distances[0].tolist()


def test_codes_that_are_not_the_teachers_are_refused(stranger, picture, capsys, tmp_path):
    gallery = stranger / "database-ashp"
    arguments = ["search", gallery, "--image", picture, "--model", stranger]
    status, out, err = call(capsys, *arguments)
    assert (status, out) == (1, "")
    assert "distances would mean nothing: it is the student's teacher, but rkd draws codes" in err
    assert "(--force searches all the same)" in err
    assert len(answer(capsys, *arguments, "--force")["results"][0]["hits"]) == 10
    # Its own are searched as ever.
    own = ["search", stranger / "database-sshp", "--image", picture]
    assert len(answer(capsys, *own)["results"][0]["hits"]) == 10
    encode_queries(stranger, tmp_path / "query")
    status, _, err = call(capsys, "eval", tmp_path / "query", gallery)
    assert status == 1
    assert "their distances mean nothing to each other (--force" in err


def encode_queries(model, out):
    succeed("encode", "digits", "--split", "query", "--model", model, "--out", out)


def test_evaluation_of_the_galleries_gives_the_results(student, capsys, tmp_path):
    encode_queries(student, tmp_path / "query")
    capsys.readouterr()
    results = json.loads((student / "results.json").read_text())
    for name, report in (("sshp", "report"), ("ashp", "report_ashp")):
        arguments = [tmp_path / "query", student / f"database-{name}", "--topk", 1000]
        assert answer(capsys, "eval", *arguments)["map"] == results[report]["map"]
    assert results["report"]["map"] != results["report_ashp"]["map"]
    assert load("digits").topk == 1000


def test_an_interrupted_run_goes_on(teacher, capsys, monkeypatch, tmp_path):
    arguments = ["distill", "--teacher", teacher, *STUDENT]
    whole = answer(capsys, *arguments, "--out", tmp_path / "whole")
    step, calls = DistillLearner.step, []

    def interrupted(self, *given):
        calls.append(given)
        if len(calls) == 12:  # of 8 steps an epoch
            raise KeyboardInterrupt
        return step(self, *given)

    monkeypatch.setattr(DistillLearner, "step", interrupted)
    status, out, err = call(capsys, *arguments, "--out", tmp_path / "run")
    assert (status, out) == (1, "")
    assert "interrupted; --resume continues from the last checkpoint" in err
    found = answer(capsys, *arguments, "--out", tmp_path / "run", "--resume")
    assert len(calls) == 12 + 8
    assert found["report_ashp"] == whole["report_ashp"]
    assert found["report"] == whole["report"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--teacher is missing: the folder of a model that was trained before"),
        (["--distillation", "brd"], "unknown distillation 'brd'; known: brcd, kl, sp, pkt, rkd"),
        (["--distillation-options", "alfa=1"], "brcd has no argument 'alfa'; its arguments: k,"),
        (["--distillation-options", "alpha=much"], "brcd got alpha=much; expected float"),
        (["--method", "cqs"], "unknown method 'cqs'; known: csq"),
        (["--data", "mnist"], "unknown protocol 'mnist'; known: digits"),
        (["--backbone", "convnet"], "convnet"),
        (["--anchor", "both"], "both"),
        (["--fixed-views", -1], "fixed_views is -1; it must be 0 or a positive number"),
        (["--base-weight", 0, "--distillation-weight", 0], "both 0: nothing would be learnt"),
        (["--frozen", "--fixed-views", 2], "leave fixed_views out"),
        (["--preset", "001/iem-cifar10"], "preset 001/iem-cifar10 is for hashfast condense"),
    ],
)
def test_bad_usage(capsys, monkeypatch, arguments, said):
    monkeypatch.setenv("COLUMNS", "200")
    status, out, err = call(capsys, "distill", *arguments)
    assert (status, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_folders_that_are_no_teacher(teacher, student, capsys, tmp_path):
    nothing = tmp_path / "nothing"
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for name in ("config.json", "model.safetensors"):
        content = (teacher / name).read_bytes()
        (damaged / name).write_bytes(content[: len(content) // 2])
    for folder, said in (
        (nothing, f"no model in {nothing}: it has no config.json"),
        (student / "database-ashp", "it has no config.json"),
        (damaged, str(damaged)),
    ):
        out = tmp_path / "run"
        status, shown, err = call(capsys, "distill", "--teacher", folder, *STUDENT, "--out", out)
        assert (status, shown) == (1, "")
        assert said in err
        assert "Traceback" not in err
        assert not out.exists()


def test_every_option_arrives(capsys, monkeypatch, tmp_path):
    seen = []

    def distill(config, out, resume):
        seen.append((config, out, resume))
        raise RuntimeError("nothing is distilled")

    monkeypatch.setattr(room, "distill", distill)
    monkeypatch.chdir(tmp_path)
    options = [
        *("--teacher", "t", "--distillation", "crd", "--distillation-options", "negatives=8"),
        *("--anchor", "augmented", "--compare", "outputs", "--base-weight", 0.5),
        *("--distillation-weight", 2, "--fixed-views", 3, "--cache", "c", "--bits", 24),
    ]
    for more in ([], ["--resume", "--out", "o"]):
        assert call(capsys, "distill", *options, *more)[0] == 1
    (config, out, resume), (_, other, resumed) = seen
    assert (str(out), resume) == ("runs/digits-crd-24", False)
    assert (str(other), resumed) == ("o", True)
    assert type(config) is DistillConfig
    found = {key: str(value) for key, value in asdict(config).items()}
    expected = {
        **{key: str(value) for key, value in asdict(DistillConfig()).items()},
        "teacher": "t",
        "distillation": "crd",
        "anchor": "augmented",
        "compare": "outputs",
        "distillation_options": "('negatives=8',)",
        "base_weight": "0.5",
        "cache": "c",
        "distillation_weight": "2.0",
        "fixed_views": "3",
        "bits": "24",
    }
    assert found == expected
