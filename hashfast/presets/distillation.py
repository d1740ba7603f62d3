"""Presets of paper 004 (BRCD): teachers and lone students for `hashfast train`, and students of a
teacher for `hashfast distill`."""

from typing import Any

from hashfast.presets.preset import STAND_IN, Preset

HASHING = {
    "cibhash": "CIBHash",
    "greedyhash-unsupervised": "GreedyHash",
    "bihalf": "Bi-half Net",
    "tbh": "TBH",
    "mecoq": "MeCoQ",
}
"""What 004 trains teachers and students with, with the names in print."""
DISTILLATIONS = {
    "kl": "KL",
    "sp": "SP",
    "pkt": "PKT",
    "rkd": "RKD",
    "crd": "CRD",
    "sskd": "SSKD",
    "crcd": "CRCD",
    "packd": "PACKD",
    "brcd": "BRCD",
}
"""What 004 compares, with the names in print."""
TEACHERS = {"vit-b": "vit_b_16", "vit-l": "vit_l_16"}
STUDENTS = ("efficientnet_b0", "resnet18", "mobilenet_v2")
"""Backbones of 004."""

DATA = {"cifar10": "cifar10-brcd", "coco": "coco", "imagenet": "imagenet100"}
"""Protocols of 004, by their names in presets."""
_SOURCE = (
    "BRCD, 5.3 and 5.4 (Adam, rate, backbones, tau; alpha and delta are searched there: 0.8 and "
    "0.5 of the code); hly1998/BRCD: scripts/ and model/ (frozen backbones with ImageNet weights, "
    "batch size, epochs, which end earlier there when evaluation stops improving). Heads are those "
    "of the methods, a linear layer or one hidden layer in the code"
)
_SETTINGS: dict[str, Any] = {
    "bits": 64,
    "image_size": 224,
    "weights": "pretrained",
    "frozen": True,
    "batch_size": 64,
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "schedule": "constant",
}
_TEACHER = {**_SETTINGS, "epochs": 200}
_STUDENT = {**_SETTINGS, "backbone": STUDENTS[0], "epochs": 400}
_OTHERS = f"or --backbone {' or '.join(STUDENTS[1:])}"

_STAND_IN_SOURCE = (
    "a stand-in for paper 004 with data and networks for a CPU; the weights of SP, PKT and CRD are "
    "those of HobbitLong/RepDistiller, that of SSKD is xuguodong03/SSKD's"
)
_STAND_IN_TEACHER: dict[str, Any] = {
    "data": STAND_IN,
    "image_size": 64,
    "method": "cibhash",
    "backbone": "efficientnet-lite0",
    "weights": "pretrained",
    "frozen": True,
    "augment": "standard",
    "feature_views": 4,
    "epochs": 20,
    "channels_last": True,
}
_STAND_IN_STUDENT: dict[str, Any] = {
    "data": STAND_IN,
    "method": "cibhash",
    "width": 16.0,
    "augment": "standard",
    "epochs": 10,
    "learning_rate": 1e-3,
}
_STAND_IN_DISTILLATION: dict[str, dict[str, Any]] = {
    "sp": {"distillation_weight": 3000.0},
    "pkt": {"distillation_weight": 30000.0},
    "crd": {"distillation_weight": 0.8},
    "sskd": {"distillation_weight": 10.0},
    "crcd": {"distillation_options": ("negatives=64",)},  # of 500 a step takes 0.3 s
}


def _teachers() -> dict[str, Preset]:
    """ViT-B/16 with every method, ViT-L/16 with CIBHash."""
    return {
        f"004/{teacher}-{method}-{data}": Preset(
            f"teacher: {HASHING[method]} on {protocol}, {backbone}",
            _SOURCE,
            {**_TEACHER, "data": protocol, "method": method, "backbone": backbone},
        )
        for teacher, backbone in TEACHERS.items()
        for method in (HASHING if teacher == "vit-b" else ("cibhash",))
        for data, protocol in DATA.items()
    }


def _stand_ins() -> dict[str, Preset]:
    """A frozen EfficientNet-Lite0 teaches a narrow ConvNet-3 that starts from nothing."""
    found = {
        f"004/teacher-{STAND_IN}": Preset(
            "stand-in teacher: CIBHash on Fashion-MNIST at 64x64, EfficientNet-Lite0",
            _STAND_IN_SOURCE,
            _STAND_IN_TEACHER,
        ),
        f"004/student-{STAND_IN}": Preset(
            "stand-in student: CIBHash on Fashion-MNIST without a teacher, narrow ConvNet-3",
            _STAND_IN_SOURCE,
            _STAND_IN_STUDENT,
        ),
    }
    for distillation, name in DISTILLATIONS.items():
        found[f"004/{distillation}-{STAND_IN}"] = Preset(
            f"stand-in student: {name} on Fashion-MNIST, narrow ConvNet-3 with CIBHash",
            _STAND_IN_SOURCE,
            {
                **_STAND_IN_STUDENT,
                "distillation": distillation,
                "fixed_views": 4,
                **_STAND_IN_DISTILLATION.get(distillation, {}),
            },
            "distill",
        )
    return found


PRESETS: dict[str, Preset] = {
    **_teachers(),
    **{
        f"004/student-{data}": Preset(
            f"CIBHash on {protocol} without a teacher, EfficientNet-B0 ({_OTHERS})",
            _SOURCE,
            {**_STUDENT, "data": protocol, "method": "cibhash"},
        )
        for data, protocol in DATA.items()
    },
    **{
        f"004/{distillation}-{data}": Preset(
            f"{name} on {protocol}, EfficientNet-B0 with CIBHash ({_OTHERS}; --method is that of "
            "--teacher)",
            _SOURCE,
            {**_STUDENT, "data": protocol, "method": "cibhash", "distillation": distillation},
            "distill",
        )
        for distillation, name in DISTILLATIONS.items()
        for data, protocol in DATA.items()
    },
    **_stand_ins(),
}

FAMILIES = {
    "004/vit-b-METHOD-DATA": f"BRCD paper, teachers, ViT-B/16: METHOD is {', '.join(HASHING)}; "
    f"DATA is {', '.join(DATA)}",
    "004/vit-l-cibhash-DATA": "the same, ViT-L/16",
    "004/student-DATA": "its student without a teacher, EfficientNet-B0 with CIBHash",
    "004/KD-DATA": "its students, for hashfast distill, EfficientNet-B0 with CIBHash: KD is "
    f"{', '.join(DISTILLATIONS)}",
    f"004/teacher-{STAND_IN}, 004/student-{STAND_IN}, 004/KD-{STAND_IN}": "stand-ins for a CPU: "
    "frozen EfficientNet-Lite0, and a narrow ConvNet-3",
}
