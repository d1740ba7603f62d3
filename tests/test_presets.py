"""Presets build what they say, and give way to what the user asks for."""

import json
from dataclasses import asdict

import pytest
from cli_calls import answer, call

from hashfast import hashing, losses
from hashfast.data import PROTOCOLS, load
from hashfast.hashing import TrainConfig
from hashfast.hashing.methods import build_criterion
from hashfast.presets import FAMILIES, PRESETS, QUANTIZATION_METHODS, find_preset


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture
def trained_with(monkeypatch, capsys):
    """The settings that `hashfast train ARGUMENTS` would train with."""

    class Stop(RuntimeError):
        pass

    def trained_with(*arguments):
        seen = []

        def train(config, *args, **options):
            seen.append(config)
            raise Stop("no training")

        monkeypatch.setattr(hashing, "train", train)
        status, _, err = call(capsys, "train", *arguments)
        assert (status, len(seen)) == (1, 1), err
        return seen[0]

    return trained_with


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_run(digits, name):
    config = find_preset(name).config(bits=16)
    assert config.bits == 16
    assert config.data in PROTOCOLS
    criterion = build_criterion(config, digits)
    assert isinstance(criterion, losses.METHODS[config.method])
    assert find_preset(name).description
    assert find_preset(name).source


def test_names_say_method_and_quantisation():
    for family in ("002", "fashion-mnist"):
        for method in ("dsdh", "hashnet", "greedyhash", "dch", "csq", "dbdh"):
            for mark, quantization in (("", "original"), ("-s", "swd"), ("-c", "hswd")):
                settings = PRESETS[f"{family}/{method}{mark}"].settings
                assert settings["method"] == method
                assert settings["quantization"] == quantization
    assert len(PRESETS) == 2 * 18 + 3 + 2
    assert list(QUANTIZATION_METHODS) == ["dsdh", "hashnet", "greedyhash", "dch", "csq", "dbdh"]


def test_settings_of_the_papers(digits):
    config = find_preset("002/csq-c").config()
    assert (config.backbone, config.weights, config.image_size) == ("vgg11", "pretrained", 224)
    assert (config.optimizer, config.learning_rate, config.schedule) == ("adam", 1e-5, "constant")
    assert (config.epochs, config.batch_size, config.weight_decay) == (200, 64, 1e-5)
    assert build_criterion(config, digits).quantization_weight == 0.1
    bank = build_criterion(find_preset("002/hashnet").config(), digits).memory
    assert bank is not None
    assert bank.size == len(digits.train)

    for data, protocol, tau in (
        ("imagenet", "imagenet100", 0.2),
        ("nuswide", "nuswide21-dhd", 0.6),
        ("coco", "coco", 0.4),
    ):
        config = find_preset(f"003/dhd-{data}").config()
        assert config.data == protocol
        assert build_criterion(config, digits).tau == tau
        assert (config.backbone, config.augment, config.augment_scale) == ("resnet50", "dhd", 0.5)
        assert (config.learning_rate, config.backbone_learning_rate_scale) == (3e-4, 0.05)
        assert (config.epochs, config.warmup_epochs, config.batch_size) == (100, 10, 128)


def test_stand_ins_fit_a_cpu():
    for name, preset in PRESETS.items():
        if name.startswith("fashion-mnist/") and not name.endswith("/best"):
            config = preset.config()
            assert (config.data, config.backbone, config.width) == ("fashion-mnist", "convnet3", 32)
            assert (config.epochs, config.batch_size) == (5, 32)
            slower = config.method in ("dsdh", "dbdh")
            assert config.learning_rate == (1e-3 if slower else 3e-3)
            assert "stand-in" in preset.description


def test_a_preset_alone_is_what_is_trained(trained_with):
    found = trained_with("--preset", "003/dhd-nuswide")
    assert found == find_preset("003/dhd-nuswide").config()
    found = trained_with("--preset=002/hashnet-s")
    assert found == find_preset("002/hashnet-s").config()
    assert found.memory_bank is True


def test_the_file_wins_over_the_preset_and_the_user_over_both(trained_with, tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("epochs: 7\nbatch-size: 9\n")
    arguments = ["--batch-size", 11, "--preset", "002/csq-c", "--bits", 64]
    expected = find_preset("002/csq-c").config(batch_size=11, bits=64, epochs=7)
    assert trained_with("--config", file, *arguments) == expected
    assert trained_with(*arguments, "--config", file) == expected


def test_settings_that_a_preset_leaves_open_are_the_defaults(trained_with):
    found = asdict(trained_with("--preset", "fashion-mnist/dch"))
    defaults = asdict(TrainConfig())
    settings = PRESETS["fashion-mnist/dch"].settings
    assert {k: v for k, v in found.items() if k not in settings} == {
        k: v for k, v in defaults.items() if k not in settings
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--preset", "002/csqc"], "close names: 002/csq"),
        (["--preset", "xyz"], "close names: 002/METHOD"),
        (["--preset"], "--preset needs a name"),
        (["--preset", "002/csq-c", "--epochs", "0"], "preset 002/csq-c gives --data=cifar10"),
    ],
)
def test_a_wrong_preset_is_bad_usage(capsys, arguments, said):
    status, out, err = call(capsys, "train", *arguments)
    assert (status, out) == (2, "")
    assert said in err


def test_only_training_takes_presets(capsys):
    status, _, err = call(capsys, "demo", "--preset", "002/csq")
    assert status == 2
    assert "--preset" in err
    assert "--preset NAME" not in call(capsys, "demo", "--help")[1]
    assert "--preset NAME" in call(capsys, "train", "--help")[1]


def test_a_preset_trains(capsys, tmp_path):
    arguments = ["--data", "digits", "--epochs", 1, "--width", 4, "--out", tmp_path / "run"]
    results = answer(capsys, "train", "--preset", "fashion-mnist/csq-c", *arguments)
    assert results["config"]["quantization"] == "hswd"
    assert results["config"]["width"] == 4
    assert json.loads((tmp_path / "run" / "results.json").read_text())["config"]["epochs"] == 1


def test_methods_lists_presets(capsys):
    status, out, _ = call(capsys, "methods")
    assert status == 0
    for family, what in FAMILIES.items():
        assert f"  {family} " in out
        assert what in out
    assert "002/csq-c" not in out
    assert set(answer(capsys, "methods")["presets"]) == set(PRESETS)


def test_methods_describes_a_method_and_a_preset(capsys):
    found = answer(capsys, "methods", "dhd")
    assert found["arguments"]["tau"] == 0.2
    assert found["head"] == "dhd"
    assert answer(capsys, "methods", "003/dhd-coco")["settings"]["options"] == ["tau=0.4"]
    status, _, err = call(capsys, "methods", "003/dhd-cocoa")
    assert status == 2
    assert "003/dhd-coco" in err


@pytest.mark.parametrize("method", losses.METHODS)
def test_methods_names_arguments_that_train_takes(method, capsys):
    for name, default in answer(capsys, "methods", method)["arguments"].items():
        if default is not None:
            TrainConfig(method=method, options=(f"{name}={default}",))
