"""What the tables and figures of paper 004 have in common: their rows, networks and runs."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from hashfast.data import Splits
from hashfast.hashing import TrainConfig
from hashfast.presets import STAND_IN, find_preset
from hashfast.presets.distillation import DATA, DISTILLATIONS
from hashfast.reproduce.distilling import MODEL_SEED, StudentConfig
from hashfast.reproduce.experiment import Found, Result
from hashfast.reproduce.numbers004 import PARADIGMS, TABLE_1, TABLE_1_COLUMNS, TABLE_1_WITHOUT
from hashfast.reproduce.plan import Plan, Run, Source
from hashfast.reproduce.results import data_and_bits
from hashfast.reproduce.tables import Entry, Table, tabulate

CIFAR10 = "cifar10-brcd"
NETWORKS = "ViT-B/16 and EfficientNet-B0"


class Method(NamedTuple):
    """How a student is trained: its row's name, the distillation loss (empty: none) and arguments
    of it, and the numbers of Table 1."""

    label: str
    distillation: str
    options: tuple[str, ...]
    numbers: tuple[float | None, ...]


METHODS = {
    "none": Method("NO KD", "", (), TABLE_1["none"]),
    **{name: Method(label, name, (), TABLE_1[name]) for name, label in DISTILLATIONS.items()},
    **{
        f"brcd-{part.lower()}": Method(f"BRCD w/o {part}", "brcd", options, TABLE_1_WITHOUT[part])
        for part, options in {
            "BM": ("bit_mask=false",),
            "NP": ("false_negatives=false", "offset_positives=false"),
            "P": ("offset_positives=false",),
        }.items()
    },
}
"""Rows of Table 1 by the names that --methods takes."""


class Networks(NamedTuple):
    """teachers: {name: start of their presets' names}; students: {name: changed settings}."""

    teachers: dict[str, str]
    students: dict[str, dict[str, Any]]


PAPER_NETWORKS = Networks(
    {"ViT-B/16": "vit-b", "ViT-L/16": "vit-l"},
    {
        "EfficientNet-B0": {"backbone": "efficientnet_b0"},
        "ResNet-18": {"backbone": "resnet18"},
        "MobileNetV2": {"backbone": "mobilenet_v2"},
    },
)
STAND_IN_NETWORKS = Networks(
    {"EfficientNet-Lite0": "teacher"},
    {
        "ConvNet-3": {},
        "narrower ConvNet-3": {"width": 8.0},
        "MLP": {"backbone": "pixels", "width": None},
    },
)


def networks(source: Source) -> Networks:
    """The first teacher and the first student are those of all experiments but one."""
    return STAND_IN_NETWORKS if source.stands_in else PAPER_NETWORKS


def ranked_as_in_paper(splits: Splits) -> Splits:
    """mAP@1000 on data that the paper does not have, as on CIFAR-10."""
    return splits if splits.name in DATA.values() else replace(splits, topk=1000)


def find_method(name: str) -> Method:
    if name not in METHODS:
        raise ValueError(f"{name} is none of the methods: {', '.join(METHODS)}")
    return METHODS[name]


def paper_map(row: str, data: str, bits: int, paradigm: str) -> float | None:
    """A number of Table 1, by the row's name in print; None where it has none."""
    numbers = {method.label: method.numbers for method in METHODS.values()}
    place = data, bits, paradigm
    if row not in numbers or place not in TABLE_1_COLUMNS:
        return None
    return numbers[row][TABLE_1_COLUMNS.index(place)]


def paradigm_maps(result: Result) -> dict[str, float]:
    """{paradigm: mAP}; ASHP is missing where there was no teacher."""
    reports = zip(PARADIGMS, (result["report"], result.get("report_ashp")), strict=True)
    return {paradigm: report["map"] for paradigm, report in reports if report}


def paradigm_table(found: Found, corner: str) -> Table:
    """mAP of all runs, each column twice: SSHP and ASHP."""
    columns = [f"{c} {p.upper()}" for c in columns_of(found) for p in PARADIGMS]
    table = tabulate(
        corner,
        (
            Entry(
                run.row,
                f"{run.column} {paradigm.upper()}",
                value,
                paper_map(run.row, run.source.like, run.config.bits, paradigm),
            )
            for run, result in found.runs
            for paradigm, value in paradigm_maps(result).items()
        ),
    )
    return Table(corner, [column for column in columns if column in table.columns], table.rows)


def columns_of(found: Found) -> list[str]:
    return list(dict.fromkeys(run.column for run, _ in found.runs))


def method_grid(plan: Plan) -> list[Run]:
    """Rows are methods, columns data and bits."""
    return [
        run
        for method in plan.methods
        for source in plan.sources
        for bits in plan.bits
        for run in student_runs(
            plan, source, method, find_method(method).label, data_and_bits(source, bits), bits=bits
        )
    ]


def student_grid(plan: Plan) -> list[Run]:
    """The same of what is compared with a teacher. Raises ValueError for what has none."""
    if "none" in plan.methods:
        raise ValueError("codes are compared with the teacher's here, and none has no teacher")
    return method_grid(plan)


def student_runs(
    plan: Plan,
    source: Source,
    method: str,
    row: str,
    column: str,
    *,
    bits: int,
    hashing: str = "cibhash",
    teacher: str = "",
    options: tuple[str, ...] = (),
    **changes: Any,
) -> Iterator[Run]:
    """A run a seed of a student; all learn from one teacher, except for "none", which has none.

    hashing: loss of teacher and student; teacher: start of its preset's name, the first of
    `networks` if empty; options: arguments of the distillation loss besides those of its preset;
    changes: of the student's preset.
    Raises ValueError for an unknown method.
    """
    kind = find_method(method)
    preset = f"004/{kind.distillation or 'student'}-{_data(source)}"
    changes |= {"method": hashing, "bits": bits}
    for seed in plan.seeds:
        if not kind.distillation:
            yield Run(_config(plan, source, preset, seed=seed, **changes), source, row, column)
            continue
        preset_options = find_preset(preset).settings.get("distillation_options", ())
        given = (*preset_options, *kind.options, *options)
        config = _config(plan, source, preset, seed=seed, distillation_options=given, **changes)
        taught_by = teacher_config(plan, source, teacher, bits=bits, hashing=hashing)
        # Where it lies and what it runs on are the student's: they change no result.
        taught_by = replace(taught_by, root=None, device="auto", workers=0)
        yield Run(StudentConfig(**vars(config), taught_by=taught_by), source, row, column)


def teacher_config(
    plan: Plan,
    source: Source,
    teacher: str = "",
    *,
    bits: int,
    hashing: str = "cibhash",
    seed: int = MODEL_SEED,
) -> TrainConfig:
    """Settings of a teacher, called as in `student_runs`."""
    name = teacher or next(iter(networks(source).teachers.values()))
    if not source.stands_in:  # which has one preset for all losses
        name += f"-{hashing}"
    preset = f"004/{name}-{_data(source)}"
    return _config(plan, source, preset, seed=seed, method=hashing, bits=bits)


def student_config(plan: Plan, source: Source, *, bits: int, seed: int) -> TrainConfig:
    """Settings of a student without a teacher."""
    return _config(plan, source, f"004/student-{_data(source)}", seed=seed, bits=bits)


def _data(source: Source) -> str:
    """The data's name in presets."""
    if source.stands_in:
        return STAND_IN
    return next(name for name, protocol in DATA.items() if protocol == source.name)


def _config(plan: Plan, source: Source, name: str, **changes: Any) -> Any:
    """Settings of a preset with some of them, and the number of epochs, changed as asked."""
    preset = find_preset(name)
    epochs = plan.scaled(preset.settings["epochs"]) if plan.epochs is None else plan.epochs
    return preset.config(**{**plan.machine(source), **changes, "epochs": epochs})
