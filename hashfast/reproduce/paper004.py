"""Paper 004: Bit-mask Robust Contrastive Knowledge Distillation for Unsupervised Semantic Hashing
(BRCD; He et al., WWW 2024)."""

from functools import partial

from hashfast.hashing.loading import resolve_device
from hashfast.losses import DISTILLATION
from hashfast.presets import STAND_IN
from hashfast.presets.distillation import DATA, DISTILLATIONS, HASHING
from hashfast.reproduce import speed004
from hashfast.reproduce.distilling import bits_of_a_class, offset_positives, paradigms
from hashfast.reproduce.experiment import Experiment, Found, Shown
from hashfast.reproduce.figures004 import (
    draw_alignment,
    draw_backbones,
    draw_bits,
    draw_offset_positives,
    draw_parameters,
    draw_tsne,
    plan_backbones,
    plan_bits,
    plan_offset_positives,
    plan_parameters,
)
from hashfast.reproduce.numbers004 import TABLE_2, TABLE_2_COLUMNS
from hashfast.reproduce.plan import Plan, Run
from hashfast.reproduce.results import data_and_bits
from hashfast.reproduce.runs004 import (
    CIFAR10,
    METHODS,
    NETWORKS,
    find_method,
    method_grid,
    paradigm_maps,
    paradigm_table,
    ranked_as_in_paper,
    student_grid,
    student_runs,
)
from hashfast.reproduce.tables import Entry, tabulate

TITLE = "Bit-mask Robust Contrastive Knowledge Distillation (BRCD)"
_ALIGNED = ", ".join(name for key, name in DISTILLATIONS.items() if DISTILLATION[key].aligns)
_NOTE = (
    "SSHP: the student codes queries and database. ASHP: the teacher codes the database, the "
    f"student the queries; only {_ALIGNED} draw the student's codes to the teacher's own. PACKD "
    "sees labels."
)


def _show_methods(found: Found) -> Shown:
    return Shown(paradigm_table(found, "method"), notes=(_NOTE,))


def _hashing(plan: Plan) -> list[Run]:
    """Rows are hashing losses, columns methods; --methods takes names of both."""
    losses = [name for name in plan.methods if name in TABLE_2] or list(TABLE_2)
    methods = [name for name in plan.methods if name not in TABLE_2] or list(TABLE_2_COLUMNS)
    return [
        run
        for source in plan.sources
        for bits in plan.bits
        for hashing in losses
        for method in methods
        for run in student_runs(
            plan,
            source,
            method,
            f"{data_and_bits(source, bits)} {HASHING[hashing]}",
            find_method(method).label,
            bits=bits,
            hashing=hashing,
        )
    ]


def _show_hashing(found: Found) -> Shown:
    numbers = {METHODS[name].label: i for i, name in enumerate(TABLE_2_COLUMNS)}
    cells = []
    for run, result in found.runs:
        printed = (run.source.like, run.config.bits) == (CIFAR10, 64) and run.column in numbers
        for paradigm, value in paradigm_maps(result).items():
            paper = TABLE_2[run.config.method][paradigm][numbers[run.column]] if printed else None
            cells.append(Entry(f"{run.row} {paradigm.upper()}", run.column, value, paper))
    return Shown(tabulate("hashing", cells), notes=(_NOTE,))


def _no_images(plan: Plan) -> list[Run]:
    if plan.choices.data is not None or plan.choices.root is not None:
        raise ValueError("Table 3 times networks and search on random values: leave data out")
    return []


def _show_speed(found: Found) -> Shown:
    """Timed anew at every call, as by `hashfast bench`."""
    plan = found.plan
    codes, limit = speed004.SCALES["paper"]
    scaled = tuple(map(plan.scaled, codes))
    shapes = speed004.Shapes(
        backbones=speed004.BACKBONES,
        batches=speed004.TABLE_3_BATCHES,
        codes=scaled,
        k=tuple(k for k in (100, 1000) if k <= min(scaled)),
        limit=limit * plan.choices.scale,
        device=resolve_device(plan.choices.device),
    )
    speed = speed004.measure_speed(shapes)
    facts = ", ".join(f"{name} {value}" for name, value in speed.environment.items())
    notes = [
        "Median milliseconds of a call, weights at random; GFLOPs are multiply-adds of an image. "
        "The scale is that of the numbers of codes, and of the seconds after which larger batches "
        "are left out; `hashfast bench` has more choices.",
        f"Here: {facts}. The paper: Tesla V100 and two Xeon Gold 5218; its search is faiss's.",
    ]
    return Shown(speed.table, notes=(*notes, *(f"Left out: {what}." for what in speed.left_out)))


_distillation = partial(
    Experiment, network=NETWORKS, perform=paradigms, prepare=ranked_as_in_paper, shared=True
)

# "Several representative" ones, the text says; as many as a figure has colours.
_REPRESENTATIVE = ("none", "kl", "sp", "rkd", "crd", "packd", "brcd")

EXPERIMENTS: dict[str, Experiment] = {
    "table 1": _distillation(
        "mAP of distillation methods in both search paradigms",
        data=tuple(DATA.values()),
        plan=method_grid,
        show=_show_methods,
        methods=tuple(METHODS),
        bits=(32, 64),
    ),
    "table 2": _distillation(
        "mAP of distillation methods with five hashing losses",
        data=(CIFAR10,),
        plan=_hashing,
        show=_show_hashing,
        methods=(*TABLE_2, *TABLE_2_COLUMNS),
        bits=(64,),
    ),
    "table 3": Experiment(
        "milliseconds of coding and of search (hashfast bench)",
        data=(STAND_IN,),
        network="",
        plan=_no_images,
        show=_show_speed,
    ),
    "figure 3": _distillation(
        "histograms of bits of the teacher's codes of one class",
        data=(CIFAR10,),
        plan=plan_bits,
        show=draw_bits,
        perform=bits_of_a_class,
        bits=(64,),
    ),
    "figure 4": _distillation(
        "mAP of distillation methods by backbones of teacher and student",
        data=(CIFAR10,),
        plan=plan_backbones,
        show=draw_backbones,
        methods=_REPRESENTATIVE,
        bits=(64,),
    ),
    "figure 5a": _distillation(
        "ISD and NRA@100 of distillation methods",
        data=(CIFAR10,),
        plan=student_grid,
        show=draw_alignment,
        methods=tuple(DISTILLATIONS),
        bits=(64,),
    ),
    "figure 5b": _distillation(
        "mAP of BRCD by alpha and delta",
        data=(CIFAR10,),
        plan=plan_parameters,
        show=draw_parameters,
        bits=(64,),
    ),
    "figure 6": _distillation(
        "rate of offset positives by the number of clusters",
        data=(CIFAR10,),
        plan=plan_offset_positives,
        show=draw_offset_positives,
        perform=offset_positives,
        bits=(64,),
        seeds=(0, 1, 2, 3, 4),
    ),
    "figure 7": _distillation(
        "t-SNE of codes of teacher and students",
        data=(CIFAR10,),
        plan=student_grid,
        show=draw_tsne,
        methods=("sp", "rkd", "brcd"),
        bits=(32,),
    ),
}
