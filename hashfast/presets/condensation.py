"""Presets of `hashfast condense`: papers 000 and 001 (IEM, preprint and published), stand-ins."""

from collections.abc import Mapping
from typing import Any

from hashfast.presets.preset import STAND_IN, Preset

CONDENSATION_METHODS = {
    "random": "Random",
    "herding": "Herding",
    "dm": "DM",
    "dsa": "DSA",
    "idc": "IDC",
    "iem": "IEM",
}
"""What 000 and 001 compare, with the names in print."""

_VERSIONS = {"000": "preprint: pretrained networks", "001": "published: random networks"}
_SOURCE = (
    "IEM preprint, appendix B.2 and Algorithm 1 (steps, learning rates, factors); IEM at ICASSP, "
    "sections III and IV (networks drawn). Inner steps of the published version are those of the "
    "preprint; images a step and steps of evaluation are our choice"
)
_EVALUATION = "; evaluation as in the IEM preprint, appendix B.2, its steps are our choice"
_SOURCES = {
    "random": "no settings of its own" + _EVALUATION,
    "herding": "no settings in the papers" + _EVALUATION,
    "dm": "the public code of DM, on all data" + _EVALUATION,
    "dsa": "the public code of DSA, on all data" + _EVALUATION,
    "idc": "snu-mllab/Efficient-Dataset-Condensation: misc/reproduce.py, argument.py" + _EVALUATION,
}
_IMAGENET = {
    "backbone": "resnetap10",
    "ipc": 3,
    "evaluate_learning_rate": 4e-3,
    "evaluate_steps": 5000,
}
_DATA: dict[str, dict[str, Any]] = {
    "cifar10": {
        "data": "cifar10-1",
        "backbone": "convnet3",
        "ipc": 10,
        "evaluate_learning_rate": 0.03,
        "evaluate_steps": 10_000,
    },
    "imagenet10": {"data": "imagenet10", **_IMAGENET},
    "imagenet20": {"data": "imagenet20", **_IMAGENET},
}
_HASHING = {
    "bits": 64,
    "hashing": "dhd",
    "evaluate_methods": ("dhd",),
    "evaluate_bits": 64,
    "evaluate_weight_decay": 6e-6,
}
_IEM = {
    "cifar10": {"factor": 2, "inner_steps": 300, "learning_rate": 0.005},
    "imagenet10": {"factor": 3, "inner_steps": 200, "learning_rate": 10.0},
    "imagenet20": {"factor": 3, "inner_steps": 200, "learning_rate": 20.0},
}
_IEM_NETWORKS = {
    "000": {"network_pool": "pretrained", "cifar10": 300, "imagenet": 200},
    "001": {"network_pool": "random", "cifar10": 200, "imagenet": 300},
}
_IDC_IMAGENET = {
    "factor": 3,
    "metric": "l1",
    "learning_rate": 3e-3,
    "learning_rate_size": 224,
    "networks": 500,
    "network_pool": "pretrained",
    "pool_epochs": 10,
    "network_images": 500,
}
_IDC = {
    "cifar10": {
        "factor": 2,
        "metric": "mse",
        "learning_rate": 5e-3,
        "learning_rate_size": 32,
        "networks": 2000,
        "network_images": 2000,
    },
    "imagenet10": _IDC_IMAGENET,
    "imagenet20": _IDC_IMAGENET,
}


def _paper(paper: str) -> dict[str, Preset]:
    """All methods on all data of 000 or 001; only IEM differs."""
    return {
        f"{paper}/{method}-{data}": Preset(
            f"{name} on {data}" + (f" ({_VERSIONS[paper]})" if method == "iem" else ""),
            _SOURCES.get(method, _SOURCE),
            {**_DATA[data], **_HASHING, "method": method, **_of_method(paper, method, data)},
            "condense",
        )
        for method, name in CONDENSATION_METHODS.items()
        for data in _DATA
    }


def _of_method(paper: str, method: str, data: str) -> Mapping[str, Any]:
    if method == "idc":
        return {**_IDC[data], "inner_steps": 100, "real_batch": 64}
    if method == "iem":
        draws = _IEM_NETWORKS[paper]
        networks = draws["cifar10" if data == "cifar10" else "imagenet"]
        return {**_IEM[data], "networks": networks, "network_pool": draws["network_pool"]}
    return {}


# What a CPU does in minutes: settings by method, on top of those that all share. The learning rates
# of DM and IEM were chosen on a validation split of the training set (condensation_study.py).
_STAND_IN_DM = {"networks": 60, "learning_rate": 0.6, "scale_learning_rate": True}
_STAND_IN_IEM = {**_STAND_IN_DM, "inner_steps": 1, "learning_rate": 0.2}
_STAND_INS: dict[str, dict[str, Any]] = {
    "random": {},
    "herding": {},
    "dm": _STAND_IN_DM,
    "dsa": {"networks": 10},
    "idc": {"networks": 5, "inner_steps": 10},
    "iem": _STAND_IN_IEM,
    "iem-pretrained": {**_STAND_IN_IEM, "network_pool": "pretrained"},
}
_STAND_IN_SETTINGS = {
    "data": STAND_IN,
    "width": 32.0,
    "ipc": 10,
    "real_batch": 64,
    **_HASHING,
    "evaluate_steps": 300,
    "evaluate_augment_scale": 0.2,
}

PRESETS: dict[str, Preset] = {
    **_paper("000"),
    **_paper("001"),
    **{
        f"{STAND_IN}/{name}": Preset(
            f"{CONDENSATION_METHODS[name.partition('-')[0]]}, narrow ConvNet-3 (stand-in)",
            "stand-in for papers 000 and 001: minutes on a CPU",
            {**_STAND_IN_SETTINGS, "method": name.partition("-")[0], **settings},
            "condense",
        )
        for name, settings in _STAND_INS.items()
    },
}

_METHODS = ", ".join(CONDENSATION_METHODS)
FAMILIES = {
    "000/METHOD-DATA": f"IEM preprint, for hashfast condense: METHOD is {_METHODS}; DATA is "
    f"{', '.join(_DATA)}",
    "001/METHOD-DATA": "IEM as published, for hashfast condense: the same names",
    f"{STAND_IN}/METHOD": "stand-ins of condensation on Fashion-MNIST, for hashfast condense: the "
    "same methods, and iem-pretrained as in 000",
}
