"""Paper 000: Towards Efficient Deep Hashing Retrieval: Condensing Your Data via Feature-Embedding
Matching (IEM; Feng et al.), the preprint."""

from hashfast.reproduce.experiment import Experiment, Found, Shown
from hashfast.reproduce.figures000 import (
    draw_bars_by_hashing,
    draw_precision,
    draw_precision_recall,
    draw_seconds,
    draw_training,
)
from hashfast.reproduce.measures import map_over_training, retrieval_curves
from hashfast.reproduce.numbers000 import (
    ARCHITECTURES,
    CIFAR10,
    IMAGENET10,
    IMAGENET20,
    SIZES,
    share,
)
from hashfast.reproduce.plan import Plan, Run
from hashfast.reproduce.results import printed
from hashfast.reproduce.runs000 import (
    ablation,
    condensed_runs,
    data_and_images,
    hashing_grid,
    images_a_class,
    map_grid,
    show_table,
)
from hashfast.reproduce.speed000 import STOPS, show_speed, speed
from hashfast.reproduce.tables import Cell, Table

TITLE = "Condensing Your Data via Feature-Embedding Matching (IEM), preprint"
_BASELINES = ("random", "dm", "dsa", "idc")
_IEM = ("iem-pretrained", "iem")

_STAND_IN_NETWORKS: dict[str, tuple[str, float | None]] = {
    "ConvNet-3": ("convnet3", 32.0),
    "ResNet-10": ("resnet10", 0.125),
}
_NETWORKS: dict[str, dict[str, tuple[str, float | None]]] = {
    CIFAR10: {
        "ConvNet-3": ("convnet3", None),
        "ResNet-10": ("resnet10", None),
        "DenseNet-121": ("densenet121", None),
    },
    IMAGENET10: {
        "ResNetAP-10": ("resnetap10", None),
        "ResNet-18": ("resnet18", None),
        "ResNet-50": ("resnet50", None),
    },
}


def _architectures(plan: Plan) -> list[Run]:
    found: list[Run] = []
    for method in plan.methods:
        for source in plan.sources:
            networks = _STAND_IN_NETWORKS if source.stands_in else _NETWORKS[source.like]
            for ipc in images_a_class(plan, source):
                for name, backbone in networks.items():
                    numbers = ARCHITECTURES[source.like][name]
                    number = numbers.get(method.partition("-")[0])
                    found += condensed_runs(
                        plan,
                        source,
                        method,
                        f"{data_and_images(source, ipc)} {name}",
                        ipc=ipc,
                        bits=plan.bits[0],
                        paper=share(number) if plan.bits == (64,) and ipc in (3, 50) else None,
                        backbone=backbone,
                    )
    return found


def _show_sizes(found: Found) -> Shown:
    rows = {}
    for source in found.plan.sources:
        splits = found.splits(source)
        ours = {
            "database": len(splits.database),
            "training": len(splits.train),
            "queries": len(splits.query),
            "classes": splits.num_classes,
        }
        rows[printed(source.name)] = {
            column: Cell((float(value),), SIZES[source.like][column], spec=".0f")
            for column, value in ours.items()
        }
    return Shown(Table("data", list(SIZES[CIFAR10]), rows))


EXPERIMENTS: dict[str, Experiment] = {
    "table 1": Experiment(
        "mAP of condensation methods on CIFAR-10",
        data=(CIFAR10,),
        network="ConvNet-3",
        plan=map_grid,
        show=show_table,
        methods=(*_BASELINES, *_IEM, "whole"),
        bits=(32, 64),
        ipc=(1, 10, 50),
    ),
    "table 2": Experiment(
        "mAP of condensation methods on ImageNet10 and 20",
        data=(IMAGENET10, IMAGENET20),
        network="ResNetAP-10",
        plan=map_grid,
        show=show_table,
        methods=(*_BASELINES, *_IEM, "whole"),
        bits=(32, 64),
        ipc=(1, 3),
    ),
    "table 3": Experiment(
        "mAP of other networks trained on condensed sets",
        data=(CIFAR10, IMAGENET10),
        network="ConvNet-3",
        plan=_architectures,
        show=show_table,
        methods=("idc", *_IEM),
        bits=(64,),
        ipc=(3, 50),
    ),
    "table 4": Experiment(
        "IEM without early-stage perturbed networks (ESP) and multi-formation (MF)",
        data=(CIFAR10, IMAGENET10),
        network="ConvNet-3",
        plan=lambda plan: ablation(plan, "iem-pretrained", "ESP", "MF"),
        show=show_table,
        bits=(64,),
        ipc=(3, 50),
    ),
    "table 5": Experiment(
        "mAP of other hashing losses trained on sets condensed for DHD",
        data=(CIFAR10,),
        network="ConvNet-3",
        plan=lambda plan: hashing_grid(plan, own_sets=False),
        show=show_table,
        methods=("random", "idc", *_IEM),
        bits=(64,),
        ipc=(10, 50),
    ),
    "table 6": Experiment(
        "sizes of the data",
        data=(CIFAR10, IMAGENET10, IMAGENET20),
        network="",
        plan=lambda plan: [],
        show=_show_sizes,
    ),
    "table 7": Experiment(
        "mAP at the end of condensation, and after a fifth and a tenth of it",
        data=(CIFAR10, IMAGENET10, IMAGENET20),
        network="ConvNet-3",
        plan=speed,
        show=show_speed,
        methods=(*_BASELINES, *_IEM),
        bits=(64,),
        ipc=(1, 3, 10, 50),
    ),
    "figure 3": Experiment(
        "mAP over the training on condensed sets",
        data=(CIFAR10, IMAGENET10),
        network="ConvNet-3",
        plan=map_grid,
        show=draw_training,
        perform=map_over_training,
        methods=(*_BASELINES, *_IEM),
        bits=(64,),
        ipc=(3, 10, 50),
    ),
    "figure 4": Experiment(
        "precision of the first items returned",
        data=(CIFAR10, IMAGENET10),
        network="ConvNet-3",
        plan=map_grid,
        show=draw_precision,
        perform=retrieval_curves,
        methods=(*_BASELINES, *_IEM),
        bits=(64,),
        ipc=(3, 10, 50),
    ),
    "figure 5": Experiment(
        "precision against recall",
        data=(CIFAR10, IMAGENET10),
        network="ConvNet-3",
        plan=map_grid,
        show=draw_precision_recall,
        perform=retrieval_curves,
        methods=(*_BASELINES, *_IEM),
        bits=(64,),
        ipc=(3, 10, 50),
    ),
    "figure 6": Experiment(
        "mAP against the seconds of condensation",
        data=(CIFAR10, IMAGENET10, IMAGENET20),
        network="ConvNet-3",
        plan=lambda plan: map_grid(plan, STOPS),
        show=draw_seconds,
        methods=("idc", *_IEM),
        bits=(64,),
        ipc=(3, 10, 50),
    ),
    "figure 7": Experiment(
        "mAP of three hashing losses on sets condensed for each",
        data=(CIFAR10,),
        network="ConvNet-3",
        plan=lambda plan: hashing_grid(plan, own_sets=True),
        show=draw_bars_by_hashing,
        methods=("random", "idc", *_IEM),
        bits=(64,),
        ipc=(50,),
    ),
    "figure 8": Experiment(
        "mAP of three hashing losses on sets of ImageNet10 condensed for DHD",
        data=(IMAGENET10,),
        network="ResNetAP-10",
        plan=lambda plan: hashing_grid(plan, own_sets=False),
        show=draw_bars_by_hashing,
        methods=("idc", *_IEM),
        bits=(64,),
        ipc=(1, 3),
    ),
    "figure 9": Experiment(
        "mAP against the seconds of condensation, one image a class",
        data=(IMAGENET10, IMAGENET20),
        network="ResNetAP-10",
        plan=lambda plan: map_grid(plan, STOPS),
        show=draw_seconds,
        methods=("idc", *_IEM),
        bits=(64,),
        ipc=(1,),
    ),
}
