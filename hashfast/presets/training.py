"""Presets of `hashfast train`: papers 002 (HSWD) and 003 (DHD), and stand-ins."""

from collections.abc import Mapping
from typing import Any

from hashfast.presets.preset import STAND_IN, Preset

QUANTIZATION_METHODS = {
    "dsdh": "DSDH",
    "hashnet": "HashNet",
    "greedyhash": "GreedyHash",
    "dch": "DCH",
    "csq": "CSQ",
    "dbdh": "DBDH",
}
"""The six methods of 002, with their names in print."""
SUFFIXES = {"original": "", "swd": "-s", "hswd": "-c"}
"""002 marks a method's quantisation in its name: its own, SWD or HSWD."""

_HSWD_SOURCE = (
    "khoadoan106/single_loss_quantization: README.md (optimiser, rate, epochs, weight of the "
    "quantisation), python/config.py (batch size, weight decay), python/HashNet.py (memory bank); "
    "the paper names VGG11 for Table 1 and AlexNet for Table 2 and no further settings"
)
_HSWD_SETTINGS = {
    "data": "cifar10",
    "image_size": 224,
    "backbone": "vgg11",
    "weights": "pretrained",
    "epochs": 200,
    "batch_size": 64,
    "optimizer": "adam",
    "learning_rate": 1e-5,
    "schedule": "constant",
    "weight_decay": 1e-5,
}
_DHD_SOURCE = (
    "DHD supplement, B.a and Tables A to C; youngkyunJang/Deep-Hash-Distillation, main_DHD.py. "
    "Images are cut to 224 before augmentation, there after it"
)
_DHD_SETTINGS = {
    "method": "dhd",
    "image_size": 224,
    "backbone": "resnet50",
    "weights": "pretrained",
    "augment": "dhd",
    "augment_scale": 0.5,
    "epochs": 100,
    "batch_size": 128,
    "optimizer": "adam",
    "learning_rate": 3e-4,
    "backbone_learning_rate_scale": 0.05,
    "warmup_epochs": 10.0,
    "weight_decay": 1e-5,
}
# Fewer classes want a higher temperature (supplement, Table A).
_DHD_DATA = {
    "imagenet": ("imagenet100", "tau=0.2"),
    "nuswide": ("nuswide21-dhd", "tau=0.6"),
    "coco": ("coco", "tau=0.4"),
}
_DHD_BACKBONES = (
    "ResNet-50; or --backbone alexnet --augment-scale 0.2, --backbone timm/vit_base_patch16_224, "
    "timm/deit_base_distilled_patch16_224 or timm/swin_base_patch4_window7_224 with --batch-size 32"
)
_STAND_IN_SOURCE = (
    "stand-in for paper {}: 5 epochs on a CPU; learning rates chosen on a validation split of the "
    "training set"
)
_STAND_IN_SETTINGS = {
    "data": STAND_IN,
    "width": 32.0,
    "epochs": 5,
    "batch_size": 32,
    "learning_rate": 3e-3,
}
_STAND_IN_RATES = {"dsdh": 1e-3, "dbdh": 1e-3}

_QUANTIZATIONS = {
    "original": "its own quantisation",
    "swd": "SWD as quantisation",
    "hswd": "HSWD as quantisation",
}


def _quantized(
    family: str, suffix: str, settings: Mapping[str, Any], source: str
) -> dict[str, Preset]:
    """The six methods of 002, each with three kinds of quantisation."""
    return {
        f"{family}/{method}{mark}": Preset(
            f"{name} with {_QUANTIZATIONS[quantization]}{suffix}",
            source,
            {**settings, **_of_method(family, method), "quantization": quantization},
        )
        for method, name in QUANTIZATION_METHODS.items()
        for quantization, mark in SUFFIXES.items()
    }


def _of_method(family: str, method: str) -> dict[str, Any]:
    settings: dict[str, Any] = {"method": method}
    if family == STAND_IN and method in _STAND_IN_RATES:
        settings["learning_rate"] = _STAND_IN_RATES[method]
    if family == "002" and method == "hashnet":
        settings["memory_bank"] = True
    return settings


PRESETS: dict[str, Preset] = {
    **_quantized(
        "002", ", VGG11; on NUS-WIDE and COCO add --augment standard", _HSWD_SETTINGS, _HSWD_SOURCE
    ),
    **{
        f"003/dhd-{name}": Preset(
            f"DHD on {data}, {_DHD_BACKBONES}",
            _DHD_SOURCE,
            {**_DHD_SETTINGS, "data": data, "options": (tau,)},
        )
        for name, (data, tau) in _DHD_DATA.items()
    },
    **_quantized(
        STAND_IN,
        ", narrow ConvNet-3 (stand-in)",
        _STAND_IN_SETTINGS,
        _STAND_IN_SOURCE.format("002"),
    ),
    f"{STAND_IN}/dhd": Preset(
        "DHD, narrow ConvNet-3 (stand-in)",
        "stand-in for paper 003: 5 epochs on a CPU; tau as on ImageNet, s_T chosen on a validation "
        "split of the training set (0.2 out of 0.2 and 0.5)",
        {
            **_STAND_IN_SETTINGS,
            "method": "dhd",
            "options": ("tau=0.2",),
            "augment": "dhd",
            "augment_scale": 0.2,
        },
    ),
    f"{STAND_IN}/best": Preset(
        "OrthoHash, ConvNet-3 of width 64, 30 epochs with crops and flips: no pretraining",
        "no paper",
        {
            "data": STAND_IN,
            "method": "orthohash",
            "width": 64.0,
            "epochs": 30,
            "batch_size": 64,
            "learning_rate": 2e-3,
            "warmup_epochs": 2.0,
            "weight_decay": 1e-4,
            "augment": "standard",
        },
    ),
}

FAMILIES = {
    "002/METHOD[-s|-c]": "HSWD paper, VGG11: METHOD is "
    f"{', '.join(QUANTIZATION_METHODS)}; -s SWD, -c HSWD",
    "003/dhd-DATA": f"DHD, ResNet-50: DATA is {', '.join(_DHD_DATA)}",
    f"{STAND_IN}/METHOD[-s|-c]": "stand-ins on Fashion-MNIST, narrow ConvNet-3, 5 epochs: the "
    "methods of 002, and dhd",
    f"{STAND_IN}/best": "OrthoHash, width 64, 30 epochs with crops and flips",
}
