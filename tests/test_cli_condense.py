"""`hashfast condense`, and what other commands say of condensation."""

import json
from dataclasses import asdict

import pytest
from cli_calls import answer, call

from hashfast import condense as room
from hashfast.condense import METHODS, CondenseConfig, loop
from hashfast.condense.evaluation_config import EvaluationConfig
from hashfast.condense.step import Step
from hashfast.data import CondensedSet
from hashfast.presets import find_preset

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = [
    *("--width", 4, "--ipc", 2, "--networks", 4, "--inner-steps", 2, "--real-batch", 5),
    *("--hashing", "orthohash", "--bits", 8, "--pool-size", 1, "--pool-epochs", 1),
    *("--evaluate-methods", "orthohash", "--evaluate-bits", 8, "--evaluate-steps", 4),
    *("--device", "cpu"),
]


@pytest.fixture(scope="module")
def condensed(tmp_path_factory):
    """Folder, output and what was said of a small condensation that was evaluated."""
    import contextlib
    import io

    from hashfast.cli import main

    out = tmp_path_factory.mktemp("condensed") / "run"
    said, shown = io.StringIO(), io.StringIO()
    arguments = ["condense", *TINY, "--evaluate-seeds", 0, 1, "--out", out]
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(said):
        assert main([str(argument) for argument in arguments]) == 0
    return out, shown.getvalue(), said.getvalue()


def test_the_table_has_random_and_herding_beside(condensed):
    out, shown, said = condensed
    lines = shown.splitlines()
    assert lines[0].split() == ["convnet3", "orthohash", "mAP"]
    assert [line.split()[0] for line in lines[1:4]] == ["Random", "Herding", "IEM"]
    assert "deviation of 2 seeds, mAP@1000" in lines[4]
    assert "condensed   20 images, 2 a class, decoded into 80 training images" in lines
    assert any(line.startswith("took        ") and line.endswith(" s") for line in lines)
    assert f"written to  {out}" in lines
    assert "iem 2 a class: 100%" in said


def test_what_is_written(condensed):
    out, _, _ = condensed
    found = CondensedSet.load(out)
    assert found.images.shape == (20, 1, 8, 8)
    assert found.factor == 2
    results = json.loads((out / "results.json").read_text())
    assert results["fingerprint"] == found.fingerprint()
    assert results["protocol"]["name"] == "digits"
    assert results["settings"]["networks"] == 4
    assert results["seconds"] > 0
    cells = results["comparison"]["rows"]["IEM"]["convnet3 orthohash mAP"]
    assert len(cells["values"]) == 2
    assert cells["mean"] == pytest.approx(sum(cells["values"]) / 2)
    assert list((out / "networks").glob("*.safetensors"))  # herding's


def test_a_run_is_not_overwritten(condensed, capsys):
    out, shown, _ = condensed
    before = (out / "condensed.safetensors").read_bytes()
    arguments = ["condense", *TINY, "--evaluate-seeds", 0, 1, "--out", out]
    status, _, err = call(capsys, *arguments)
    assert status == 1
    assert "--resume" in err
    # A run that is whole says again what it found.
    assert call(capsys, *arguments, "--resume")[:2] == (0, shown)
    compared = json.loads((out / "results.json").read_text())["comparison"]
    assert call(capsys, *arguments, "--resume", "--no-evaluate")[0] == 0
    assert json.loads((out / "results.json").read_text())["comparison"] == compared
    status, _, err = call(capsys, *arguments, "--resume", "--learning-rate", 0.5)
    assert status == 1
    assert "learning_rate" in err
    assert (out / "condensed.safetensors").read_bytes() == before


def test_a_network_trains_on_what_was_condensed(condensed, capsys, tmp_path):
    out, _, _ = condensed
    options = ["--width", 4, "--epochs", 1, "--device", "cpu", "--out", tmp_path / "run"]
    found = answer(capsys, "train", "--condensed", out, *options)
    assert found["protocol"]["sizes"]["train"] == 80
    mean, std = (CondensedSet.load(out).info[key] for key in ("mean", "std"))
    config = json.loads((tmp_path / "run" / "config.json").read_text())["model"]
    assert (config["mean"], config["std"]) == (mean, std)


def test_an_interrupted_run_goes_on(capsys, monkeypatch, tmp_path):
    arguments = ["condense", *TINY, "--no-evaluate", "--evaluate-every", 2]
    whole = answer(capsys, *arguments, "--out", tmp_path / "whole")
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    step, calls = Step.__call__, []

    def interrupted(self, *given):
        calls.append(given)
        if len(calls) == 6:  # in the third network
            raise KeyboardInterrupt
        return step(self, *given)

    monkeypatch.setattr(Step, "__call__", interrupted)
    status, out, err = call(capsys, *arguments, "--out", tmp_path / "run")
    assert (status, out) == (1, "")
    assert "interrupted; --resume continues from the last checkpoint" in err
    assert not (tmp_path / "run" / "condensed.safetensors").exists()
    found = answer(capsys, *arguments, "--out", tmp_path / "run", "--resume")
    assert len(calls) == 6 + 4
    assert found["fingerprint"] == whole["fingerprint"]
    assert found["comparison"] is None
    maps = [[line["networks"], line["map"]] for line in found["history"]]
    assert maps == [[line["networks"], line["map"]] for line in whole["history"]]
    assert [networks for networks, _ in maps] == [2, 4]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["map"] for line in lines] == [found for _, found in maps]
    assert not (tmp_path / "run" / "evaluation").exists()


def test_selections_are_condensations_too(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments = ["--method", "random", "--evaluate-baselines", "random", "--evaluate-seeds", 0]
    found = answer(capsys, "condense", *TINY[:4], *TINY[10:], *arguments)
    assert found["out"] == "runs/digits-random-ipc2"
    assert list(found["comparison"]["rows"]) == ["Random", "Random, this set"]
    rows = found["comparison"]["rows"].values()
    assert len({row["convnet3 orthohash mAP"]["mean"] for row in rows}) == 1  # of the same seed
    assert (tmp_path / "runs" / "digits-random-ipc2" / "condensed.png").is_file()


def test_baselines_that_lack_images_are_named_before_anything_is_learnt(capsys, tmp_path):
    arguments = ["condense", *TINY, "--ipc", 51, "--out", tmp_path / "run"]
    status, out, err = call(capsys, *arguments)
    assert (status, out) == (1, "")
    assert "class 0 has 50 training images and ipc is 51" in err
    assert "at most 50" in err
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made_fails_before_anything_is_learnt(
    capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(Step, "__call__", lambda *_: pytest.fail("a step was made"))
    (tmp_path / "file").touch()
    status, out, err = call(capsys, "condense", *TINY, "--out", tmp_path / "file" / "run")
    assert (status, out) == (1, "")
    assert str(tmp_path / "file") in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "dd"], "unknown method 'dd'; known: random, herding, dm, dsa, idc, iem"),
        (["--data", "mnist"], "unknown protocol 'mnist'; known: digits"),
        (["--backbone", "convnet"], "convnet"),
        (["--ipc", 0], "ipc is 0; it must be at least 1"),
        (["--ipc", "many"], "--ipc"),
        (["--hashing", "cqs"], "hashing: unknown method 'cqs'; known: csq"),
        (["--augment", "none", "--strategy", "color"], "strategy is 'color' and augment none"),
        (["--evaluate-steps", 0], "evaluate_steps is 0; it must be at least 1"),
        (["--evaluate-methods", "cqs"], "unknown method 'cqs'"),
        (["--evaluate-backbones", "vgg"], "vgg"),
        (["--evaluate-every", -1], "evaluate_every is -1; it must be 0 or a positive number"),
        (["--preset", "002/csq"], "preset 002/csq is for hashfast train"),
        (["--preset", "001/iem-cifar100"], "close names: 001/iem-cifar10"),
    ],
)
def test_bad_usage(capsys, monkeypatch, arguments, said):
    monkeypatch.setenv("COLUMNS", "200")
    status, out, err = call(capsys, "condense", *arguments)
    assert (status, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_training_takes_no_preset_of_condensation(capsys):
    status, _, err = call(capsys, "train", "--preset", "001/iem-cifar10")
    assert status == 2
    assert "hashfast condense --preset 001/iem-cifar10" in err


@pytest.fixture
def condensed_with(monkeypatch, capsys, tmp_path):
    """The settings that `hashfast condense ARGUMENTS` would condense with."""

    class Stop(RuntimeError):
        pass

    def condensed_with(*arguments):
        seen = []

        def condense(config, *args, **options):
            seen.append(config)
            raise Stop("nothing is condensed")

        monkeypatch.setattr(room, "condense", condense)
        status, _, err = call(capsys, "condense", *arguments, "--out", tmp_path)
        assert (status, len(seen)) == (1, 1), err
        return asdict(seen[0])

    return condensed_with


def test_every_option_arrives(condensed_with):
    pool = ["--pool-folder", "pool"]
    found = condensed_with(
        *("--ipc", 3, "--network-augmentation", "False", "--perturbation", 0.1, 0.2),
        *("--hashing-options", "tau=0.3", "--learning-rate", 2, *pool),
    )
    expected = CondenseConfig(
        ipc=3,
        network_augmentation=False,
        perturbation=(0.1, 0.2),
        hashing_options=("tau=0.3",),
        learning_rate=2.0,
    )
    assert str(found.pop("pool_folder")) == "pool"
    wanted = asdict(expected)
    wanted.pop("pool_folder")
    assert found == wanted


def test_a_preset_gives_way_to_the_user(condensed_with, tmp_path):
    settings = find_preset("fashion-mnist/iem").settings
    file = tmp_path / "options.yaml"
    file.write_text("data: digits\nipc: 4\nreal-batch: 3\n")
    found = condensed_with("--preset", "fashion-mnist/iem", "--config", file, "--ipc", 5)
    for key, value in {**settings, "data": "digits", "ipc": 5, "real_batch": 3}.items():
        if key in found:
            assert found[key] == value, key
        else:
            assert key in EvaluationConfig.__dataclass_fields__


def test_methods_lists_and_describes_condensation(capsys):
    listed = answer(capsys, "methods")["condensation"]
    assert listed == {name: method.summary for name, method in METHODS.items()}
    _, out, _ = call(capsys, "methods")
    assert f"  iem              {METHODS['iem'].summary}\n" in out
    found = answer(capsys, "methods", "iem")
    assert found["defaults"] == METHODS["iem"].defaults(10)
    _, out, _ = call(capsys, "methods", "iem")
    assert out.startswith(str(METHODS["iem"].__doc__).splitlines()[0])
    assert "settings of its own, with 10 images a class\n  --factor 2\n" in out
    found = answer(capsys, "methods", "001/iem-cifar10")
    assert found["command"] == "condense"
    assert found["settings"]["method"] == "iem"


@pytest.mark.parametrize("method", METHODS)
def test_methods_names_settings_that_condense_takes(capsys, method):
    for name, value in answer(capsys, "methods", method)["defaults"].items():
        assert getattr(CondenseConfig(method=method, **{name: value}), name) == value
