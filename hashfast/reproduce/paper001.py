"""Paper 001: Towards Efficient Deep Hashing Retrieval: Condensing Your Data via Feature-Embedding
Matching (IEM; Feng et al., ICASSP)."""

from hashfast.reproduce.experiment import Experiment
from hashfast.reproduce.figures000 import draw_bars_by_hashing, draw_seconds, draw_tasks
from hashfast.reproduce.measures import accuracy
from hashfast.reproduce.numbers000 import CIFAR10, IMAGENET10, IMAGENET20
from hashfast.reproduce.runs000 import ablation, hashing_grid, map_grid, show_table
from hashfast.reproduce.speed000 import STOPS

TITLE = "Condensing Your Data via Feature-Embedding Matching (IEM)"

EXPERIMENTS: dict[str, Experiment] = {
    "table I": Experiment(
        "mAP of condensation methods",
        data=(CIFAR10, IMAGENET10, IMAGENET20),
        network="ConvNet-3",
        plan=map_grid,
        show=show_table,
        methods=("random", "dm", "dsa", "idc", "iem", "iem-pretrained", "whole"),
        bits=(32, 64),
        ipc=(1, 3, 10, 50),
    ),
    "table II": Experiment(
        "IEM without augmented networks (NA) and an augmented data set (DA)",
        data=(CIFAR10, IMAGENET10),
        network="ConvNet-3",
        plan=lambda plan: ablation(plan, "iem", "NA", "DA"),
        show=show_table,
        bits=(64,),
        ipc=(3, 50),
    ),
    "figure 1": Experiment(
        "accuracy of classifiers and mAP of hash models on the same sets",
        data=(CIFAR10,),
        network="ConvNet-3",
        plan=map_grid,
        show=draw_tasks,
        perform=accuracy,
        methods=("random", "herding", "dsa", "dm"),
        bits=(64,),
        ipc=(1, 10, 50),
    ),
    "figure 3": Experiment(
        "mAP against the seconds of condensation",
        data=(CIFAR10, IMAGENET10, IMAGENET20),
        network="ConvNet-3",
        plan=lambda plan: map_grid(plan, STOPS),
        show=draw_seconds,
        methods=("idc", "iem", "iem-pretrained"),
        bits=(64,),
        ipc=(3, 50),
    ),
    "figure 4": Experiment(
        "mAP of three hashing losses on sets condensed for each",
        data=(CIFAR10, IMAGENET10),
        network="ConvNet-3",
        plan=lambda plan: hashing_grid(plan, own_sets=True),
        show=draw_bars_by_hashing,
        methods=("random", "idc", "iem", "iem-pretrained"),
        bits=(64,),
        ipc=(3, 50),
    ),
}
