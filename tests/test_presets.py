"""Presets build what they say, and give way to what the user asks for."""

import json
from dataclasses import asdict, fields

import pytest
from cli_calls import answer, call

from hashfast import hashing, losses
from hashfast.condense import CondenseConfig, EvaluationConfig
from hashfast.data import PROTOCOLS, load
from hashfast.distill import DistillConfig
from hashfast.hashing import TrainConfig
from hashfast.hashing.methods import build_criterion
from hashfast.presets import FAMILIES, PRESETS, QUANTIZATION_METHODS, find_preset

TRAINING = [
    name
    for name, preset in PRESETS.items()
    if preset.command == "train" and preset.settings["method"] in losses.METHODS
]
UNSUPERVISED = [
    name for name in PRESETS if name.startswith("004/") and not name.endswith("fashion-mnist")
]
CONDENSATION = [name for name, preset in PRESETS.items() if preset.command == "condense"]


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


@pytest.mark.parametrize("name", TRAINING)
def test_every_preset_is_a_run(digits, name):
    config = find_preset(name).config(bits=16)
    assert config.bits == 16
    assert config.data in PROTOCOLS
    criterion = build_criterion(config, digits)
    assert isinstance(criterion, losses.METHODS[config.method])
    assert find_preset(name).description
    assert find_preset(name).source


@pytest.mark.parametrize("name", CONDENSATION)
def test_every_preset_is_a_condensation(name):
    preset = find_preset(name, "condense")
    config = preset.config(seed=3)
    assert isinstance(config, CondenseConfig)
    assert (config.seed, config.bits, config.hashing) == (3, 64, "dhd")
    assert config.data in PROTOCOLS
    assert name.rpartition("/")[2].startswith(config.method)
    config.resolved()
    evaluation = preset.evaluation(evaluate_bits=32)
    assert (evaluation.evaluate_methods, evaluation.evaluate_bits) == (("dhd",), 32)
    assert evaluation.training(config, 100).data == config.data
    known = {field.name for kind in (CondenseConfig, EvaluationConfig) for field in fields(kind)}
    assert set(preset.settings) <= known
    assert preset.description
    assert preset.source


@pytest.mark.parametrize("name", UNSUPERVISED)
def test_every_preset_of_004_is_a_run(name):
    preset = find_preset(name)
    config = preset.config(bits=32)
    assert isinstance(config, DistillConfig) == (preset.command == "distill")
    assert {field.name for field in fields(config)} >= set(preset.settings)
    assert (config.bits, config.frozen, config.weights) == (32, True, "pretrained")
    assert (config.optimizer, config.learning_rate, config.batch_size) == ("adam", 1e-3, 64)
    assert config.data in PROTOCOLS
    assert config.method in losses.UNSUPERVISED
    what = name.removeprefix("004/").rpartition("-")[0]
    if preset.command == "distill":
        assert config.distillation == what
        assert config.backbone == "efficientnet_b0"
    elif what == "student":
        assert config.backbone == "efficientnet_b0"
    else:
        assert what == f"{config.backbone[:5].replace('_', '-')}-{config.method}"


def test_004_has_all_methods_on_all_data():
    names = {name.removeprefix("004/") for name in UNSUPERVISED}
    what = [f"vit-b-{method}" for method in losses.UNSUPERVISED]
    what += ["vit-l-cibhash", "student", *losses.DISTILLATION]
    assert names == {f"{one}-{data}" for one in what for data in ("cifar10", "coco", "imagenet")}


def test_004_has_stand_ins_for_a_cpu():
    names = {name for name in PRESETS if name.startswith("004/")} - set(UNSUPERVISED)
    assert names == {
        f"004/{what}-fashion-mnist" for what in ("teacher", "student", *losses.DISTILLATION)
    }
    teacher = find_preset("004/teacher-fashion-mnist", "train").config()
    assert (teacher.data, teacher.image_size, teacher.frozen) == ("fashion-mnist", 64, True)
    assert (teacher.backbone, teacher.weights) == ("efficientnet-lite0", "pretrained")
    student = asdict(find_preset("004/student-fashion-mnist", "train").config())
    assert (student["backbone"], student["width"], student["frozen"]) == ("convnet3", 16, False)
    assert (teacher.augment, student["augment"]) == ("standard", "standard")
    weights, options = {}, {}
    for name in losses.DISTILLATION:
        preset = find_preset(f"004/{name}-fashion-mnist", "distill")
        assert "stand-in" in preset.description
        config = asdict(preset.config())
        assert {key: config[key] for key in student} == student  # only distillation is added
        assert (config["distillation"], config["fixed_views"]) == (name, 4)
        weights[name] = config["distillation_weight"]
        options[name] = config["distillation_options"]
    others = dict.fromkeys(("brcd", "kl", "rkd", "crcd", "packd"), 1)
    assert weights == others | {"sp": 3000, "pkt": 30000, "crd": 0.8, "sskd": 10}
    assert options == {name: ("negatives=64",) * (name == "crcd") for name in options}


def test_names_say_method_and_quantisation():
    for family in ("002", "fashion-mnist"):
        for method in ("dsdh", "hashnet", "greedyhash", "dch", "csq", "dbdh"):
            for mark, quantization in (("", "original"), ("-s", "swd"), ("-c", "hswd")):
                settings = PRESETS[f"{family}/{method}{mark}"].settings
                assert settings["method"] == method
                assert settings["quantization"] == quantization
    assert len(TRAINING) == 2 * 18 + 3 + 2
    assert len(CONDENSATION) == 2 * 6 * 3 + 7
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


@pytest.mark.parametrize(
    ("name", "networks", "pool"),
    [
        ("000/iem-cifar10", (300, 300), "pretrained"),
        ("001/iem-cifar10", (200, 300), "random"),
        ("000/iem-imagenet10", (200, 200), "pretrained"),
        ("001/iem-imagenet20", (300, 200), "random"),
    ],
)
def test_settings_of_iem(name, networks, pool):
    preset = find_preset(name)
    config, evaluation = preset.config().resolved(), preset.evaluation()
    assert (config.networks, config.inner_steps) == networks
    assert config.network_pool == pool
    assert config.network_augmentation is True
    low = name.endswith("cifar10")
    assert config.data == ("cifar10-1" if low else name.rpartition("-")[2])
    assert config.backbone == ("convnet3" if low else "resnetap10")
    assert config.factor == (2 if low else 3)
    rates = {"cifar10": (0.005, 0.03), "imagenet10": (10, 0.004), "imagenet20": (20, 0.004)}
    found = config.learning_rate, evaluation.evaluate_learning_rate
    assert found == rates[name.rpartition("-")[2]]
    assert evaluation.evaluate_weight_decay == 6e-6


def test_settings_of_idc():
    config = find_preset("001/idc-cifar10").config()
    assert (config.metric, config.learning_rate, config.network_images) == ("mse", 0.005, 2000)
    assert (config.factor, config.networks, config.real_batch) == (2, 2000, 64)
    config = find_preset("000/idc-imagenet20").config()
    assert (config.metric, config.learning_rate, config.network_images) == ("l1", 0.003, 500)
    assert (config.factor, config.networks, config.pool_epochs) == (3, 500, 10)


def test_a_preset_is_for_one_command(capsys):
    assert find_preset("002/csq", "train").config().method == "csq"
    for command, name, other in (
        ("train", "000/iem-cifar10", "condense"),
        ("condense", "002/csq-c", "train"),
    ):
        said = f"preset {name} is for hashfast {other}, not for hashfast {command}"
        with pytest.raises(ValueError, match=said):
            find_preset(name, command)
        status, out, err = call(capsys, command, "--preset", name)
        assert (status, out) == (2, "")
        assert f"{said}: hashfast {other} --preset {name}" in err


def test_stand_ins_fit_a_cpu():
    for name in CONDENSATION:
        if name.startswith("fashion-mnist/"):
            config = PRESETS[name].config()
            assert (config.data, config.backbone, config.width) == ("fashion-mnist", "convnet3", 32)
            assert "stand-in" in PRESETS[name].description
    for name in TRAINING:
        if name.startswith("fashion-mnist/") and not name.endswith("/best"):
            preset = PRESETS[name]
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
        (["--preset", "xyz"], "close names: 000/METHOD"),
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
